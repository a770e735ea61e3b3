"""``python -m tools.public_names``: list the names that users rely on.

It writes tests/golden/public_names.json: configuration keys, metrics, error codes, exit statuses,
commands and their options, HTTP paths, role variables, module options and state files. A test
compares the list with the code: a name that is gone is red, so a change of structure cannot remove
one by accident. Run it again to add new names.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from llm_router.api import create_app
from llm_router.api.paths import OPERATIONS
from llm_router.cli.exits import Exit
from llm_router.cli.parser import build
from llm_router.config import schema
from llm_router.config.load import Settings

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests/golden/public_names.json"
ROUTER = ROOT / "roles/llm_router/files/llm_router"
STATE_FILES = ("asleep.json", "learned.json", "started.json")


def public_names() -> dict[str, list[str]]:
    """The names by their kind, each list sorted."""
    strings = set(_strings(ROUTER))
    found = {
        "commands": _commands(build()),
        "configuration keys": _keys(),
        "error codes": _error_codes(ROUTER),
        "exit statuses": (f"{int(each)} {each.name}" for each in Exit),
        "http paths": _paths(),
        "metrics": (each for each in strings if each.startswith("llm_router_")),
        "module options": _module_options(),
        "role variables": _role_variables(),
        "state files": (each for each in STATE_FILES if each in strings),
    }
    return {kind: sorted(set(names)) for kind, names in found.items()}


def _trees(folder: Path) -> Iterator[ast.Module]:
    for path in sorted(folder.rglob("*.py")):
        yield ast.parse(path.read_text(encoding="utf-8"))


def _strings(folder: Path) -> Iterator[str]:
    for tree in _trees(folder):
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def _error_codes(folder: Path) -> Iterator[str]:
    """The second argument of each ``ApiError(…)``, or its ``code=``."""
    for tree in _trees(folder):
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith("ApiError"):
                continue
            named = [each.value for each in node.keywords if each.arg == "code"]
            for each in (*node.args[1:2], *named):
                yield from (
                    part.value
                    for part in ast.walk(each)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                )


def _commands(described: argparse.ArgumentParser, name: str = "") -> Iterator[str]:
    for action in described._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command, below in action.choices.items():
                yield f"{name}{command}"
                yield from _commands(below, f"{name}{command} ")
        else:
            yield from (f"{name}{option}" for option in action.option_strings)


def _keys() -> Iterator[str]:
    for file, model in (
        ("config.yml", schema.Config),
        ("keys.yml", schema.KeysFile),
        ("models.yml", schema.ModelsFile),
    ):
        for key in _fields(model, ()):
            yield f"{file}: {key}"


def _fields(model: type[BaseModel], above: tuple[type[BaseModel], ...]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        key = field.alias or name
        yield key
        for below in _models_in(field.annotation):
            if below not in above:
                yield from (f"{key}.{each}" for each in _fields(below, (*above, model)))


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for each in getattr(annotation, "__args__", ()):
        yield from _models_in(each)


def _paths() -> Iterator[str]:
    nowhere = Path("/nonexistent/config.yml")
    settings = Settings(schema.Config(schema=1), {}, (), nowhere, nowhere, nowhere)
    described = create_app(settings).openapi()
    for path, methods in described["paths"].items():
        yield from (f"{method.upper()} {path}" for method in methods if method != "parameters")
    yield from (f"POST {path}" for operation in OPERATIONS for path in operation.paths)


def _role_variables() -> Iterator[str]:
    for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml")):
        described = yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]
        for entry in described.values():
            yield from entry.get("options", {})


def _module_options() -> Iterator[str]:
    for path in sorted((ROOT / "plugins/modules").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DOCUMENTATION":
                described = yaml.safe_load(ast.literal_eval(node.value))
                yield from (f"{path.stem}: {each}" for each in described.get("options", {}))


def main() -> None:
    """Write the list."""
    GOLDEN.write_text(json.dumps(public_names(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
