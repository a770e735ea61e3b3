"""Work that goes on beside everything else. Its failure is logged, counted, and not its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from llm_router.events import BackgroundFailed, BackgroundTask, EventStream

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds until work that failed is started again: twice as many each time, until it has run for
the longest of them."""

log = logging.getLogger(__name__)

Work = Callable[[], Awaitable[None]]


@asynccontextmanager
async def in_background(
    name: BackgroundTask, work: Work, events: EventStream
) -> AsyncIterator[None]:
    """Keep ``work`` running in a task for as long as the block runs; it is gone when this
    returns."""
    task = asyncio.create_task(keep_running(name, work, events))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def keep_running(name: BackgroundTask, work: Work, events: EventStream) -> None:
    """Run ``work`` until it returns or is cancelled; start it again when it fails."""
    pause = FIRST_PAUSE
    while True:
        began = time.monotonic()
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - `report_failure` logs it
            if time.monotonic() - began > LONGEST_PAUSE:
                pause = FIRST_PAUSE
            report_failure(name, events, error, f"it is started again in {pause:g} s")
        else:
            return
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


async def run_once(name: BackgroundTask, work: Work, events: EventStream) -> None:
    """Run ``work``, of which nobody awaits the result."""
    try:
        await work()
    except Exception as error:  # noqa: BLE001 - `report_failure` logs it
        report_failure(name, events, error, "the router goes on without its result")


def report_failure(
    name: BackgroundTask, events: EventStream, error: Exception, consequence: str
) -> None:
    """Log and count a fault of the router in work that has no caller."""
    log.error("the background task '%s' failed; %s", name, consequence, exc_info=error)
    events.publish(BackgroundFailed(name, repr(error)))
