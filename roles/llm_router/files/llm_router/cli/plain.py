"""Text that can neither move a terminal's cursor nor make it do anything else."""

from __future__ import annotations

import re
from typing import Any, TextIO

_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
"""CSI, then OSC, DCS and the like, then all others, by ECMA-48 and xterm's ctlseqs.

A sequence that has no end is one to the end of the text.
"""
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # they show a line in another order
    r"\u2028\u2029\ud800-\udfff]"
)


def printable(text: str) -> str:
    """The text without escape sequences, and with a space for each other control character.

    Newlines and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return _CONTROLS.sub(" ", _SEQUENCES.sub("", text))


class PrintableStream:
    """A text stream that writes only what is `printable`; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write it; the number of characters that were given."""
        self._stream.write(printable(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
