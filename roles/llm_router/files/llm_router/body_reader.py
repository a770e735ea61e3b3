"""Reading of large JSON bodies in a process of its own. The standard library alone.

Every parser of JSON for Python holds the interpreter's lock for the whole body, so a thread would
hold up every stream. This process validates a body as `json.loads` does, but without NaN and
Infinity, and reports where the values of its top level are; the router takes these as they are.
Nothing is written anew, so numbers, escapes and duplicate keys inside a value reach the engine as
the client sent them. The router itself reads most bodies (`llm_router.json_members`): this is for
large ones that msgspec does not read, and `outline` for small ones of that kind.
The protocol: a frame is two lengths, then that many bytes of JSON and of data.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import sys
from dataclasses import asdict, dataclass
from json.decoder import JSONDecodeError, scanstring  # type: ignore[attr-defined]
from typing import Any

from llm_router.json_codec import TOO_DEEP, json_text
from llm_router.status_lines import may_have_lines, strip_status

MOST_VALUES = 1_000_000
"""Values in one body: each takes up to 240 bytes of memory while it is parsed."""
MOST_MEMBERS = 10_000
"""Keys at the top level of a body."""

_LENGTHS = struct.Struct("!II")
_SPACE = re.compile(r"[ \t\n\r]*")
# one without an end goes to the end: else each quote in it would be tried as a beginning
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)


def _constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


# numbers are only passed on: `len` makes none of them, however many digits it has
_decoder = json.JSONDecoder(parse_constant=_constant, parse_int=len, parse_float=len)
_scan = _decoder.scan_once  # type: ignore[attr-defined]


class TooManyValues(ValueError):
    """The body would take too much memory."""


@dataclass
class Outline:
    """Where the values of an object are, in bytes of ``raw``."""

    members: list[tuple[str, int, int]]
    raw: bytes
    """The body as it came, or as UTF-8 where it had another encoding."""
    messages: bytes | None = None
    """``messages`` without the router's own lines, if there were any."""
    background: bool = False


@dataclass(frozen=True)
class Task:
    """What else is to be found in a body."""

    strip: bool = False
    """Whether the router's own lines are removed from ``messages``."""
    background: str | None = None
    """The pattern of a client's background task."""


def outline(raw: bytes, task: Task) -> Outline:
    """The outline of a JSON object. Raises ValueError, RecursionError, `TooManyValues`."""
    _check_size(raw)
    raw = _as_utf8(raw)
    # One character a byte: places in the text are places in the bytes. What JSON is made of is
    # ASCII, and the encoding inside its strings has been checked.
    found = Outline(_members(raw, raw.decode("latin-1")), raw)
    for key, start, end in found.members:
        if key == "messages":
            found.background, found.messages = _messages(raw[start:end], task)
    return found


def is_background(messages: Any, pattern: str) -> bool:
    """Whether the only message is a user's text that matches ``pattern``."""
    if not isinstance(messages, list) or len(messages) != 1:
        return False
    message = messages[0]
    if not isinstance(message, dict) or message.get("role") != "user":
        return False
    content = message.get("content")
    # the default needs to be looked for at the beginning alone, and `search` does not know that
    find = re.match if is_anchored(pattern) else re.search
    return isinstance(content, str) and find(pattern, content) is not None


def is_anchored(pattern: str) -> bool:
    """Whether a pattern can only match at the beginning of a text."""
    return pattern.startswith("^") and "|" not in pattern and "(?" not in pattern


def _check_size(raw: bytes) -> None:
    if _values(raw) > MOST_VALUES and _values(_STRING.sub(b"", raw)) > MOST_VALUES:
        raise TooManyValues(f"it has more than {MOST_VALUES} values")


