"""The tables of docs/conformance.md: what ran, and what differs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.conformance.compare import Comparison, Known
from tests.integration.conftest import ROOT

PAGE = ROOT / "docs/conformance.md"
BEGIN = "<!-- begin: written by `make conformance-table` -->\n"
END = "<!-- end -->\n"
HEADS = (
    "| suite | version | ran | passed direct | passed through | differences |\n"
    "|---|---|---|---|---|---|\n",
    "| suite | differences | why |\n|---|---|---|\n",
)
ORDER = ("openai-python", "anthropic-python", "llama.cpp", "httplint")


def rows(found: Mapping[tuple[str, str, str], Comparison]) -> list[str]:
    """The numbers; ``found`` by suite, version and way."""
    lines = []
    for (suite, version, way), it in found.items():
        numbers = f"{it.ran} | {it.direct} | {it.through} | {len(it.differences)}"
        lines.append(f"| {suite}, {way} | {version} | {numbers} |")
    return lines


def reasons(found: Mapping[tuple[str, str, str], Comparison], known: Iterable[Known]) -> list[str]:
    """The differences by their reason."""
    counted: dict[tuple[str, str, str], set[str]] = {}
    for line in known:
        for (suite, _, way), it in found.items():
            if (suite, way) == (line.suite, line.way):
                tests = {test for test in it.differences if line.matches(test)}
                counted.setdefault((suite, way, line.reason), set()).update(tests)
    return [
        f"| {suite}, {way} | {len(tests)} | {why} |" for (suite, way, why), tests in counted.items()
    ]


def tables(
    found: Mapping[tuple[str, str, str], Comparison], known: Iterable[Known], before: str
) -> str:
    """Both tables: the suites that ran, and the others as they were ``before``."""
    ran = tuple(f"| {suite}, {way} |" for suite, _, way in found)
    parts = []
    for head, new in zip(HEADS, (rows(found), reasons(found, known)), strict=True):
        old = before.partition(head)[2].partition("\n\n")[0].splitlines()
        kept = [line for line in old if not line.startswith(ran)]
        order = [*ORDER, ""]
        lines = sorted([*kept, *new], key=lambda row: order.index(_suite(row)))
        parts.append(head + "".join(f"{line}\n" for line in lines))
    return "\n".join(parts)


def _suite(row: str) -> str:
    name = row.removeprefix("| ").partition(",")[0]
    return name if name in ORDER else ""


def written() -> str:
    """The tables that the page has."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def write(tables: str) -> None:
    """Put them into the page."""
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    PAGE.write_text(head + BEGIN + tables + END + rest.partition(END)[2], encoding="utf-8")
