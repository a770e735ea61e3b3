"""One ASGI answer: headers once, then a body, then its end. And one request body, bounded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import anyio

from llm_router.api.dialects import OPENAI, Dialect
from llm_router.api.errors import ApiError
from llm_router.api.wire import to_json

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[str, str]]


class ClientGone(Exception):
    """The client hung up before it had sent its request."""


class Reply:
    """The answer to one request; ``status`` is 0 until it has begun."""

    def __init__(self, send: Send, dialect: Dialect = OPENAI) -> None:
        self._send = send
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
        self._events = False

    @property
    def started(self) -> bool:
        """Whether the status line is out: from then on an error can only go into the body."""
        return self.status != 0

    async def start(self, status: int, headers: Headers) -> None:
        """Send status and headers."""
        self.status = status
        raw = [
            (name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def start_events(self, headers: Headers = ()) -> None:
        """Begin an event stream that no proxy on the way may hold back."""
        own = [
            ("content-type", "text/event-stream; charset=utf-8"),
            ("cache-control", "no-cache"),
            ("x-accel-buffering", "no"),
        ]
        self._events = True
        await self.start(200, [*own, *headers])

    async def write(self, data: bytes) -> None:
        """Send a piece of the body; returns when the client's buffer takes more."""
        if data:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last piece."""
        await self._send({"type": "http.response.body", "body": data, "more_body": False})
        self.ended = True

    async def json(self, status: int, body: Any, headers: Headers = ()) -> None:
        """Send a whole JSON answer."""
        await self.raw(status, to_json(body), headers)

    async def raw(
        self,
        status: int,
        data: bytes,
        headers: Headers = (),
        content_type: str = "application/json",
    ) -> None:
        """Send a whole answer."""
        own = [("content-type", content_type), ("content-length", str(len(data)))]
        await self.start(status, [*own, *headers])
        await self.end(data)

    async def fail(self, error: ApiError) -> None:
        """The error as an answer of its own, or as the stream's last event and its end."""
        if self.ended:
            return
        self.failed = None if self.said_done else error.status
        if self.said_done:
            await self.end()
        elif self._events:
            await self.end(self._dialect.error_event(error))
        elif self.passing:
            # an end would make half an answer look whole; the server closes the connection
            self.broken = error.status
        elif self.started:
            await self.end(to_json(self._dialect.error_body(error)))
        else:
            body = self._dialect.error_body(error)
            await self.json(error.status, body, error.headers.items())


async def read_body(receive: Receive, limit: int, idle: float) -> bytes:
    """The whole request body.

    Raises `ApiError` 413 past ``limit`` bytes and 408 when nothing comes for ``idle`` seconds,
    `ClientGone`.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        try:
            with anyio.fail_after(idle):
                message = await receive()
        except TimeoutError as error:
            what = f"Nothing of the request's body came for {idle:g} s."
            raise ApiError(408, "request_timeout", what) from error
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise ApiError(413, "request_too_large", f"The request is larger than {limit} bytes.")
        parts.append(part)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)
