"""A log record as one line: ``key=value`` (logfmt) or a JSON object.

One record is one line, whatever is in it: a value with anything but harmless characters is a JSON
string, in which a newline is ``\\n``. Nothing that a client sends can begin a line of its own.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from typing import Literal

from llm_router.json_codec import json_text

LogFormat = Literal["logfmt", "json"]
Value = str | int | float | bool | None
"""Times are seconds; what is None is left out of the line."""

_plain = re.compile(r"[A-Za-z0-9_.:/+@%,~-]+").fullmatch
_LEVELS = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""syslog(3)'s, which journald reads from ``<N>`` before a line (sd-daemon(3))."""


class Event:
    """What a program may want to read: given to a logger in place of a text.

    ``name`` is one word; ``fields`` are in the order of the line.
    """

    __slots__ = ("fields", "name")

    def __init__(self, name: str, fields: Mapping[str, Value]) -> None:
        self.name = name
        self.fields = fields

    def __str__(self) -> str:
        return f"{self.name} {_pairs(self.fields)}"


class _Formatter(logging.Formatter):
    """``journal``: whether journald reads the lines, which has a time and a priority of its own."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line, without its end."""
        level = _LEVELS.get(record.levelno) or record.levelname.lower()
        line = self.line(level, record)
        return f"<{_PRIORITIES.get(level, 6)}>{line}" if self._journal else line

    def line(self, level: str, record: logging.LogRecord) -> str:
        """What comes after the priority."""
        raise NotImplementedError

    def rest(self, record: logging.LogRecord) -> dict[str, Value]:
        """The fields of a record that is text: who says it, and where it was raised."""
        fields: dict[str, Value] = {"logger": record.name}
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return fields


class _Logfmt(_Formatter):
    def line(self, level: str, record: logging.LogRecord) -> str:
        head = f"level={level}" if self._journal else f"time={_time(record)} level={level}"
        said = record.msg
        if isinstance(said, Event):
            return f"{head} msg={said.name} {_pairs(said.fields)}"
        return f"{head} msg={_quoted(record.getMessage())} {_pairs(self.rest(record))}"


class _Json(_Formatter):
    def line(self, level: str, record: logging.LogRecord) -> str:
        said = record.msg
        if isinstance(said, Event):
            name, fields = said.name, said.fields
        else:
            name, fields = record.getMessage(), self.rest(record)
        given = {key: value for key, value in fields.items() if value is not None}
        whole = {"time": _time(record), "level": level, "msg": name, **given}
        try:
            return json_text(whole, separators=(",", ":"))
        except ValueError:  # a number that is not finite, as text: no line may be lost
            shown = {k: str(v) if isinstance(v, float) else v for k, v in whole.items()}
            return json_text(shown, separators=(",", ":"))


def formatter(kind: LogFormat, *, journal: bool = False) -> logging.Formatter:
    """What makes the lines."""
    return _Json(journal=journal) if kind == "json" else _Logfmt(journal=journal)


def _pairs(fields: Mapping[str, Value]) -> str:
    return " ".join(
        [
            f"{key}={value if not isinstance(value, (str, bool)) else _text(value)}"
            for key, value in fields.items()
            if value is not None
        ]
    )


def _text(value: str | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if _plain(value) else _quoted(value)


def _quoted(text: str) -> str:
    if _plain(text):
        return text
    if text.isprintable():
        return json_text(text, ensure_ascii=False)
    # whatever else could end a line, or move a terminal's cursor
    return json_text(text).replace("\x7f", "\\u007f")


def _time(record: logging.LogRecord) -> str:
    """UTC, to the millisecond."""
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.created % 1 * 1000):03d}Z"
