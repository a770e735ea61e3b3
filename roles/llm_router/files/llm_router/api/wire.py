"""JSON as bytes, whatever strange text a client or an engine put into it."""

from __future__ import annotations

import json
from typing import Any

_encode = json.JSONEncoder(ensure_ascii=False).encode
_decode = json.JSONDecoder().decode
SMALL = 50_000
"""Bytes that are read without a look at what they are made of: 3 ms at most."""
MOST_MARKS = 100_000
"""Values, lines and escapes of a text that is read in the event loop: some 25 ms at most. A long
text has few of them."""


def from_json(data: bytes | bytearray) -> Any:
    """What ``data`` says: `json.loads`, without its look at the encoding where it is UTF-8.

    Raises ValueError, RecursionError.
    """
    try:
        return _decode(data.decode())
    except ValueError:
        return json.loads(data)  # with a byte order mark, or wrong; then it says where


def is_light(data: bytes) -> bool:
    """Whether reading it as JSON, or line by line, holds up the event loop only for a moment."""
    if len(data) <= SMALL:
        return True
    return sum(map(data.count, (b"[", b"{", b",", b"\\", b"\n", b"\r"))) <= MOST_MARKS


def from_engine(data: bytes) -> Any:
    """What an engine's JSON says.

    Raises ValueError; also for what is nested too deep, or has so many values that reading it would
    hold up other streams. Such an answer passes as it is.
    """
    if not is_light(data):
        raise ValueError("too many values")
    try:
        return from_json(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def to_json(value: Any) -> bytes:
    """``value`` as UTF-8; escaped where a lone surrogate would make that impossible."""
    try:
        return _encode(value).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()


def event(value: Any) -> bytes:
    """``value`` as one server-sent event."""
    return b"data: " + to_json(value) + b"\n\n"
