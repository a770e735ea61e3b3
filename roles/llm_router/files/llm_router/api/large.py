"""Large request bodies: read in another process, kept as the bytes that came."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import Self

import llm_router
from llm_router.api.errors import ApiError, bad_request
from llm_router.api.exchange import Pieces
from llm_router.api.wire import from_json, to_json
from llm_router.body_reader import Task, receive, send, task_of

LARGE = 100_000
"""Bytes. A smaller body holds the event loop for a few milliseconds at most."""
SMALL_VALUE = 16 * 1024
"""Bytes of a value that the router itself looks into."""
WITHIN = 30.0
"""Seconds that one body may take; some 2 s are usual for the worst one."""

_ROOT = str(Path(llm_router.__file__).parents[1])
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); from llm_router.body_reader import main; main()"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Text:
    """A large JSON value as its text."""

    text: bytes | bytearray | memoryview


@dataclass(frozen=True)
class Large:
    """A large body: its top level, in which large values are `Text`."""

    body: dict[str, Any]
    background: bool
    """Whether it is a client's background task."""


def pieces(body: Mapping[str, Any]) -> Pieces:
    """The body as JSON; its large values are pieces of their own, and are not copied."""
    parts: list[bytes | bytearray | memoryview] = []
    small: list[bytes] = []
    for key, value in body.items():
        small += (b", " if parts or small else b"{", to_json(key), b": ")
        if isinstance(value, Text):
            parts += (b"".join(small), value.text)
            small = []
        else:
            small.append(to_json(value))
    small.append(b"}" if body else b"{}")
    return (*parts, b"".join(small))


class LargeBodies:
    """Reads large bodies, one after the other. A context manager: it ends the other process."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "large-bodies")
        self.process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    async def read(self, raw: bytes | bytearray, task: Task) -> Large:
        """Raises `ApiError` 400 for what is not a JSON object, 413 for too many values, 503."""
        loop = asyncio.get_running_loop()
        try:
            head, data = await loop.run_in_executor(self._thread, self._ask, raw, task)
        except (OSError, EOFError) as error:
            log.error("a large body of %d bytes could not be read: %r", len(raw), error)
            what = "The process that reads large request bodies failed; try again."
            raise ApiError(
                503, "body_reader_failed", what, kind="server_error", retry_after=1
            ) from error
        kind = head.get("kind")
        if kind == "values":
            what = f"The request body is too large to be read: {head['error']}."
            raise ApiError(413, "request_too_large", what)
        if kind is not None:
            raise bad_request(
                head["error"]
                if kind == "object"
                else f"The request body is not valid JSON: {head['error']}."
            )
        size: int = head["raw"]
        source = memoryview(data)[:size] if size else memoryview(raw)
        messages = memoryview(data)[size:]
        return Large(_body(source, head["members"], messages), head["background"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()  # whoever waits for it has an end of file
        self._thread.shutdown(cancel_futures=True)
        self._close()
        if process is not None:
            process.wait()

    def _ask(self, raw: bytes | bytearray, task: Task) -> tuple[dict[str, Any], bytearray]:
        """In the thread. A process that fails is replaced by the next request's."""
        if self._connection is None:
            self._start()
        connection = self._connection
        assert connection is not None  # noqa: S101 - `_start` made it
        try:
            send(connection, task_of(task), raw)
            return receive(connection)
        except BaseException:
            self._close()
            raise

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                command = [sys.executable, "-I", "-S", "-c", _PROGRAM, _ROOT]
                self.process = subprocess.Popen(command, stdin=theirs.fileno())
            except BaseException:
                ours.close()
                raise
        ours.settimeout(WITHIN)
        self._connection = ours

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        process, self.process = self.process, None
        if process is not None:
            with contextlib.suppress(OSError):
                process.kill()
            process.wait()


def _body(raw: memoryview, members: list[Any], messages: memoryview) -> dict[str, Any]:
    body: dict[str, Any] = {}
    small = 0
    for key, start, end in members:
        if key == "messages" and messages:
            body[key] = Text(messages)
        elif end - start > SMALL_VALUE:
            body[key] = Text(raw[start:end])  # not copied: it may be most of the body
        else:
            small += end - start
            if small > LARGE:
                what = f"its small values are more than {LARGE} bytes together"
                raise ApiError(
                    413, "request_too_large", f"The request body is too large to be read: {what}."
                )
            text = bytes(raw[start:end])
            try:
                body[key] = from_json(text, strict=True)
            except ValueError:
                body[key] = Text(text)  # it could not be written again
    return body
