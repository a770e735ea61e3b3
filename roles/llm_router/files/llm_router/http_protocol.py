"""Uvicorn's HTTP/1.1 by httptools, with bounds of its own and a `Line` to each client.

Uvicorn bounds the time between two requests of a connection. This protocol also bounds what a
connection costs before its caller is known:

* a head: its time, its size and its number of fields (431);
* what is in a chunked body beside its data, which is chunk extensions and trailers (400). Trailers
  are dropped: uvicorn would add them to the request's headers, where they would override a key;
* requests that are sent ahead of their answers (pipelining);
* connections (503), with a few more for health checks.

A request that offers to change the protocol (`Upgrade:`) is served as plain HTTP/1.1: httptools
would take its body for the other protocol's data, and uvicorn would read that as requests.

An answer that comes before the request's body has ended ends the connection. What the client still
sends is read and discarded for a moment: a reset could destroy the answer on its way.

A `Line` is what ASGI has not got, and the hot path needs: a piece of an answer is written without
being awaited, and who leaves, takes no more or takes more again is told at once, so that a request
is one task.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from llm_router.json_codec import json_text

LINE = "llm_router.line"
"""The key of a request's `Line` in its ASGI scope."""
MAX_HEAD = 32 * 1024
"""Bytes of a request's head."""
MAX_FIELDS = 100
"""Header fields of a request."""
MAX_TRAILERS = 8 * 1024
"""Bytes of a chunked body's trailers, and of anything else between two pieces of its data."""
MAX_PIPELINED = 2
"""Requests of one connection that wait for the answer to the one before them."""
HEALTH_RESERVE = 64
"""Connections beyond the bound: they may ask for ``/health``, everything else is refused."""
RESERVE_HEADER_TIMEOUT = 2.0
"""Seconds in which such a connection must have sent its request."""
READ_AT_ONCE = 64 * 1024
"""Bytes; asyncio would read four times as many, and keep them until the request's turn comes."""
LINGER_TIME = 2.0
"""Seconds for which the rest of a refused request is discarded."""
LINGER_BYTES = 256 * 1024
"""Bytes of it that are discarded; then nothing more is read."""
LOG_INTERVAL = 10.0
"""Seconds between two log lines about refused connections."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bounds:
    """What connections may cost. ``header_timeout`` is in seconds."""

    header_timeout: float
    max_connections: int = 30_000


class _Refused(Exception):
    """A request that is refused while it is parsed."""

    def __init__(
        self, status: int, code: str, message: str, *, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after


def _refusal(error: httptools.HttpParserError) -> _Refused:
    """Why the parser stopped. Not kept in a variable where the parser is called: the traceback
    leads back there, and both would be garbage that only a search finds."""
    known = error.__context__
    if isinstance(known, _Refused):
        return known
    return _Refused(400, "invalid_http", "This is not a valid HTTP request.")


def _error_response(error: _Refused, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The whole answer, in OpenAI's shape."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    told = {"message": str(error), "type": kind, "param": None, "code": error.code}
    body = json_text({"error": told}, separators=(",", ":")).encode()
    headers = [
        *default_headers,
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return STATUS_LINE[error.status] + lines + b"\r\n" + body


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
        self._on_part: Callable[[int], None] | None = None

    def attach(self) -> None:
        """From now on this answer is told what becomes of its client."""
        self._protocol.line = self

    def lost(self) -> None:
        """The connection is gone."""
        self._cycle.disconnected = True
        if self.on_gone is not None:
            self.on_gone()

    def add(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Have these headers in the answer, whoever makes it."""
        self._cycle.default_headers = [*self._cycle.default_headers, *headers]

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        return bool(self._cycle.disconnected or self._protocol.transport.is_closing())

    @property
    def full(self) -> bool:
        """Whether the client takes no more for now."""
        return bool(self._protocol.flow.write_paused)

    def body(self) -> bytearray | None:
        """The whole body of the request, if all of it is here already."""
        cycle = self._cycle
        if cycle.more_body or cycle.waiting_for_100_continue:
            return None
        whole, cycle.body = cycle.body, bytearray()
        return whole

    def collect(self, on_part: Callable[[int], None]) -> None:
        """Have the body put together as it comes, until `body` has all of it or `stop` is called.

        ``on_part`` is given the bytes that came: at once, and with each part.
        """
        cycle = self._cycle
        if cycle.waiting_for_100_continue and not self._protocol.transport.is_closing():
            self._protocol.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False
        if cycle.more_body and not cycle.disconnected:
            cycle.message_event.clear()
        self._on_part, self._protocol.collecting = on_part, self
        self._protocol.flow.resume_reading()
        on_part(len(cycle.body))

    def stop(self) -> None:
        """Collect no more: the connection is read only a little further."""
        self._on_part = None  # whoever reads the body holds this line: no cycle is left
        if self._protocol.collecting is self:
            self._protocol.collecting = None

    def came(self, cycle: RequestResponseCycle, part: bytes) -> bool:
        """Take a part of the body of ``cycle``; whether it belongs to this request."""
        if cycle is not self._cycle or cycle.response_complete or self._on_part is None:
            return False
        cycle.body += part  # grows in place: the only copy that is made of it here
        self._on_part(len(part))
        return True

    async def changed(self) -> None:
        """Until the body has ended, the client has left, or `wake` is called."""
        await self._cycle.message_event.wait()

    def wake(self) -> None:
        """End `changed`."""
        self._cycle.message_event.set()

    def start(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes | None = None
    ) -> None:
        """Send status and headers; with a ``body`` that is all."""
        cycle = self._cycle
        method, version = cycle.scope["method"], cycle.scope["http_version"]
        parts = [STATUS_LINE[status]]
        for name, value in (*cycle.default_headers, *headers):
            if status == 204 and name == b"content-length":
                continue  # RFC 9110, section 8.6
            parts += (name, b": ", value, b"\r\n")
            if name == b"content-length":
                self._left = int(value)
        if body is not None and status != 204:
            self._left = len(body)
            parts.append(b"content-length: %d\r\n" % self._left)
        self._silent = method == "HEAD" or status in (204, 304)
        if cycle.more_body:
            cycle.keep_alive = False  # the rest of the request is not read
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
        if cycle.more_body:
            self._protocol.linger()
        elif not cycle.keep_alive or (self._left and not self._silent):
            transport.close()
        self._protocol.line = None
        cycle.on_response()


