"""Engines' JSON that is read in the event loop: only what takes a moment. Pure."""

from __future__ import annotations

from typing import Any

from llm_router.api.wire import from_json

SMALL = 50_000
"""Bytes that are read without a look at what they are made of: 3 ms at most."""
LARGE = 8 * 1024 * 1024
"""Bytes that are too many, even of a single text."""
MOST_MARKS = 100_000
"""Values, lines and escapes of a text that is read in the event loop: some 25 ms at most. A long
text has few of them."""


def is_light(data: bytes) -> bool:
    """Whether reading it as JSON, or line by line, holds up the event loop only for a moment."""
    if len(data) <= SMALL:
        return True
    if len(data) > LARGE:
        return False
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
