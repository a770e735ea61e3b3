"""tests/standin/TRAPS.md names a test for each trap, and each of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("| ").split(" | ")]
    for line in (ROOT / "tests/standin/TRAPS.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| trap |")
]


def names_in(path: Path) -> set[str]:
    """The names of a file's tests, those in classes too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, functions)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_trap_has_its_test(row: list[str]) -> None:
    trap, section, shown, test = row
    assert trap
    assert shown
    assert re.fullmatch(r"[0A-H](\.\d)?(, [0A-H](\.\d)?)*", section)
    named = re.fullmatch(r"`(tests/\S+\.py)::(test_\w+)`", test)
    assert named is not None
    assert named[2] in names_in(ROOT / named[1])


def test_no_trap_is_told_twice() -> None:
    assert len({row[0] for row in ROWS}) == len(ROWS) > 20
