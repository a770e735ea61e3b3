"""A JSON object taken apart at its top level: each value stays the bytes that came.

msgspec checks the syntax and finds the values without reading them. It is stricter than the
standard library in some points, and does not look at the encoding inside of strings: what it
rejects, and what is not UTF-8, is left to `llm_router.body_reader`, which is slower.
docs/request-bodies.md says what each kind of value becomes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from llm_router.body_reader import MOST_MEMBERS, TooManyValues
from llm_router.json_codec import from_json, to_json

Members = dict[str, Raw]
"""The values of an object by name; of equal names the last."""
Piece = bytes | bytearray | memoryview

LONGEST_NUMBER = 300
"""Characters of a number that cannot be out of range without an exponent."""
SMALL = 16 * 1024
"""Bytes of a value that is copied rather than sent as a piece of its own."""

_LITERALS = {b"true": True, b"false": False, b"null": None}
_NAMES = {
    name: to_json(name) + b": "
    for name in (
        *("model", "messages", "stream", "stream_options", "temperature", "top_p", "max_tokens"),
        *("max_completion_tokens", "tools", "tool_choice", "n", "stop", "seed", "user", "prompt"),
        *("input", "id", "object", "created", "choices", "usage", "system_fingerprint"),
    )
}
_split = msgspec.json.Decoder(dict[str, Raw]).decode
_elements = msgspec.json.Decoder(list[Raw]).decode
_NUMBER = b"-0123456789"


def split(raw: bytes | bytearray) -> Members | None:
    """The members of ``raw``; None where the standard library has to read it.

    The caller checks that ``raw`` is UTF-8.
    """
    try:
        return _split(raw)
    except (ValueError, RecursionError):
        return None


def check(members: Members) -> None:
    """Raises ValueError for a number at the top level that is out of range, `TooManyValues`."""
    if len(members) > MOST_MEMBERS:
        raise TooManyValues(f"it has more than {MOST_MEMBERS} keys at its top level")
    for value in members.values():
        if memoryview(value)[0] in _NUMBER:
            _check_number(bytes(value))


def _check_number(text: bytes) -> None:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"the number {text[:20].decode()} is out of range")
    if b"e" in text or b"E" in text:
        from_json(text, strict=True)


def value_of(raw: Raw) -> Any:
    """What a member says. Raises ValueError, for numbers that are out of range too."""
    text = bytes(raw)
    return _LITERALS[text] if text in _LITERALS else from_json(text, strict=True)


def elements(raw: Raw) -> list[Raw] | None:
    """The elements of a list, each as it came; None if it is no list."""
    try:
        return _elements(raw)
    except (ValueError, RecursionError):
        return None


def says_something(value: Any) -> bool:
    """Whether a value, as it came or read, is true for Python."""
    if not isinstance(value, Raw):
        return bool(value)
    return len(value) > LONGEST_NUMBER or bool(value_of(value))


def pieces(
    body: Mapping[str, Any], members: Mapping[str, Raw], read: Mapping[str, Any]
) -> tuple[Piece, ...]:
    """``body`` as JSON. Large values are pieces of their own, and are not copied.

    ``members`` are the values that came, and ``read`` what some of them say: one that is the same
    in ``body`` goes out as it came. Raises ValueError for a value that JSON has no word for.
    """
    parts: list[Piece] = []
    small: list[Piece] = []
    for key, value in body.items():
        small += (b", " if parts or small else b"{", _NAMES.get(key) or to_json(key) + b": ")
        if not isinstance(value, Raw) and key in read and read[key] is value:
            value = members[key]
        if not isinstance(value, Raw):
            small.append(to_json(value))
        elif len(value) <= SMALL:
            small.append(memoryview(value))
        else:
            parts += (b"".join(small), memoryview(value))
            small = []
    small.append(b"}" if body else b"{}")
    return (*parts, b"".join(small))
