"""Entries of ours in a prometheus.yml that is somebody else's, as text: every other byte stays.

Pure. They stand between two comments, at the top of the list that they belong to; where that list
is not there, it is made at the end. Nothing is parsed: whoever writes the result has promtool
check it first, as it knows what Prometheus takes.

For the target's Python (>= 3.9), since an Ansible module imports this file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.roundhouse.llm.plugins.module_utils.yaml_edit import block, scalar

BEGIN = "# BEGIN roundhouse (the role roundhouse.llm.monitoring overwrites what is changed here)"
END = "# END roundhouse"

_BEGIN = re.compile(r"[ \t]*# BEGIN roundhouse\b")
_END = re.compile(r"[ \t]*# END roundhouse[ \t]*$")
_INDENT = "  "


class NotEditable(Exception):
    """The text is written in a way that entries cannot be put into.

    The message goes behind the file's name. ``line`` is 1-based.
    """

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.line = line


def with_entries(text: str, entries: Mapping[str, Sequence[Any]]) -> str:
    """The text with ``entries`` (items by the key of their list), and no others of ours.

    Raises `NotEditable`.
    """
    lines = without_entries(text).splitlines(keepends=True)
    line_end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    for key, items in entries.items():
        if items:
            _insert(lines, key, items, line_end)
    return "".join(lines)


def without_entries(text: str) -> str:
    """The text without what is ours. Raises `NotEditable`."""
    return "".join(line for line, ours in _marked(text) if not ours)


def our_entries(text: str) -> str:
    """What of the text is ours, and only that: the rest may hold secrets. Raises `NotEditable`."""
    return "".join(line for line, ours in _marked(text) if ours)


def _marked(text: str) -> list[tuple[str, bool]]:
    """Each line, and whether it is ours."""
    marked: list[tuple[str, bool]] = []
    begun = 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if _BEGIN.match(line):
            if begun:
                break
            begun = number
        marked.append((line, bool(begun)))
        if _END.match(line.rstrip("\r\n")):
            begun = 0
    if begun:
        raise NotEditable(f"begins an entry of the role and does not end it with `{END}`", begun)
    return marked


def _insert(lines: list[str], key: str, items: Sequence[Any], line_end: str) -> None:
    at, indent = _place(lines, key)
    new = [indent + BEGIN, *_listed(items, indent), indent + END]
    if at is None:
        at = len(lines)
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += line_end
        new = [BEGIN, f"{key}:", *_listed(items, _INDENT), END]
    lines[at:at] = [line + line_end for line in new]


def _place(lines: Sequence[str], key: str) -> tuple[int | None, str]:
    """The index of the line behind ``key``, and how far the items of its list are indented; None
    where the key is not there."""
    for index, line in enumerate(lines):
        found = re.match(rf"{re.escape(key)}[ \t]*:(.*)", line)
        if found is None:
            continue
        if not re.fullmatch(r"[ \t]*(#.*)?", found[1].rstrip("\r\n")):
            raise NotEditable(f"does not write {key} as a list with an item a line", index + 1)
        for after in lines[index + 1 :]:
            if after.strip() and not after.lstrip().startswith("#"):
                item = re.match(r"([ ]*)-[ \r\n]", after)
                return index + 1, item[1] if item else _INDENT
        return index + 1, _INDENT
    return None, ""


def _listed(items: Sequence[Any], indent: str) -> list[str]:
    """The items of a list, an item or a key of it a line."""
    lines: list[str] = []
    for item in items:
        if not isinstance(item, Mapping):
            lines.append(f"{indent}- {scalar(item)}")
            continue
        inner = indent + _INDENT
        written = [line for key, value in item.items() for line in block(str(key), value, inner)]
        lines += [f"{indent}- {written[0].lstrip()}", *written[1:]]
    return lines
