"""What the router's status looks like as lines of text. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llm_router.cli.plain import printable

Paint = Callable[[str, str], str]
"""(text, state) → the text, in the state's colour."""

_COLOURS = {"loaded": "32", "loading": "33", "failed": "31", "heading": "2"}


def no_paint(text: str, state: str) -> str:
    """For whatever is no terminal."""
    return text


def paint(text: str, state: str) -> str:
    """With ANSI colours."""
    colour = _COLOURS.get(state)
    return f"\x1b[{colour}m{text}\x1b[0m" if colour else text


def status_lines(
    status: Mapping[str, Any],
    requests: Sequence[Mapping[str, Any]],
    *,
    width: int | None = None,
    rows: int | None = None,
    paint: Paint = no_paint,
) -> list[str]:
    """The answers of /admin/status and /admin/requests as lines.

    None is ``width`` cells or more wide: columns that matter least go first, then texts are cut.
    Where there are more than ``rows`` lines, models that do nothing are only counted.
    """
    models = dict(status["models"])
    lines = _status_lines(status, models, requests, width, paint)
    if rows is None or len(lines) <= rows:
        return lines
    busy = {name: model for name, model in models.items() if _is_busy(model)}
    lines = _status_lines(status, busy, requests, width, paint)
    if len(lines) > rows:
        lines = [*lines[: rows - 1], f"… {len(lines) - rows + 1} more lines"]
    return lines


def _status_lines(
    status: Mapping[str, Any],
    models: Mapping[str, Mapping[str, Any]],
    requests: Sequence[Mapping[str, Any]],
    width: int | None,
    paint: Paint,
) -> list[str]:
    heads = [switch_line(switch) for switch in status["switches"]]
    heads += [
        f"{group['pinned']['model']} is pinned for {group['pinned']['seconds']:.0f} s more"
        for group in status["groups"].values()
        if "pinned" in group
    ]
    lines = [_fit(head, width, "loading", paint) for head in heads]
    if lines:
        lines.append("")
    lines += _model_lines(status, models, width, paint)
    idle = len(status["models"]) - len(models)
    if idle:
        lines.append(_fit(f"… and {idle} stopped", width, "heading", paint))
    if requests:
        lines += ["", *request_lines(requests, width=width, paint=paint)]
    return lines


def switch_line(switch: Mapping[str, Any]) -> str:
    """What a running switch does now, and for how long it has run."""
    if switch["model"] is None:
        what = f"unloading {switch['previous']}"
    elif switch["previous"] is None or switch["previous"] == switch["model"]:
        what = f"switching to {switch['model']}"
    else:
        what = f"switching from {switch['previous']} to {switch['model']}"
    # a router that is older than this command does not say what a step does
    doing = f", {switch['doing']}" if switch.get("doing") else ""
    return f"{what}: {switch['step'] or 'beginning'}{doing}, {switch['seconds']:.0f} s"


def _model_lines(
    status: Mapping[str, Any],
    models: Mapping[str, Mapping[str, Any]],
    width: int | None,
    paint: Paint,
) -> list[str]:
    # a router that is older than this command does not say which group a model is in
    grouped = len(status["groups"]) > 1 and all("group" in model for model in models.values())
    table, notes, states = [], [], []
    for name, model in models.items():
        row = [name, model["state"], _traffic(model)]
        row += [f"group {model['group']}"] if grouped else []
        table.append([*row, model["unit"]])
        states.append(model["state"])
        failure = model.get("failure")
        notes.append(_failure(failure) if failure else None)
    return _table(None, table, notes, states, width, paint)


def _traffic(model: Mapping[str, Any]) -> str:
    return f"{model['in_flight']} served, {model['waiting']} waiting"


def _is_busy(model: Mapping[str, Any]) -> bool:
    return bool(model["state"] != "stopped" or model["in_flight"] or model["waiting"])


def _failure(failure: Mapping[str, Any]) -> str:
    count = failure["count"]
    times = "" if count == 1 else f" ({count} times in a row)"
    return f"  {failure['message']}{times}"


def request_lines(
    requests: Sequence[Mapping[str, Any]], *, width: int | None = None, paint: Paint = no_paint
) -> list[str]:
    """A table of /admin/requests; one sentence when there are none."""
    if not requests:
        return ["no request is in flight"]
    heads = ["REQUEST", "STATE", "SECONDS", "MODEL", "KEY", "PATH"]
    table = [
        [
            str(request["id"]),
            request["state"],
            f"{request['seconds']:.1f}",
            request["model"],
            request["key"] or "-",
            request["path"],
        ]
        for request in requests
    ]
    states = ["loaded" if request["state"] == "answering" else "loading" for request in requests]
    return _table(heads, table, [None] * len(table), states, width, paint)


def table_lines(heads: Sequence[str], table: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they need to be."""
    nothing = [None] * len(table)
    return _table(heads, table, nothing, [""] * len(table), None, no_paint)


def _table(
    heads: Sequence[str] | None,
    table: Sequence[Sequence[str]],
    notes: Sequence[str | None],
    states: Sequence[str],
    width: int | None,
    paint: Paint,
) -> list[str]:
    """``notes`` go below their rows. The last columns are left out where they do not fit."""
    rows = [*([heads] if heads else []), *table]
    widths = [max(map(cells, column)) for column in zip(*rows, strict=True)]
    columns = len(widths)
    while width is not None and columns > 2 and sum(widths[:columns]) + 2 * (columns - 1) > width:
        columns -= 1
    lines = []
    if heads:
        lines.append(_fit(_row(heads, widths[:columns]), width, "heading", paint))
    for row, note, state in zip(table, notes, states, strict=True):
        lines.append(_fit(_row(row, widths[:columns]), width, state, paint))
        if note is not None:
            lines.append(_fit(note, width, state, paint))
    return lines


def _row(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = [text + " " * (width - cells(text)) for text, width in zip(row, widths, strict=False)]
    return "  ".join(padded).rstrip()


def _fit(text: str, width: int | None, state: str, paint: Paint) -> str:
    return paint(cut(one_line(text), width), state)


def one_line(text: str) -> str:
    """One line, without what would move a terminal's cursor."""
    return printable(text).replace("\n", " ").replace("\t", " ")


def cut(text: str, width: int | None) -> str:
    """At most ``width`` cells of a terminal."""
    if width is None or cells(text) <= width:
        return text
    kept, used = [], 0
    for char in text:
        used += cells(char)
        if used > width - 1:
            break
        kept.append(char)
    return "".join(kept) + "…"


def cells(text: str) -> int:
    """How many cells of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )
