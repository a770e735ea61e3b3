"""How many requests that FastAPI serves begin in one turn of the event loop.

Such a request takes about a millisecond of processor time. Hundreds of them that are ready together
would hold up every stream, and everything else, until the last is served. What is proxied does not
come through here.
"""

from __future__ import annotations

import asyncio
from collections import deque

AT_ONCE = 4
"""Requests that begin in one turn."""


class TurnGate:
    """Lets `AT_ONCE` requests pass in each turn, those of callers with a key first."""

    def __init__(self) -> None:
        self._passed = 0
        """Requests that passed in this turn."""
        self._known: deque[asyncio.Future[None]] = deque()
        self._strangers: deque[asyncio.Future[None]] = deque()

    async def enter(self, *, known: bool) -> None:
        """Return when the request may begin. ``known``: its caller has a key."""
        loop = asyncio.get_running_loop()
        if self._passed < AT_ONCE:  # nobody waits: a new turn begins with those that do
            self._passed += 1
            if self._passed == 1:
                loop.call_soon(self._next_turn)
            return
        turn = loop.create_future()
        (self._known if known else self._strangers).append(turn)
        await turn

    def _next_turn(self) -> None:
        self._passed = 0
        while self._passed < AT_ONCE and (queue := self._known or self._strangers):
            turn = queue.popleft()
            if not turn.done():  # cancelled
                turn.set_result(None)
                self._passed += 1
        if self._passed:
            asyncio.get_running_loop().call_soon(self._next_turn)
