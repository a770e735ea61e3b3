"""tests/standin/TRAPS.md names a test for each trap, and each of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROWS = [
    line
    for line in (ROOT / "tests/standin/TRAPS.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| section |")
]


def functions(path: Path) -> set[str]:
    """The tests of a pytest file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def task_names(node: Any) -> set[str]:
    """The names of all tasks and plays in a parsed playbook."""
    if isinstance(node, list):
        return set().union(*map(task_names, node))
    if not isinstance(node, dict):
        return set()
    own = {node["name"]} if isinstance(node.get("name"), str) else set()
    return own.union(*(task_names(node.get(key)) for key in ("tasks", "block", "rescue")))


@pytest.mark.parametrize("row", ROWS)
def test_every_trap_has_a_test_that_exists(row: str) -> None:
    cells = row.strip("| ").split(" | ")
    assert len(cells) == 3, row
    named = re.fullmatch(r"`([\w/.]+)::(.+)`", cells[2])
    assert named is not None, row
    path = ROOT / named[1]
    if path.suffix == ".py":
        assert named[2] in functions(path)
    else:
        assert named[2] in task_names(yaml.safe_load(path.read_text(encoding="utf-8")))
