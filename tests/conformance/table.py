"""The tables of docs/conformance.md: what ran, and what differs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.conformance.compare import Comparison, Known
from tests.integration.conftest import ROOT

PAGE = ROOT / "docs/conformance.md"
BEGIN = "<!-- begin: written by `make conformance-table` -->\n"
END = "<!-- end -->\n"


def rows(found: Mapping[tuple[str, str, str], Comparison]) -> str:
    """The numbers; ``found`` by suite, version and way."""
    lines = ["| suite | version | ran | passed direct | passed through | differences |"]
    lines.append("|---|---|---|---|---|---|")
    for (suite, version, way), it in found.items():
        numbers = f"{it.ran} | {it.direct} | {it.through} | {len(it.differences)}"
        lines.append(f"| {suite}, {way} | {version} | {numbers} |")
    return "\n".join(lines) + "\n"


def reasons(found: Mapping[tuple[str, str, str], Comparison], known: Iterable[Known]) -> str:
    """The differences by their reason."""
    lines = ["| suite | differences | why |", "|---|---|---|"]
    counted: dict[tuple[str, str], set[str]] = {}
    for line in known:
        for (suite, _, way), it in found.items():
            if (suite, way) == (line.suite, line.way):
                tests = {test for test in it.differences if line.matches(test)}
                counted.setdefault((suite, line.reason), set()).update(tests)
    for (suite, reason), tests in counted.items():
        lines.append(f"| {suite} | {len(tests)} | {reason} |")
    return "\n".join(lines) + "\n"


def written() -> str:
    """The tables that the page has."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def write(tables: str) -> None:
    """Put them into the page."""
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    PAGE.write_text(head + BEGIN + tables + END + rest.partition(END)[2], encoding="utf-8")
