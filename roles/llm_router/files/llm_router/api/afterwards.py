"""What is done when nobody waits for it: taking note of a request that has ended.

A client that asks again and again, as an agent does, has its next request sent before the notes of
the last one are taken, and would wait for them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from llm_router.background import report_failure
from llm_router.events import EventStream

LATER = 0.001
"""Seconds."""
AT_ONCE = 20
"""Notes in one turn of the event loop: ten thousand clients that leave hold up nobody."""


class Afterwards:
    """Calls what it is given, in that order, a moment later, or with `now`."""

    def __init__(self, events: EventStream | None = None) -> None:
        self._events = events or EventStream()
        self._left: deque[Callable[[], object]] = deque()
        self._due: asyncio.TimerHandle | None = None

    def do(self, call: Callable[[], object]) -> None:
        """Have it called. What it raises is logged and counted."""
        self._left.append(call)
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(LATER, self._some)

    def now(self) -> None:
        """Do all that is left."""
        while self._left:
            self._next()

    def _some(self) -> None:
        self._due = None
        for _ in range(min(AT_ONCE, len(self._left))):
            self._next()
        if self._left:
            self._due = asyncio.get_running_loop().call_later(0, self._some)

    def _next(self) -> None:
        call = self._left.popleft()
        try:
            call()
        except Exception as error:  # noqa: BLE001 - `report_failure` logs it
            report_failure("notes", self._events, error, "a request's end could not be noted")
