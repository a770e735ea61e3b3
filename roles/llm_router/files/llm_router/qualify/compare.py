"""Compares a report with an earlier one: slower values, other versions, other results. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_router.qualify.report import CHECKS, Report, Row, as_data, counted, numbers

MORE_IS_SLOWER: Mapping[str, float] = {
    "load_seconds": 0.5,
    "out_seconds": 0.3,
    "back_seconds": 0.5,
    "memory_wait_seconds": 0.3,
    "ttft_seconds_p50": 0.02,
    "turn_seconds_p50": 0.5,
    "compile_seconds": 2.0,
}
"""Values of which more is worse, and the difference in seconds that is noise, however many percent
it is."""
LESS_IS_SLOWER: Mapping[str, float] = {"tokens_per_second_p50": 0.5}
WORDS: Mapping[str, str] = {
    "load_seconds": "load time in s",
    "out_seconds": "time to leave in s",
    "back_seconds": "time to come back in s",
    "memory_wait_seconds": "wait for memory in s",
    "ttft_seconds_p50": "first token in s",
    "turn_seconds_p50": "time of a switch in s",
    "compile_seconds": "time to compile in s",
    "tokens_per_second_p50": "tokens/s",
}
"""The compared values, for a reader."""


def in_words(row_id: str, value: str = "") -> str:
    """A row, or one of its values, for a reader: ``Speed: m, tokens/s``."""
    check, _, about = row_id.partition(":")
    title = CHECKS.get(check, check) + (f": {about}" if about else "")
    return f"{title}, {WORDS.get(value, value)}" if value else title


def compare(report: Report, before: Mapping[str, Any], percent: float) -> dict[str, Any]:
    """The comparison, as plain data. ``before``: from `read_report`; ``percent``: the
    slowdown that counts."""
    now = as_data(report)
    earlier = {row["id"]: row for row in before["rows"]}
    current = {row["id"]: row for row in now["rows"]}
    slower, faster = [], []
    for name in current.keys() & earlier.keys():
        for entry in _values(name, earlier[name]["values"], current[name]["values"]):
            if entry["slower_percent"] >= percent:
                slower.append(entry)
            elif entry["slower_percent"] <= -percent:
                faster.append(entry)
    worst = sorted(slower, key=lambda entry: -entry["slower_percent"])
    best = sorted(faster, key=lambda entry: entry["slower_percent"])
    return {
        "started": _text(before.get("started")),
        "label": _text(before.get("label")),
        "percent": percent,
        "slower": worst,
        "faster": best,
        "versions": _changed(before["versions"], now["versions"]),
        "results": [
            {"id": name, "before": _text(earlier[name].get("status")), "now": row["status"]}
            for name, row in current.items()
            if name in earlier and earlier[name].get("status") != row["status"]
        ],
        "only_before": [name for name in earlier if name not in current],
        "only_now": [name for name in current if name not in earlier],
    }


def as_row(comparison: Mapping[str, Any]) -> Row:
    """The comparison as a check of its own: failed where something became slower, or no longer
    passes."""
    slower = comparison["slower"]
    worse = [one for one in comparison["results"] if one["before"] == "passed"]
    broken = [one for one in worse if one["now"] == "failed"]
    versions = comparison["versions"]
    parts = []
    if slower:
        first = slower[0]
        parts.append(
            f"{counted(len(slower), 'value is', 'values are')} at least "
            f"{comparison['percent']:g} % slower, most of all "
            f"{in_words(first['id'], first['value'])} ({first['slower_percent']:+.0f} %)"
        )
    if broken:
        parts.append(f"{counted(len(broken), 'check')} passed before, and now failed")
    if not parts:
        parts.append(f"nothing is {comparison['percent']:g} % slower than before")
    if versions:
        names = ", ".join(one["name"] for one in versions)
        parts.append(f"other versions: {names}")
    return Row(
        "comparison",
        "",
        "failed" if slower or broken else "passed",
        "; ".join(parts),
        values={"slower": len(slower), "faster": len(comparison["faster"])},
    )


def _values(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each value that is different by more than noise."""
    found = []
    was, has = numbers(before), numbers(now)
    for value in was.keys() & has.keys():
        old, new = was[value], has[value]
        sign, noise = 0, 0.0
        if value in MORE_IS_SLOWER:
            sign, noise = 1, MORE_IS_SLOWER[value]
        elif value in LESS_IS_SLOWER:
            sign, noise = -1, LESS_IS_SLOWER[value]
        if not sign or old <= 0 or new <= 0 or abs(new - old) <= noise:
            continue
        # of a rate, the time that a token takes is what grows
        ratio = new / old if sign > 0 else old / new
        found.append(
            {
                "id": name,
                "value": value,
                "before": old,
                "now": new,
                "slower_percent": round((ratio - 1) * 100, 1),
            }
        )
    return found


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of what both reports know: an engine that only one of them tried has not changed."""
    return [
        {"name": name, "before": _text(before[name]), "now": _text(version)}
        for name, version in now.items()
        if name in before and before[name] != version
    ]


def _text(value: Any) -> str | None:
    return value[:200] if isinstance(value, str) else None
