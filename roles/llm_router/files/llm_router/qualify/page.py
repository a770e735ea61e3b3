"""The report as one page of HTML that needs nothing else: no script, no font, no other file. Pure.

Every text is escaped: names of models, engines' words and an earlier report are other people's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from llm_router.qualify.compare import in_words
from llm_router.qualify.report import CHECKS, Report, Row, as_time

RESULTS = {
    "passed": "All checks that were made passed",
    "failed": "Some checks failed",
    "interrupted": "Ended before it was done",
    "incomplete": "Not enough was checked",
}
GIB = 2**30

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { --ground: #f3f5f6; --panel: #fff; --border: #dde2e6; --text: #1a2026; --muted: #57626d;
  --good: #14713f; --bad: #b3261e; --skip: #865300; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #0f1214; --panel: #171b1f; --border: #2b3238; --text: #e3e8ec;
    --muted: #9ba7b2; --good: #58c98f; --bad: #ff958c; --skip: #e3b04f; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text); font-variant-numeric: tabular-nums;
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { margin: .25rem 0; }
.muted, th, caption { color: var(--muted); }
.passed { color: var(--good); } .failed { color: var(--bad); }
.skipped, .interrupted, .incomplete { color: var(--skip); }
.result { font-size: 1.1rem; font-weight: 650; }
.panel { background: var(--panel); border: 1px solid var(--border); border-radius: 8px;
  overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .75rem;
  border-top: 1px solid var(--border); overflow-wrap: anywhere; }
thead th { border-top: 0; font-weight: 500; white-space: nowrap; }
tbody th { font-weight: 600; color: var(--text); min-width: 8rem; }
.number { text-align: right; white-space: nowrap; overflow-wrap: normal; }
.status { font-weight: 600; white-space: nowrap; }
@media (max-width: 40rem) {
  .stack thead { position: absolute; width: 1px; height: 1px; overflow: hidden;
    clip-path: inset(50%); }
  .stack tr { display: block; padding: .5rem 0; border-top: 1px solid var(--border); }
  .stack tbody:first-of-type tr:first-child { border-top: 0; }
  .stack th, .stack td { display: block; border: 0; padding: .1rem .75rem; text-align: left;
    white-space: normal; }
  .stack .nothing { display: none; }
  .stack td[data-label]::before { content: attr(data-label) ": "; color: var(--muted); }
}
@media print { .panel { border: 0; } }
</style>
</head>
<body>
<main>
<h1>$title</h1>
<p class="result $result">$verdict</p>
<p class="muted">$about</p>
$sections
</main>
</body>
</html>
""")


def as_html(report: Report) -> str:
    """The whole page."""
    counts = ", ".join(f"{len(report.of(one))} {one}" for one in ("passed", "failed", "skipped"))
    title = "Qualification" + (f" of {report.label}" if report.label else "")
    about = (
        f"{counts}. Started {as_time(report.started)}, took {report.seconds:.0f} s of a budget of "
        f"{report.budget_seconds:.0f} s."
    )
    sections = [
        _failures(report.rows),
        _models(report),
        _comparison(report.comparison),
        _checks(report.rows),
        _gpus(report.gpus),
        _facts("Versions", report.versions),
        _facts("Host", report.host),
    ]
    return _PAGE.substitute(
        title=escape(title),
        result=report.result,
        verdict=RESULTS[report.result],
        about=escape(about),
        sections="\n".join(section for section in sections if section),
    )


def _section(
    title: str, heads: Sequence[str], rows: Iterable[Sequence[Any]], *, numbers: int = 0
) -> str:
    return f"<h2>{escape(title)}</h2>\n" + _table(title, heads, rows, numbers=numbers)


def _table(
    label: str, heads: Sequence[str], rows: Iterable[Sequence[Any]], *, numbers: int = 0
) -> str:
    """``label`` is for screen readers; ``numbers``: so many columns at the end are numbers. On a
    phone each row is a block."""
    first = len(heads) - numbers
    head = "".join(
        f'<th scope="col"{_class(number=index >= first)}>{escape(one)}</th>'
        for index, one in enumerate(heads)
    )
    body = "\n".join(_row(heads, row, first) for row in rows)
    return (
        f'<div class="panel" tabindex="0" role="region" aria-label="{escape(label)}">'
        f'<table class="stack"><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'
    )


