"""Parse an engine's JSON in the event loop, unless that would delay other streams. Pure."""

from __future__ import annotations

from typing import Any

from llm_router.api.wire import from_json

SMALL = 50_000
"""Bytes. Smaller JSON is always parsed; that takes at most 3 ms."""
LARGE = 8 * 1024 * 1024
"""Bytes. Larger JSON is never parsed, not even one long text."""
MOST_MARKS = 100_000
"""Brackets, commas, escapes and line ends of JSON that is parsed; that takes about 25 ms at most.
A long text has few of them."""


def is_light(data: bytes) -> bool:
    """Whether ``data`` can be parsed, or split into lines, without delaying other streams."""
    if len(data) <= SMALL:
        return True
    if len(data) > LARGE:
        return False
    return sum(map(data.count, (b"[", b"{", b",", b"\\", b"\n", b"\r"))) <= MOST_MARKS


def from_engine(data: bytes) -> Any:
    """Parse JSON of an engine.

    Raises ValueError for invalid JSON, for JSON that is nested too deep, and for JSON that is not
    light. The caller passes such an answer on unchanged.
    """
    if not is_light(data):
        raise ValueError("too large to be parsed here")
    return from_json(data)