def _values(raw: bytes) -> int:
    """At most so many: each but the first comes after one of these."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{") + raw.count(b":")


def _as_utf8(raw: bytes) -> bytes:
    """Raises ValueError for what is not JSON in any encoding."""
    encoding = json.detect_encoding(raw)
    if encoding == "utf-8":
        with contextlib.suppress(UnicodeDecodeError):
            raw.decode()
            return raw
    text = raw.decode(encoding, "surrogatepass")
    # before halves of pairs become escapes: one behind a backslash would change its meaning
    _decoder.decode(text)
    return text.encode("utf-8", "backslashreplace")


def _members(raw: bytes, text: str) -> list[tuple[str, int, int]]:
    """Each key of the object with the place of its value, in order; of equal keys the last."""
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        _decoder.decode(text)
        raise TypeError("The request body must be a JSON object.")
    found: dict[str, tuple[int, int]] = {}
    at = _skip(text, at + 1)
    if text[at : at + 1] == "}":
        at += 1
    else:
        at -= 1
        while True:
            start = _skip(text, at + 1)
            if text[start : start + 1] != '"':
                raise JSONDecodeError(
                    "Expecting property name enclosed in double quotes", "", start
                )
            _, at = scanstring(text, start + 1, True)
            key: str = json.loads(raw[start:at])
            at = _skip(text, at)
            if text[at : at + 1] != ":":
                raise JSONDecodeError("Expecting ':' delimiter", text, at)
            start = _skip(text, at + 1)
            try:
                _, at = _scan(text, start)
            except StopIteration as stop:
                raise JSONDecodeError("Expecting value", text, stop.value) from None
            found[key] = start, at
            if len(found) > MOST_MEMBERS:
                raise TooManyValues(f"it has more than {MOST_MEMBERS} keys at its top level")
            at = _skip(text, at)
            if text[at : at + 1] == "}":
                at += 1
                break
            if text[at : at + 1] != ",":
                raise JSONDecodeError("Expecting ',' delimiter", text, at)
    at = _skip(text, at)
    if at != len(text):
        raise JSONDecodeError("Extra data", text, at)
    return [(key, *place) for key, place in found.items()]


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _messages(raw: bytes, task: Task) -> tuple[bool, bytes | None]:
    marked = task.strip and may_have_lines(raw)
    if not marked and task.background is None:
        return False, None
    try:
        messages = json.loads(raw)
        background = task.background is not None and is_background(messages, task.background)
        cleaned, changed = strip_status(messages) if marked else (messages, False)
        return background, json_text(cleaned).encode() if changed else None
    except ValueError:
        return False, None  # with a number that could not be written again: as it came


def send(connection: socket.socket, head: dict[str, Any], data: bytes | bytearray) -> None:
    """One frame."""
    encoded = json_text(head).encode()
    connection.sendall(_LENGTHS.pack(len(encoded), len(data)) + encoded)
    connection.sendall(data)


def receive(connection: socket.socket) -> tuple[dict[str, Any], bytearray]:
    """One frame. Raises EOFError."""
    head_size, size = _LENGTHS.unpack(_exactly(connection, _LENGTHS.size))
    head: dict[str, Any] = json.loads(_exactly(connection, head_size))
    return head, _exactly(connection, size)


def _exactly(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return data


def answer(head: dict[str, Any], raw: bytes) -> tuple[dict[str, Any], bytes]:
    """The answer to one frame, which is `Task`'s fields and a body."""
    try:
        found = outline(raw, Task(**head))
    except TooManyValues as error:
        return {"error": str(error), "kind": "values"}, b""
    except TypeError as error:
        return {"error": str(error), "kind": "object"}, b""
    except MemoryError:
        return {"error": "it needs too much memory", "kind": "values"}, b""
    except RecursionError:
        return {"error": TOO_DEEP, "kind": "json"}, b""
    except ValueError as error:
        return {"error": str(error), "kind": "json"}, b""
    data = b"" if found.raw is raw else found.raw
    sizes = {"raw": len(data), "messages": None if found.messages is None else len(found.messages)}
    told = {"members": found.members, "background": found.background, **sizes}
    return told, data + (found.messages or b"")


def task_of(task: Task) -> dict[str, Any]:
    """A frame's head."""
    return asdict(task)


def main() -> None:
    """Answer frames on the socket that is standard input, until its other end is closed."""
    # A stop of the unit signals every process of it, and the router still serves for a while. This
    # process ends when the router closes its socket.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # systemd's filter of system calls may forbid it
        os.nice(5)  # the router's streams come first
    with socket.socket(fileno=sys.stdin.fileno()) as connection:
        while True:
            try:
                head, raw = receive(connection)
            except (EOFError, OSError):
                return
            send(connection, *answer(head, bytes(raw)))