def _row(heads: Sequence[str], row: Sequence[Any], first: int) -> str:
    cells = [f'<th scope="row">{_cell(row[0])}</th>']
    for index, one in enumerate(row[1:], 1):
        kind = _class(number=index >= first, nothing=one is None or one == "")
        cells.append(f'<td data-label="{escape(heads[index])}"{kind}>{_cell(one)}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _class(*, number: bool, nothing: bool = False) -> str:
    names = [name for name, has in (("number", number), ("nothing", nothing)) if has]
    return f' class="{" ".join(names)}"' if names else ""


class _Html(str):
    """Text that is escaped already."""

    __slots__ = ()


def _cell(value: Any) -> str:
    if isinstance(value, _Html):
        return value
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return escape(str(value))


def _status(status: Any) -> _Html:
    known = status if status in ("passed", "failed", "skipped") else "skipped"
    return _Html(f'<span class="status {known}">{_cell(status)}</span>')


def _about(row: Row) -> str:
    return row.subject + (f" ({row.part})" if row.part else "")


def _failures(rows: Sequence[Row]) -> str:
    failed = [row for row in rows if row.status == "failed"]
    if not failed:
        return ""
    table = [(CHECKS.get(row.check, row.check), _about(row), row.detail) for row in failed]
    return _section("Failed", ("Check", "Of", "What is wrong"), table)


def _models(report: Report) -> str:
    rows = {row.id: row.values for row in report.rows}
    table = []
    for name, model in report.models.items():
        load, speed = rows.get(f"load:{name}", {}), rows.get(f"speed:{name}", {})
        table.append(
            (
                name,
                model.get("backend"),
                load.get("load_seconds"),
                speed.get("ttft_seconds_p50"),
                speed.get("tokens_per_second_p50"),
                _gib(load.get("gpu_memory_held_bytes")),
            )
        )
    if not table:
        return ""
    heads = ("Model", "Engine", "Load, s", "First token, s", "Tokens/s", "GPU memory, GiB")
    return _section("Models", heads, table, numbers=4)


def _gib(size: Any) -> float | None:
    return size / GIB if isinstance(size, int) else None


def _checks(rows: Sequence[Row]) -> str:
    order = list(CHECKS)
    ordered = sorted(rows, key=lambda row: order.index(row.check) if row.check in order else 99)
    table = [
        (
            CHECKS.get(row.check, row.check),
            _about(row),
            _status(row.status),
            row.detail,
            row.seconds,
        )
        for row in ordered
    ]
    heads = ("Check", "Of", "Result", "What was found", "Took, s")
    return _section("All checks", heads, table, numbers=1)


def _comparison(comparison: Mapping[str, Any] | None) -> str:
    if comparison is None:
        return ""
    named = f" of {comparison['label']}" if comparison["label"] else ""
    earlier = escape(f"The report{named} from {comparison['started']}.")
    parts = [f'<h2>Compared with an earlier report</h2>\n<p class="muted">{earlier}</p>']
    heads = ("Value", "Before", "Now", "Slower, %")
    for key, words in (("slower", "slower"), ("faster", "faster")):
        entries = comparison[key]
        if entries:
            table = [
                (
                    in_words(one["id"], one["value"]),
                    one["before"],
                    one["now"],
                    one["slower_percent"],
                )
                for one in entries
            ]
            parts.append(f"<p>At least {comparison['percent']:g} % {words}:</p>")
            parts.append(_table(words.capitalize(), heads, table, numbers=3))
    if not comparison["slower"] and not comparison["faster"]:
        parts.append(f"<p>No value differs by {comparison['percent']:g} % or more.</p>")
    if comparison["versions"]:
        changed = [(one["name"], one["before"], one["now"]) for one in comparison["versions"]]
        parts += [
            "<p>Other versions:</p>",
            _table("Other versions", ("Version of", "Before", "Now"), changed),
        ]
    if comparison["results"]:
        results = [
            (in_words(one["id"]), _status(one["before"]), _status(one["now"]))
            for one in comparison["results"]
        ]
        parts += [
            "<p>Other results:</p>",
            _table("Other results", ("Check", "Before", "Now"), results),
        ]
    return "\n".join(parts)


def _gpus(gpus: Sequence[Mapping[str, Any]]) -> str:
    if not gpus:
        return ""
    table = [
        (
            f"{gpu['index']}: {gpu['name']}",
            gpu["compute_capability"],
            gpu["persistence"],
            gpu["mig"],
            gpu["power_limit_watts"],
            _gib(gpu["memory_total_bytes"]),
        )
        for gpu in gpus
    ]
    heads = ("GPU", "Compute capability", "Persistence", "MIG", "Power limit, W", "Memory, GiB")
    return _section("GPUs", heads, table, numbers=2)


def _facts(title: str, facts: Mapping[str, Any]) -> str:
    if not facts:
        return ""
    return _section(title, ("Name", "Value"), [_fact(*fact) for fact in facts.items()])


def _fact(name: str, value: Any) -> tuple[str, Any]:
    """For a reader: memory in GiB, and names without underscores."""
    if name.endswith("_bytes"):
        name, value = name.removesuffix("_bytes") + ", GiB", _gib(value)
    return name.replace("_", " "), value
