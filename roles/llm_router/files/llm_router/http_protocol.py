"""uvicorn's HTTP/1.1, with a bound on how long the head of a request may take to come.

uvicorn itself bounds the time between two requests of a connection, but not that of the first one,
nor of a head that comes a byte at a time: a few thousand such connections would use up all files.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def bounded(header_timeout: float) -> type[H11Protocol]:
    """The protocol's class; a connection whose request head takes longer is closed."""

    class Protocol(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            cycle: Any = self.cycle  # None before the first request, whatever its type says
            if cycle is not None and not cycle.response_complete:
                self._stop_waiting()
            elif self._head_timer is None:
                self._wait_for_head()

        def _wait_for_head(self) -> None:
            self._head_timer = self.loop.call_later(header_timeout, self.transport.close)

        def _stop_waiting(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

    return Protocol
