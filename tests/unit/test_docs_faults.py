"""docs/faults.md names a test for each fault, and each of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.hostile import table
from tests.hostile.behaviours import BEHAVIOURS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/faults.md").read_text(encoding="utf-8")
ROWS = [
    line
    for line in PAGE.replace(table.written(), "").splitlines()
    if line.startswith("| ") and not line.startswith("| fault |")
]


def test_every_fault_has_a_test_that_exists() -> None:
    assert ROWS
    for row in ROWS:
        cells = row.strip("| ").split(" | ")
        assert len(cells) == 5, row
        named = re.fullmatch(r"`(tests/\S+\.py)::(test_\w+)`", cells[-1])
        assert named is not None, row
        tree = ast.parse((ROOT / named[1]).read_text(encoding="utf-8"))
        tests = {
            node.name
            for node in tree.body
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        }
        assert named[2] in tests, row


def test_the_table_of_hostile_engines_is_that_of_their_test() -> None:
    """`make test-hostile` checks that it is also what happens."""
    names = [each.name for each in BEHAVIOURS]
    assert len(set(names)) == len(names)
    expected = table.rows(
        {each.name: each.gets for each in BEHAVIOURS}, dict.fromkeys(names, table.NOTHING)
    )
    assert table.written() == expected, "docs/faults.md: run `make hostile-table`"


def test_every_test_that_the_security_page_names_is_there() -> None:
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) >= 10
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"
