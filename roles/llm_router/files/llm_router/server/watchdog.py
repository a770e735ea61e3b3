"""systemd's notify protocol and its watchdog (sd_notify(3), sd_watchdog_enabled(3)).

A unit with ``WatchdogSec=`` is killed and restarted when it sends no ``WATCHDOG=1`` for so long.
`keep_alive` sends it from the event loop, so a loop that is blocked is noticed. A thread that
sends it would stay alive beside a blocked loop.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import socket
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

SENT_PER_LIMIT = 4
"""Notifications that are sent within the limit: one or two of them may come late."""


def notify(state: str) -> None:
    """Send one datagram to systemd, where systemd asked for it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        # systemd reads it at its own pace; this must not block the loop that it reports on
        client.setblocking(False)
        try:
            client.sendto(state.encode(), address)
        except OSError as error:
            log.warning("cannot send %s to systemd: %s", state, error)


def interval() -> float | None:
    """Seconds between notifications; None where systemd expects none from this process."""
    try:
        limit = int(os.environ["WATCHDOG_USEC"])
        process = int(os.environ.get("WATCHDOG_PID", os.getpid()))
    except (KeyError, ValueError):
        return None
    if limit <= 0 or process != os.getpid():
        return None
    return limit / 1_000_000 / SENT_PER_LIMIT


async def keep_alive(able: Callable[[], Awaitable[bool]] | None = None) -> None:
    """Notify systemd until this is cancelled; return at once where it expects nothing.

    ``able`` is awaited before each notification. Nothing is sent while it is False, raises or
    does not return: the process runs, but cannot do its work.
    """
    pause = interval()
    if pause is None:
        return
    # systemd ends a silent process by SIGABRT: then its journal says where every thread is
    faulthandler.enable()
    while True:
        if able is None or await _is(able):
            notify("WATCHDOG=1")
        await asyncio.sleep(pause)


async def _is(able: Callable[[], Awaitable[bool]]) -> bool:
    try:
        return await able()
    except Exception:
        log.exception("the check of this process failed; systemd restarts it if that goes on")
        return False
