"""The report: its rows, and the JSON that later reports are compared with. Pure.

Every key stays what it is within a ``schema``; keys may be added. Units are in the names: seconds,
bytes, tokens_per_second, percent, watts. A report has no keys, no prompts, no answers and no log
lines, and no name of the host but the ``label`` that it was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal

from llm_router.engines.values import cut_text
from llm_router.json_codec import from_json, json_text
from llm_router.logs.masking import masked

SCHEMA = 1
KIND = "roundhouse-qualify"
LARGEST = 8 << 20
"""Bytes of an earlier report."""

Status = Literal["passed", "failed", "skipped"]
Result = Literal["passed", "failed", "interrupted", "incomplete"]
Value = int | float | str | bool | None

CHECKS = {
    "quiet": "No other requests",
    "gpu": "GPUs and driver",
    "toolkit": "CUDA toolkit",
    "compile": "Compile a kernel",
    "load": "Load",
    "answer": "Answer",
    "speed": "Speed",
    "residency": "Leave the GPU and come back",
    "memory": "GPU memory is free before the next start",
    "learned": "Learned times",
    "switches": "Switches under load",
    "restore": "State as before",
    "comparison": "Comparison",
}
"""Every kind of check, and its title, in the order of the report."""


class NotAReport(Exception):
    """A file that is not a report which can be compared with; the message says why."""


@dataclass(frozen=True)
class Row:
    """What became of one check. ``subject``: a model or a group; "" is the host. ``part``: which
    one of several checks of that kind. ``detail``: one sentence."""

    check: str
    subject: str
    status: Status
    detail: str
    part: str = ""
    seconds: float | None = None
    values: Mapping[str, Value] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The same in each report about the same thing."""
        return ":".join(part for part in (self.check, self.subject, self.part) if part)


@dataclass
class Report:
    """All of it, while it is made. ``started`` is in seconds since the epoch."""

    started: float
    budget_seconds: float
    label: str = ""
    seconds: float = 0.0
    interrupted: bool = False
    finished: bool = False
    host: dict[str, Value] = field(default_factory=dict)
    versions: dict[str, str | None] = field(default_factory=dict)
    gpus: list[dict[str, Value]] = field(default_factory=list)
    models: dict[str, dict[str, Value]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    comparison: dict[str, Any] | None = None

    def of(self, status: Status) -> list[Row]:
        """The rows that ended so."""
        return [row for row in self.rows if row.status == status]

    @property
    def result(self) -> Result:
        """``incomplete``: it broke off, or not one model answered. ``failed`` comes first: a
        failed check is a finding, however little was tried."""
        if self.interrupted:
            return "interrupted"
        if self.of("failed"):
            return "failed"
        tried = any(row.check == "answer" and row.status == "passed" for row in self.rows)
        return "passed" if tried and self.finished else "incomplete"


def clean(text: str) -> str:
    """A message of others, on one line, without what looks like a key."""
    (line,) = masked([" ".join(text.split())])
    return cut_text(line)


def as_data(report: Report) -> dict[str, Any]:
    """The report as plain data, in the form of its schema."""
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "result": report.result,
        "label": report.label,
        "started": as_time(report.started),
        "seconds": round(report.seconds, 3),
        "budget_seconds": report.budget_seconds,
        "counts": {status: len(report.of(status)) for status in ("passed", "failed", "skipped")},
        "host": report.host,
        "versions": report.versions,
        "gpus": report.gpus,
        "models": report.models,
        "rows": [_row(row) for row in report.rows],
        "comparison": report.comparison,
    }


def as_time(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339, in UTC."""
    return datetime.fromtimestamp(int(seconds), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _row(row: Row) -> dict[str, Any]:
    values = {name: _rounded(value) for name, value in row.values.items()}
    return {"id": row.id, **asdict(row), "seconds": _rounded(row.seconds), "values": values}


def _rounded(value: Value) -> Value:
    return round(value, 4) if isinstance(value, float) else value


def as_text(report: Report) -> str:
    """The report as JSON."""
    return json_text(as_data(report), indent=1) + "\n"


def read_report(text: str) -> dict[str, Any]:
    """An earlier report, as far as a comparison reads it. Raises `NotAReport`."""
    try:
        data = from_json(text.encode(), strict=True)
    except ValueError as error:
        raise NotAReport("it is not JSON") from error
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise NotAReport("it is not a report of `llm-router qualify`")
    if data.get("schema") != SCHEMA:
        raise NotAReport(
            f"its schema is {data.get('schema')!r}, and this version reads {SCHEMA}: compare it "
            "with the version that wrote it"
        )
    rows, versions = data.get("rows"), data.get("versions")
    if not isinstance(rows, list) or not isinstance(versions, dict):
        raise NotAReport("it has no rows or no versions")
    kept = [
        row
        for row in rows
        if isinstance(row, dict)
        and isinstance(row.get("id"), str)
        and isinstance(row.get("values"), dict)
    ]
    return {**data, "rows": kept, "versions": versions}


def counted(number: int, one: str, more: str = "") -> str:
    """The number with its noun; ``more`` is the plural where that is not ``one`` with an s."""
    return f"{number} {one if number == 1 else more or one + 's'}"


def as_duration(seconds: float) -> str:
    """In minutes, where that loses nothing."""
    if seconds >= 60 and seconds % 60 == 0:
        return counted(int(seconds // 60), "minute")
    return f"{seconds:g} seconds"


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The values that are numbers, and of a size that one of a report can have."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**63
    }


def summary(rows: Iterable[Row]) -> list[str]:
    """A line for each row, for a terminal."""
    lines = []
    for row in rows:
        title = CHECKS.get(row.check, row.check)
        about = " ".join(
            part for part in (row.subject, f"({row.part})" if row.part else "") if part
        )
        lines.append(f"{row.status:<8} {title}{': ' + about if about else ''}; {row.detail}")
    return lines
