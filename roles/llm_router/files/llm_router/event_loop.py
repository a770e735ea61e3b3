"""The event loop, with a bound on what it takes on in one turn, and on its turns a second.

asyncio handles everything that is ready before it looks at anything else, timers included. When a
thousand clients send their requests at once, that is half a second in which no running answer gets
its next token. epoll hands out what is ready in turn, so nobody is passed over.

And asyncio looks for news after each round of its work, though more work is ready. A request is a
few rounds, one right after the other: what was looked at a moment ago is not looked at again.

And it looks as soon as it has done its work. Where many streams flow faster than
anyone reads, it finds one event of one stream each time, and its cost is by the turn and the read.
So it looks less often then, as a network card that has much to tell interrupts less often: what has
come meanwhile goes on together. That saves nothing where many streams have a token now and then: it
does so only while the same sockets are ready again and again.
"""

from __future__ import annotations

import asyncio
import math
import os
import select
import selectors
import time

MOST = 100
"""Sockets that are looked at in one turn."""
CROWD = 8
"""So many sockets that were ready together make a turn a busy one."""
APART = 0.004
"""Seconds between two looks for news after a busy turn. Nobody sees a token that is late by this:
250 tokens a second on each stream come one by one still."""
SOON = 4 * APART
"""Sockets that are ready again within so many seconds, `CROWD` of them, make the next look late."""

FRESH = 0.0002
"""Seconds for which a look is enough while there is work."""


class FewAtOnce(selectors.EpollSelector):
    """The standard library's epoll selector; `select` returns `MOST` sockets at most."""

    def __init__(self) -> None:
        super().__init__()
        self._same = select.epoll.fromfd(os.dup(self.fileno()))
        self._next = 0.0
        """Not before this moment is looked for news, unless there is work already."""
        self._stale = 0.0
        """Until this moment the last look is enough, if there is work."""
        self._last: dict[int, float] = {}
        """When a descriptor was ready in a crowd."""

    def close(self) -> None:
        """Safe to repeat."""
        self._same.close()
        super().close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready: see `selectors.BaseSelector.select`."""
        if timeout == 0 and time.monotonic() < self._stale:
            return []
        if self._next:
            early = self._next - time.monotonic()
            if timeout != 0 and early > 0:
                time.sleep(early if timeout is None else min(early, timeout))
            self._next = 0.0
        ready = self._ready(timeout)
        now = time.monotonic()
        self._stale = now + FRESH
        if len(ready) >= CROWD and self._again(ready, now) >= CROWD:
            self._next = now + APART
        return ready

    def _again(self, ready: list[tuple[selectors.SelectorKey, int]], now: float) -> int:
        """How many of these were ready a moment ago."""
        last, since = self._last, now - SOON
        again = 0
        for key, _ in ready:
            again += last.get(key.fd, 0.0) > since
            last[key.fd] = now
        return again

    def _ready(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        registered = self.get_map()
        if len(registered) <= MOST:
            return super().select(timeout)
        # in whole milliseconds, never less than was asked for
        seconds = -1.0 if timeout is None else max(0.0, math.ceil(timeout * 1e3) * 1e-3)
        ready = []
        for descriptor, bits in self._same.poll(seconds, MOST):
            key = registered.get(descriptor)
            if key is not None:
                # a socket that broke is ready for both, so that whoever waits for either learns it
                events = selectors.EVENT_WRITE if bits & ~select.EPOLLIN else 0
                events |= selectors.EVENT_READ if bits & ~select.EPOLLOUT else 0
                ready.append((key, events & key.events))
        return ready


def new() -> asyncio.SelectorEventLoop:
    """An event loop for the router's process."""
    return asyncio.SelectorEventLoop(FewAtOnce())
