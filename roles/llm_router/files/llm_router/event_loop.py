"""The event loop, with a bound on what it takes on in one turn.

asyncio handles everything that is ready before it looks at anything else, timers included. When a
thousand clients send their requests at once, that is half a second in which no running answer gets
its next token. epoll hands out what is ready in turn, so nobody is passed over.
"""

from __future__ import annotations

import asyncio
import math
import os
import select
import selectors

MOST = 100
"""Sockets that are looked at in one turn."""


class FewAtOnce(selectors.EpollSelector):
    """The standard library's epoll selector; `select` returns `MOST` sockets at most."""

    def __init__(self) -> None:
        super().__init__()
        self._same = select.epoll.fromfd(os.dup(self.fileno()))

    def close(self) -> None:
        """Safe to repeat."""
        self._same.close()
        super().close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready: see `selectors.BaseSelector.select`."""
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