def bounded(bounds: Bounds) -> type[HttpToolsProtocol]:
    """The protocol's class, for one server. Connections over a Unix socket are not counted."""
    counted: set[Any] = set()
    reserve: dict[Any, None] = {}  # in the order in which they came
    last_log = float("-inf")

    def report_full(now: float) -> None:
        nonlocal last_log
        if now - last_log >= LOG_INTERVAL:
            last_log = now
            log.warning(
                "%d connections are open (requests.max_connections, LimitNOFILE): further ones "
                "get 503",
                len(counted),
            )

    class Protocol(HttpToolsProtocol):
        line: Line | None = None
        """The answer that is on its way, if it goes by a line."""
        collecting: Line | None = None
        """The request whose body is put together as it comes."""
        _head_timer: asyncio.TimerHandle | None = None
        _linger_timer: asyncio.TimerHandle | None = None
        _in_head = False
        _head_size = 0
        """Bytes of the head's fields that are parsed."""
        _head_read = 0
        """Bytes of reads that held nothing but the head."""
        _in_body = False
        _gap = 0
        """Bytes of reads since a body's last piece of data."""
        _trailers = 0
        """Bytes of a body's trailers that are parsed."""
        _answering: Any = None
        """The request that is being answered, or was last."""
        _begun = 0
        """Requests that began in this read."""
        _got_data = False
        """Whether this read held data of a body."""
        _replaying = False
        """Whether a head is parsed once more, only for how its body is framed."""
        _discarding = False
        """Whether what comes is discarded."""
        _discarded = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.max_size = READ_AT_ONCE
            if self.server is not None and self.server[1] is None:
                pass
            elif len(counted) < bounds.max_connections:
                counted.add(self)
            else:
                reserve[self] = None
                report_full(self.loop.time())
                if len(reserve) > HEALTH_RESERVE:
                    # a health check sends its request at once: the oldest is none
                    next(iter(reserve)).transport.abort()
            self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            counted.discard(self)
            reserve.pop(self, None)
            self._stop_waiting()
            if self._linger_timer is not None:
                self._linger_timer.cancel()
            super().connection_lost(exc)
            line, self.line = self.line, None
            if line is not None:
                line.lost()

        def data_received(self, data: bytes) -> None:
            if self._discarding:
                self._discarded += len(data)
                if self._discarded > LINGER_BYTES:
                    self.flow.pause_reading()
                return
            self._unset_keepalive_if_required()
            idle = not self._in_head and not self._in_body
            all_head = self._in_head
            self._begun, self._got_data = 0, False
            try:
                self._parse(data)
                # reads of nothing but a head, and of nothing that is data, count as they come:
                # the parser tells of a field when all of it is here
                if self._in_head and (all_head or (idle and self._begun == 1)):
                    self._head_read += len(data)
                    self._check_head(self._head_read)
                if self._in_body and not self._got_data and not self._begun:
                    self._gap += len(data)
                    self._check_gap(self._gap)
            except _Refused as error:
                self._refuse(error)
                return
            except httptools.HttpParserError as error:
                self._refuse(_refusal(error))
                return
            cycle: Any = self.cycle  # None before the first request, whatever its type says
            if cycle is not None and not cycle.response_complete:
                self._stop_waiting()
            elif self._head_timer is None and not self._discarding:
                self._wait_for_head()

        def _parse(self, data: bytes) -> None:
            while True:
                try:
                    self.parser.feed_data(data)
                except httptools.HttpParserUpgrade as error:
                    data = data[error.args[0] :]
                    self._go_on_with_http()
                else:
                    return

        def _go_on_with_http(self) -> None:
            """Have the body of a request with ``Upgrade:`` read as any other's, by a parser that
            has seen the head without it."""
            lines = [self.parser.get_method() + b" / HTTP/1.1\r\n"]
            framing = (b"content-length", b"transfer-encoding")
            lines += [b"%b: %b\r\n" % field for field in self.headers if field[0] in framing]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self._replaying = True
            self.parser.feed_data(b"".join(lines) + b"\r\n")

        def on_message_begin(self) -> None:
            if self._replaying:
                return
            if len(self.pipeline) >= MAX_PIPELINED:
                raise _Refused(400, "too_many_pipelined", "Too many requests were sent ahead.")
            super().on_message_begin()
            self._begun += 1
            self._in_head, self._head_size, self._head_read = True, 0, 0

        def on_url(self, url: bytes) -> None:
            if not self._replaying:
                self._count(len(url))
                super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._replaying:
                return
            if not self._in_head:  # a trailer: nothing here has a use for one
                self._trailers += len(name) + len(value) + 4
                self._check_gap(self._trailers)
                return
            self._count(len(name) + len(value) + 4)
            if len(self.headers) >= MAX_FIELDS:
                raise _Refused(
                    431,
                    "head_too_large",
                    f"The request has more than {MAX_FIELDS} header fields.",
                )
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            if self._replaying:
                self._replaying = False
                return
            self._in_head, self._in_body = False, True
            self._gap = self._trailers = 0
            hosts = sum(name == b"host" for name, _ in self.headers)
            if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
                raise _Refused(400, "invalid_http", "A request must have exactly one Host header.")
            if self in reserve and not self._asks_for_health():
                raise _Refused(
                    503,
                    "too_many_connections",
                    f"The router has {len(counted)} connections and takes no more "
                    "(requests.max_connections); try again in a moment.",
                    retry_after=1,
                )
            super().on_headers_complete()
            if self in reserve:
                self.cycle.keep_alive = False
            scope: Any = self.scope
            scope[LINE] = Line(self, self.cycle)

        def on_body(self, body: bytes) -> None:
            self._got_data, self._gap = True, 0
            if self.collecting is None or not self.collecting.came(self.cycle, body):
                super().on_body(body)

        def on_message_complete(self) -> None:
            if self.parser.should_upgrade():
                return  # that was its head; see `_go_on_with_http`
            self._in_body = False
            super().on_message_complete()

        def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
            self._answering = cycle
            super()._start_asgi_task(cycle, app)

        def on_response_complete(self) -> None:
            # with requests waiting behind it, the body of this one has ended
            if not self.pipeline and self.cycle.more_body and not self.transport.is_closing():
                self.server_state.total_requests += 1
                self.linger()
                return
            super().on_response_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            if self.line is not None and self.line.on_full is not None:
                self.line.on_full()

        def resume_writing(self) -> None:
            super().resume_writing()
            if self.line is not None and self.line.on_room is not None:
                self.line.on_room()

        def linger(self) -> None:
            """Close the connection once the client has had the time to read its answer."""
            if self._discarding or self.transport.is_closing():
                return
            self._discarding = True
            self._stop_waiting()
            self._unset_keepalive_if_required()
            self.flow.resume_reading()
            try:
                self.transport.write_eof()
            except OSError:  # it has gone already
                self.transport.close()
                return
            self._linger_timer = self.loop.call_later(LINGER_TIME, self.transport.close)

        def _count(self, size: int) -> None:
            self._head_size += size
            self._check_head(self._head_size)

        def _check_head(self, size: int) -> None:
            if size > MAX_HEAD:
                raise _Refused(
                    431,
                    "head_too_large",
                    f"The head of the request is larger than {MAX_HEAD} bytes.",
                )

        def _check_gap(self, size: int) -> None:
            if size > MAX_TRAILERS:
                raise _Refused(
                    400,
                    "trailers_too_large",
                    "The request has more than "
                    f"{MAX_TRAILERS} bytes of trailers or chunk extensions.",
                )

        def _asks_for_health(self) -> bool:
            path = self.url.partition(b"?")[0]
            return path == b"/health" and self.parser.get_method() in (b"GET", b"HEAD")

        def _refuse(self, error: _Refused) -> None:
            """End the connection; requests that came whole before this one are answered first."""
            if self.transport.is_closing():
                return
            broken: Any = self.cycle
            if self.pipeline and broken.more_body:
                self.pipeline.popleft()
            last = self.pipeline[0][0] if self.pipeline else self._answering
            if last is not None and not last.response_complete and not last.more_body:
                last.keep_alive = False
                self._discarding = True
                self.flow.resume_reading()
                return
            if last is not None and not last.response_complete:
                last.disconnected = True
                last.waiting_for_100_continue = False
                last.message_event.set()
                line, self.line = self.line, None
                if line is not None:
                    line.lost()
            if last is None or not last.response_started or last.response_complete:
                self.transport.write(_error_response(error, self.server_state.default_headers))
            self.linger()

        def _wait_for_head(self) -> None:
            seconds = bounds.header_timeout
            if self in reserve:
                seconds = min(seconds, RESERVE_HEADER_TIMEOUT)
            self._head_timer = self.loop.call_later(seconds, self.transport.close)

        def _stop_waiting(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

    return Protocol
