"""Removal of the router's own status lines from the history that a client sends back. Pure.

`llm_router.api.status` writes the lines. This module needs the standard library alone, because the
process that reads large bodies loads it too.
"""

from __future__ import annotations

import re
from typing import Any

_LINE = (
    r"(?:🔄 Switching to [^\n]+\.\.\."
    r"|⏳ Loading model\.\.\. \d+s / ~?\d+s(?: \(\d+%\))?"
    r"(?:, compiling kernels(?: \(first start\))?)?"
    r"|⏳ Waiting for [^\n]+\.\.\. \d+s"
    r"|✅ Model ready! \(\d+s\))"
)
# whole lines alone, and no two ways to read them: this runs on text that others chose
_HEAD = re.compile(rf"\A(?:{_LINE}(?:\n+|\Z))+")
_FOOTER = re.compile(r"⚡ \d+\.\d tok/s \(~\d+ tokens in \d+\.\d+s\)")
# letters and what else these words are made of: no encoder escapes them, but any may
_ESCAPED_WORD = re.compile(rb"\\u00(?:2[0189eE]|[4-7])")
_MARKS = tuple(mark.encode() for mark in "🔄⏳✅⚡")
_BEGINNINGS = tuple(
    text.encode()
    for text in ("🔄 Switching to ", "⏳ Loading model... ", "⏳ Waiting for ", "✅ Model ready! (")
)
_WORDS = (b" Switching to ", b" Loading model... ", b" Waiting for ", b" Model ready! (", b" tok")
_ESCAPED = re.compile(rb"\\u(?i:d83d|23f3|2705|26a1)")


def may_have_lines(raw: bytes) -> bool:
    """Whether JSON has such lines, by their first characters and their words, as they are or
    escaped. Fast, above all for one text, which has them at its beginning or its end."""
    escaped = b"\\u00" in raw and _ESCAPED_WORD.search(raw) is not None
    if raw[:1] == b'"':
        words = (
            raw.startswith(_BEGINNINGS, 1)
            or (raw.startswith(b"\\u", 1) and any(word in raw[:64] for word in _WORDS))
            or b" tok/s (~" in raw
            or b" tok\\/s (~" in raw
        )
    else:
        words = any(word in raw for word in _WORDS)
    if not (words or escaped):
        return False
    if not raw.isascii() and any(mark in raw for mark in _MARKS):
        return True
    return _ESCAPED.search(raw) is not None


def strip_status(messages: Any) -> tuple[Any, bool]:
    """``messages`` without the router's own lines in what the assistant said, and if any was found.

    Only exact lines at the very beginning and the footer at the very end count: text that merely
    speaks of them stays.
    """
    if not isinstance(messages, list):
        return messages, False
    changed = False
    cleaned: list[Any] = []
    for message in messages:
        clean = message
        if isinstance(message, dict) and message.get("role") == "assistant":
            content = _strip_content(message.get("content"))
            if content != message.get("content"):
                clean = {**message, "content": content}
                changed = True
        cleaned.append(clean)
    return cleaned, changed


def _strip_content(content: Any) -> Any:
    if isinstance(content, str):
        return _strip_text(content)
    if isinstance(content, list):
        texts = [i for i, part in enumerate(content) if isinstance(part, dict) and "text" in part]
        parts = list(content)
        for index in texts:
            text = parts[index]["text"]
            if isinstance(text, str):
                parts[index] = {**parts[index], "text": _strip_text(text)}
        return parts
    return content


def _strip_text(text: str) -> str:
    text = _HEAD.sub("", text)
    body, newline, last = text.rstrip().rpartition("\n")
    if not _FOOTER.fullmatch(last):
        return text
    return body.rstrip("\n") if newline else ""
