"""JSON bodies of requests, split; large ones so that no stream waits for that.

msgspec holds the interpreter's lock, so a thread would help nobody. It splits a megabyte in 0.2 to
1.4 ms, which is less than it takes to send the body to another process. That process reads the
few large bodies that msgspec does not, and those in which very much has to be read.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import logging
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import Raw
from typing_extensions import Self

import llm_router
from llm_router.api.errors import ApiError, bad_request
from llm_router.api.messages import TooMuch, read
from llm_router.body_reader import (
    MOST_VALUES,
    Task,
    TooManyValues,
    answer,
    receive,
    send,
    task_of,
)
from llm_router.json_codec import is_utf8
from llm_router.json_members import Members, check, split

LARGE = 100_000
"""Bytes. A smaller body holds the event loop for a few milliseconds at most."""
AT_ONCE = 256 * 1024
"""Bytes that are looked at in one turn of the event loop."""
FEW = 16
"""Marks that are looked for one by one."""
MOST_OBJECTS = 50_000
"""Objects in a body that the event loop has time for."""
MOST_NAMES = 100_000
"""Names of members, each of which has a colon, that it has time for."""
WITHIN = 30.0
"""Seconds that one body may take; some 2 s are usual for the worst one."""

_ROOT = str(Path(llm_router.__file__).parents[1])
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); from llm_router.body_reader import main; main()"
)

_TRUE = Raw(b"true")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """A JSON object in a request, taken apart."""

    members: Members
    """``messages`` without the router's own lines, all others as they came."""
    background: bool
    """Whether its messages are a client's background task."""


def split_small(raw: bytes | bytearray, task: Task) -> Split:
    """A body of at most `LARGE` bytes. Raises `ApiError`, as `LargeBodies.read` does."""
    members = split(raw) if is_utf8(raw) else None
    if members is not None:
        with contextlib.suppress(TooMuch):
            return _read(members, task)
    return split_slowly(raw, task)


def split_slowly(raw: bytes | bytearray, task: Task) -> Split:
    """By the standard library, which reads what msgspec does not."""
    head, data = answer(task_of(task), bytes(raw))
    return _split_by(head, data, raw)


def _read(members: Members, task: Task) -> Split:
    """Raises `ApiError`, `TooMuch`."""
    try:
        check(members)
    except TooManyValues as error:
        raise _too_large(str(error)) from error
    except ValueError as error:
        raise _not_json(str(error)) from error
    messages = members.get("messages")
    if messages is None or task == Task():
        return Split(members, False)
    if members.get("stream") == _TRUE:
        task = Task(strip=task.strip)  # nobody waits for a background task's tokens
    cleaned, background = read(messages, task)
    return Split({**members, "messages": cleaned}, background)


def _split_by(head: dict[str, Any], data: bytes | bytearray, raw: bytes | bytearray) -> Split:
    """What `llm_router.body_reader` found in ``raw``."""
    kind = head.get("kind")
    if kind == "values":
        raise _too_large(head["error"])
    if kind == "object":
        raise bad_request(head["error"])
    if kind is not None:
        raise _not_json(head["error"])
    size: int = head["raw"]
    source, messages = memoryview(data)[:size] if size else memoryview(raw), memoryview(data)[size:]
    members = {key: Raw(source[start:end]) for key, start, end in head["members"]}
    found = _read(members, Task())
    if messages:
        found.members["messages"] = Raw(messages)
    return Split(found.members, head["background"])


def _too_large(what: str) -> ApiError:
    return ApiError(413, "request_too_large", f"The request body is too large to be read: {what}.")


def _not_json(what: str) -> ApiError:
    return bad_request(f"The request body is not valid JSON: {what}.")


class LargeBodies:
    """Reads large bodies, one after the other. A context manager: it ends the other process."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "large-bodies")
        self.process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    async def read(self, raw: bytes | bytearray, task: Task) -> Split:
        """Raises `ApiError` 400 for what is not a JSON object, 413 for too many values, 503."""
        if await _is_light(raw):
            members = split(raw)
            if members is not None:
                with contextlib.suppress(TooMuch):
                    return _read(members, task)
        loop = asyncio.get_running_loop()
        try:
            head, data = await loop.run_in_executor(self._thread, self._ask, raw, task)
        except (OSError, EOFError) as error:
            log.error("a large body of %d bytes could not be read: %r", len(raw), error)
            what = "The process that reads large request bodies failed; try again."
            raise ApiError(
                503, "body_reader_failed", what, kind="server_error", retry_after=1
            ) from error
        return _split_by(head, data, raw)

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


async def _is_light(raw: bytes | bytearray) -> bool:
    """Whether a body is UTF-8 and has few values, so that it is split within milliseconds.

    It is looked at in pieces, between which others have their turn.
    """
    decoder = None if raw.isascii() else codecs.getincrementaldecoder("utf-8")()
    view, objects, names, others = memoryview(raw), 0, 0, 0
    for start in range(0, len(raw), AT_ONCE):
        end = min(start + AT_ONCE, len(raw))
        if start:
            await asyncio.sleep(0)
        objects += _count(raw, b"{", start, end)
        names += _count(raw, b":", start, end)
        if len(raw) > 2 * MOST_VALUES:  # a value takes two bytes with what separates it
            others += _count(raw, b",", start, end) + _count(raw, b"[", start, end)
        if objects > MOST_OBJECTS or names > MOST_NAMES or objects + others > MOST_VALUES // 2:
            return False
        try:
            if decoder is not None:
                decoder.decode(view[start:end], end == len(raw))
        except UnicodeDecodeError:
            return False
    return True


def _count(raw: bytes | bytearray, mark: bytes, start: int, end: int) -> int:
    """As `bytes.count`, which takes a third of a millisecond for a megabyte; text that has few of
    these, as a picture, is passed over ten times as fast."""
    at = start - 1
    for found in range(FEW):
        at = raw.find(mark, at + 1, end)
        if at < 0:
            return found
    return FEW + raw.count(mark, at + 1, end)
