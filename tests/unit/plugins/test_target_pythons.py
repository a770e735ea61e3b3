"""Modules run with the host's Python: ansible-core 2.19 manages 3.8, as Ubuntu 20.04 has it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PLUGINS = Path(__file__).resolve().parents[3] / "plugins"
ON_HOSTS = sorted([*PLUGINS.glob("modules/*.py"), *PLUGINS.glob("module_utils/**/*.py")])
NEW = {"removeprefix", "removesuffix", "readlink", "is_relative_to", "with_stem", "randbytes"}
"""Methods that Python 3.9 brought."""


@pytest.mark.parametrize("path", ON_HOSTS, ids=lambda path: str(path.relative_to(PLUGINS)))
def test_what_runs_on_hosts_is_python_3_8(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    generic = {
        name.asname or name.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "collections.abc"
        for name in node.names
    } | {"dict", "list", "set", "tuple", "type"}
    # annotations are never evaluated; what a module assigns is
    evaluated = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    subscripted = [
        sub.value.id
        for value in evaluated
        for sub in ast.walk(value)
        if isinstance(sub, ast.Subscript) and isinstance(sub.value, ast.Name)
    ]
    assert not generic & set(subscripted)
    called = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and not (isinstance(node.value, ast.Name) and node.value.id == "os")
    }
    assert not NEW & called
