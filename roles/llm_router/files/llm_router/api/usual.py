"""The usual event of a stream, learned from one of them, so that the others need no parser. Pure.

Nearly all events of a chat differ from each other in one text, the token. Where a first one was
read, what comes before and after its text is known, byte for byte; an event that has the same
bytes around another text says the same with another token.
"""

from __future__ import annotations

import json
import re
from typing import Any

TEXTS = ("content", "reasoning_content", "reasoning", "text")
"""Where a choice, or its delta, has its token."""
# a JSON string's inside; no two ways to read it, so that a mismatch costs no more than a match
_INSIDE = rb'[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*'
_TEXT = re.compile(rb'"(?:%b)": ?"(%b)"' % ("|".join(TEXTS).encode(), _INSIDE))
_OTHER = "\x01\x02"


class Usual:
    """Recognises events that differ from one only in the token's text, which is never empty."""

    def __init__(self, before: bytes, after: bytes) -> None:
        self._before = before
        one = rb'%b(?!")%b%b' % (re.escape(before), _INSIDE, re.escape(after))
        self._run = re.compile(rb"(?:%b)+" % one).match

    def run(self, data: bytes, start: int) -> tuple[int, int]:
        """How many usual events stand at ``start`` one after the other, and where they end."""
        match = self._run(data, start)
        if match is None:
            return 0, start
        end = match.end()
        if not data.isascii():
            try:
                data[start:end].decode("utf-8", "surrogatepass")
            except UnicodeDecodeError:
                return 0, start
        # the bytes before a text have quotes that no text has: they stand at events' beginnings
        return data.count(self._before, start, end), end


def learn(event: bytes, body: dict[str, Any]) -> Usual | None:
    """What ``event``, whose data is ``body``, has in common with those that follow it.

    None where that cannot be told: its text does not stand where another may stand.
    """
    choices = body["choices"]
    if len(choices) != 1 or not event.startswith(b"data: ") or b"\r" in event:
        return None
    if event.find(b"\n") != len(event) - 2:
        return None
    for found in _TEXT.finditer(event):
        start, end = found.span(1)
        before, after = event[:start], event[end:]
        if start < end and _is_the_token(json.loads(before[6:] + b"\\u0001\\u0002" + after), body):
            return Usual(before, after)
    return None


def _is_the_token(other: dict[str, Any], body: dict[str, Any]) -> bool:
    """Whether ``other`` is ``body`` but for its token."""
    mine, its = body["choices"][0], other["choices"][0]
    for one, another in ((mine.get("delta"), its.get("delta")), (mine, its)):
        for key in TEXTS if isinstance(one, dict) and isinstance(another, dict) else ():
            if another.get(key) == _OTHER:
                another[key] = one.get(key)
                return bool(one.get(key)) and other == body
    return False
