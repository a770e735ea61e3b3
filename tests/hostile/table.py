"""The table of docs/faults.md: behaviour, what its client got, what others felt."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tests.integration.conftest import ROOT

PAGE = ROOT / "docs/faults.md"
BEGIN = "<!-- begin: written by `make hostile-table` -->\n"
END = "<!-- end -->\n"
NOTHING = "nothing"


def rows(got: Mapping[str, str], felt: Mapping[str, str]) -> str:
    """The table; ``got`` and ``felt`` by behaviour."""
    lines = ["| the engine | its client gets | others feel |", "|---|---|---|"]
    for name, words in got.items():
        quoted = re.sub(r"\b[a-z]+_[a-z]+\b", r"`\g<0>`", words)
        lines.append(f"| {name} | {quoted} | {felt[name]} |")
    return "\n".join(lines) + "\n"


def written() -> str:
    """The table that the page has."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def write(table: str) -> None:
    """Put it into the page."""
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    PAGE.write_text(head + BEGIN + table + END + rest.partition(END)[2], encoding="utf-8")
