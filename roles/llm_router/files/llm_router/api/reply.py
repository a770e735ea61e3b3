"""One ASGI answer: headers once, then a body, then its end. And one request body, bounded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

from llm_router.api.body_budget import HeldBody
from llm_router.api.dialects import OPENAI, Dialect
from llm_router.api.errors import ApiError
from llm_router.api.wire import to_json
from llm_router.http_protocol import Line

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[str, str]]
"""Names in lower case."""

_EVENTS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


class ClientGone(Exception):
    """The client hung up before it had sent its request."""


class Reply:
    """The answer to one request; ``status`` is 0 until it has begun. Nothing here waits."""

    def __init__(self, line: Line, dialect: Dialect = OPENAI, identity: str = "") -> None:
        self._line = line
        self._own = (b"x-request-id", identity.encode())
        """What every answer has: the request's id, as in the log."""
        self._dialect = dialect
        self.status = 0
        self.ended = False
        self.said_done = False
        """Whether the stream's own end is out: no error may follow it."""
        self.passing = False
        """Whether the body is the engine's alone: an error can only break it off."""
        self.broken: int | None = None
        """The status of the error that broke it off."""
        self.failed: int | None = None
        """The status of the error that the client was told of, in the answer or as the answer."""
        self.error: str | None = None
        """That error's code."""
        self._events = False

    @property
    def started(self) -> bool:
        """Whether the status line is out: from then on an error can only go into the body."""
        return self.status != 0

    def engine_told(self, status: int, code: str) -> None:
        """The engine has told of an error in the stream: the request has failed."""
        if self.failed is None:
            self.failed, self.error = status, code

    def start(self, status: int, headers: Headers) -> None:
        """Send status and headers."""
        self.status = status
        self._line.start(status, [self._own, *_encoded(headers)])

    def start_events(self, headers: Headers = ()) -> None:
        """Begin an event stream that no proxy on the way may hold back."""
        self._events = True
        self.status = 200
        self._line.start(200, [*_EVENTS, self._own, *_encoded(headers)])

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        self._line.write(data)

    def end(self, data: bytes = b"") -> None:
        """Send the last piece."""
        self.ended = True
        self._line.end(data)

    def whole(self, status: int, data: bytes, headers: Headers) -> None:
        """Send a whole answer."""
        self.status = status
        self.ended = True
        self._line.start(status, [self._own, *_encoded(headers)], data)

    def fail(self, error: ApiError) -> None:
        """The error as an answer of its own, or as the stream's last event and its end."""
        if self.ended:
            return
        if not self.said_done:
            self.failed, self.error = error.status, error.code
        if self.said_done:
            self.end()
        elif self._events:
            self.end(self._dialect.error_event(error))
        elif self.passing:
            # an end would make half an answer look whole; the server closes the connection
            self.broken = error.status
        elif self.started:
            self.end(to_json(self._dialect.error_body(error)))
        else:
            headers = [("content-type", "application/json"), *error.headers.items()]
            self.whole(error.status, to_json(self._dialect.error_body(error)), headers)


def _encoded(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers]


def announced_size(headers: Mapping[str, str]) -> int:
    """The bytes that a request's head announces; 0 where it does not."""
    given = headers.get("content-length", "")
    return int(given) if given.isdecimal() else 0


async def read_body(
    line: Line,
    *,
    limit: int,
    idle: float,
    total: float,
    announced: int = 0,
    held: HeldBody | None = None,
) -> bytearray:
    """The whole request body; ``held`` counts its bytes as they come.

    Raises `ApiError` 413 for more than ``limit`` bytes, 408 when nothing comes for ``idle`` seconds
    or not all of it within ``total``, 503 when too much is held already; `ClientGone`.
    """
    if announced > limit:
        raise _too_large(limit)
    reading = _Reading(line, limit, held)
    whole = line.body()
    if whole is not None:
        reading.add(len(whole))
        return whole
    loop = asyncio.get_running_loop()
    until = loop.time() + total
    try:
        line.collect(reading.on_part)
        while True:
            left = min(reading.last + idle, until) - loop.time()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(line.changed(), max(0.0, left))
            if reading.error is not None:
                raise reading.error
            if line.gone:
                raise ClientGone
            whole = line.body()
            if whole is not None:
                return whole
            now = loop.time()
            if now >= until:
                what = f"The request's body did not come within {total:g} s."
                raise ApiError(408, "request_timeout", what)
            if now >= reading.last + idle:
                what = f"Nothing of the request's body came for {idle:g} s."
                raise ApiError(408, "request_timeout", what)
    finally:
        line.stop()


class _Reading:
    """A body that comes. Its parts wake up nobody: a large one has thousands."""

    def __init__(self, line: Line, limit: int, held: HeldBody | None) -> None:
        self._line = line
        self._limit = limit
        self._held = held
        self._size = 0
        self._clock = asyncio.get_running_loop().time
        self.last = self._clock()
        """When a part came."""
        self.error: ApiError | None = None

    def add(self, size: int) -> None:
        """Raises `ApiError`."""
        self._size += size
        if self._size > self._limit:
            raise _too_large(self._limit)
        if self._held is not None and size:
            self._held.add(size)

    def on_part(self, size: int) -> None:
        """For `Line.collect`."""
        self.last = self._clock()
        try:
            self.add(size)
        except ApiError as error:
            self.error = error
            self._line.stop()
            self._line.wake()


def _too_large(limit: int) -> ApiError:
    return ApiError(413, "request_too_large", f"The request is larger than {limit} bytes.")
