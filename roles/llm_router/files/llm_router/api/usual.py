"""The usual event of a stream, learned from one of them, so that the others need no parser. Pure.

Nearly all events of a chat differ from each other in one text, the token. Where a first one was
read, what comes before and after its text is known, byte for byte; an event that has the same
bytes around another text says the same with another token.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

from llm_router.api.wire import from_json

TEXTS = ("content", "reasoning_content", "reasoning", "text")
"""Where a choice, or its delta, has its token."""
# a JSON string's inside; no two ways to read it, so that a mismatch costs no more than a match
_INSIDE = rb'[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*'
_TEXT = re.compile(rb'"(?:%b)": ?"(%b)"' % ("|".join(TEXTS).encode(), _INSIDE))
LONGEST_TO_LEARN = 4096
"""Bytes of an event that is learned from. One token takes some hundred."""
MOST_CANDIDATES = 8
"""Texts of an event that may be its token; each is one more parse."""
_BORDER = b"\x00"
_SOME = rb"(?!\x00|\Z)%b" % _INSIDE
_text = re.compile(_SOME).fullmatch
_texts = re.compile(rb"%b(?:\x00%b)*" % (_SOME, _SOME)).fullmatch
"""Texts with borders between them, none of them empty."""
_OTHER = "\x01\x02"


class Usual:
    """Recognises events that differ from one only in the token's text, which is never empty.

    Made anew for each stream, whose id is in ``before``: no pattern is compiled for it.
    """

    def __init__(self, before: bytes, after: bytes) -> None:
        self._before, self._after, self._between = before, after, after + before
        self._skip, self._tail = len(before), len(after)

    def run(self, data: bytes, start: int) -> tuple[int, int]:
        """How many usual events stand at ``start`` one after the other, and where they end.

        Where something else stands between usual ones it may be the first of them only.
        """
        if not data.startswith(self._before, start):
            return 0, start
        first = start + self._skip
        last = data.find(self._after, first)
        if last + self._tail < len(data):
            end = data.rfind(self._after, first)
            tokens = self._count(data[first:end]) if end > last else 0
            if tokens:
                return tokens, end + self._tail
        if last < 0 or not _text(data, first, last):
            return 0, start
        if not data.isascii() and not _is_utf8(data[first:last]):
            return 0, start
        return 1, last + self._tail

    def _count(self, texts: bytes) -> int:
        """How many they are; 0 where there is more between them than between usual events."""
        joined = texts.replace(self._between, _BORDER)
        borders = (len(texts) - len(joined)) // (len(self._between) - 1)
        if joined.count(_BORDER) != borders or not _texts(joined):
            return 0
        return borders + 1 if texts.isascii() or _is_utf8(texts) else 0


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def learn(event: bytes, body: dict[str, Any]) -> Usual | None:
    """What ``event``, whose data is ``body``, has in common with those that follow it.

    None where that cannot be told: its text does not stand where another may stand.
    """
    choices = body["choices"]
    if len(choices) != 1 or not event.startswith(b"data: ") or b"\r" in event:
        return None
    if len(event) > LONGEST_TO_LEARN or event.find(b"\n") != len(event) - 2:
        return None
    for found in islice(_TEXT.finditer(event), MOST_CANDIDATES):
        start, end = found.span(1)
        before, after = event[:start], event[end:]
        if start < end and _is_the_token(from_json(before[6:] + b"\\u0001\\u0002" + after), body):
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
