"""Uvicorn's HTTP/1.1 by httptools, with two bounds of its own and a `Line` to each client.

Uvicorn bounds the time between two requests of a connection, but not that of the first one, nor of
a head that comes a byte at a time, nor a head's size: a few thousand such connections would use up
all files, a few of them all memory.

A `Line` is what ASGI has not got, and the hot path needs: a piece of an answer is written without
being awaited, and who leaves, takes no more or takes more again is told at once, so that a request
is one task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

LINE = "llm_router.line"
"""The key of a request's `Line` in its ASGI scope."""
LONGEST_HEAD = 64 * 1024


class Line:
    """The way of one answer to its client; `attach` first. One at a time has the connection."""

    def __init__(self, protocol: Any, cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = cycle
        self._chunked = False
        self._silent = False
        self._left: int | None = None
        self._held = b""
        self._holds = False
        self.on_gone: Callable[[], object] | None = None
        """Called when the client has left."""
        self.on_full: Callable[[], None] | None = None
        """Called when it takes no more for now; what is written is kept for it all the same."""
        self.on_room: Callable[[], None] | None = None
        """Called when it takes more again."""

    def attach(self) -> None:
        """From now on this answer is told what becomes of its client."""
        self._protocol.line = self

    def lost(self) -> None:
        """The connection is gone."""
        self._cycle.disconnected = True
        if self.on_gone is not None:
            self.on_gone()

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        return bool(self._cycle.disconnected or self._protocol.transport.is_closing())

    @property
    def full(self) -> bool:
        """Whether the client takes no more for now."""
        return bool(self._protocol.flow.write_paused)

    def body(self) -> bytes | None:
        """The whole body of the request, if all of it is here already."""
        cycle = self._cycle
        if cycle.more_body or cycle.waiting_for_100_continue:
            return None
        whole, cycle.body = bytes(cycle.body), bytearray()
        return whole

    def start(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes | None = None
    ) -> None:
        """Send status and headers; with a ``body`` that is all."""
        cycle = self._cycle
        method, version = cycle.scope["method"], cycle.scope["http_version"]
        parts = [STATUS_LINE[status]]
        for name, value in (*cycle.default_headers, *headers):
            parts += (name, b": ", value, b"\r\n")
            if name == b"content-length":
                self._left = int(value)
        if body is not None:
            self._left = len(body)
            parts.append(b"content-length: %d\r\n" % self._left)
        self._silent = method == "HEAD" or status in (204, 304)
        if self._silent or self._left is not None:
            pass
        elif version == "1.1":
            self._chunked = True
            parts.append(b"transfer-encoding: chunked\r\n")
        else:
            cycle.keep_alive = False  # its end is the connection's
        if not cycle.keep_alive:
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        if body is not None and not self._silent:
            self._left = 0
            parts.append(body)
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        if not self.gone:
            self._send(b"".join(parts))
        if body is not None:
            self.end()

    def hold(self) -> None:
        """What is sent next goes out with what comes after it, or with `flush`: each by itself
        would be a packet, and a call of the kernel."""
        self._holds = True

    def flush(self) -> None:
        """Send what is held."""
        self._holds = False
        if self._held:
            self._send(b"")

    def _send(self, data: bytes) -> None:
        whole, self._held = self._held + data, b""
        if self._holds:
            self._held, self._holds = whole, False
        else:
            self._protocol.transport.write(whole)

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        if self._silent or not data or self._cycle.disconnected:
            return
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        elif self._left is not None:
            self._left -= len(data)
        if self._holds or self._held:
            self._send(data)
        else:
            self._protocol.transport.write(data)

    def end(self, data: bytes = b"") -> None:
        """Send the last piece. The connection is closed where that has to tell the end."""
        self._holds = self._chunked
        self.write(data)
        cycle, transport = self._cycle, self._protocol.transport
        if cycle.disconnected:
            return
        self._holds = False
        if self._chunked:
            self._send(b"0\r\n\r\n")
        self.flush()
        cycle.response_complete = True
        cycle.message_event.set()
        # half of what was announced must not look whole
        if not cycle.keep_alive or (self._left and not self._silent):
            transport.close()
        self._protocol.line = None
        cycle.on_response()


def bounded(header_timeout: float) -> type[HttpToolsProtocol]:
    """The protocol's class; a connection whose request head takes longer is closed, as is one
    whose head is longer than `LONGEST_HEAD`."""

    class Protocol(HttpToolsProtocol):
        _head_timer: asyncio.TimerHandle | None = None
        _head_size = 0
        _in_head = False
        line: Line | None = None
        """The answer that is on its way, if it goes by a line."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)
            line, self.line = self.line, None
            if line is not None:
                line.lost()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            cycle: Any = self.cycle  # None before the first request, whatever its type says
            if cycle is not None and not cycle.response_complete:
                self._stop_waiting()
            elif self._head_timer is None:
                self._wait_for_head()
            if self._in_head:
                self._head_size += len(data)
                if self._head_size > LONGEST_HEAD and not self.transport.is_closing():
                    self.send_400_response("The head of the request is too long.")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_head, self._head_size = True, 0

        def on_headers_complete(self) -> None:
            self._in_head = False
            super().on_headers_complete()
            scope: Any = self.scope
            scope[LINE] = Line(self, self.cycle)

        def pause_writing(self) -> None:
            super().pause_writing()
            if self.line is not None and self.line.on_full is not None:
                self.line.on_full()

        def resume_writing(self) -> None:
            super().resume_writing()
            if self.line is not None and self.line.on_room is not None:
                self.line.on_room()

        def _wait_for_head(self) -> None:
            self._head_timer = self.loop.call_later(header_timeout, self.transport.close)

        def _stop_waiting(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

    return Protocol
