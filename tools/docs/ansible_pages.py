"""A page for each role and each plugin that is there, from what they say of themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tools.docs.markup import cell, page, paragraphs, table
from tools.docs.options import options_table, returned_table

Pages = dict[str, str]
_FILE_NAMES = {"module": "modules", "filter": "filter"}
_USE = {
    "main": "In a playbook: `roles: [roundhouse.llm.{name}]`.",
    "preflight": "The checks alone; they change nothing.",
}


def role_pages(roles: Path) -> Pages:
    """By name under docs/reference: each role's page, and the list of them."""
    pages, rows = {}, []
    for spec in sorted(roles.glob("*/meta/argument_specs.yml")):
        role = spec.parents[1].name
        entries = yaml.safe_load(spec.read_text(encoding="utf-8"))["argument_specs"]
        pages[f"roles/{role}.md"] = _role_page(role, entries)
        first = entries.get("main") or next(iter(entries.values()))
        said = cell(first["short_description"]) if "main" in entries else "For other roles"
        rows.append([f"[{role}]({role}.md)", said, ", ".join(f"`{name}`" for name in entries)])
    pages["roles/README.md"] = page(
        "Roles", "roles/*/meta/argument_specs.yml", [table(["role", "what", "entry points"], rows)]
    )
    return pages


def _role_page(role: str, entries: dict[str, Any]) -> str:
    parts: list[str] = []
    shown: list[object] = []
    for name, entry in entries.items():
        if len(entries) > 1:
            parts.append(f"## {name}\n")
        parts.append(f"{cell(entry['short_description'])}.\n")
        if entry.get("description"):
            parts.append(paragraphs(entry["description"]))
        if name in _USE:
            parts.append(_USE[name].format(name=role) + "\n")
        options = entry.get("options") or {}
        if options in shown:
            parts.append("It takes the same variables.\n")
        elif options:
            parts.append(options_table(options, "variable"))
        shown.append(options)
    return page(role, f"roles/{role}/meta/argument_specs.yml", parts)


def plugin_pages(plugins: Path, fragments: Path) -> Pages:
    """By name under docs/reference: the page of each module and filter, and the list of them."""
    pages, rows = {}, []
    for sort, folder in (("module", "modules"), ("filter", "filter")):
        for path in sorted((plugins / folder).glob("*.py")):
            said = _constants(path)
            if "DOCUMENTATION" not in said:
                continue
            documentation = _whole(yaml.safe_load(said["DOCUMENTATION"]), fragments)
            pages[f"plugins/{path.stem}.md"] = _plugin_page(sort, path, documentation, said)
            what = cell(documentation["short_description"])
            rows.append([f"[{path.stem}]({path.stem}.md)", sort, what])
    pages["plugins/README.md"] = page(
        "Modules and filters", "plugins/", [table(["name", "sort", "what"], rows)]
    )
    return pages


def _constants(path: Path) -> dict[str, str]:
    """The module-level texts of a Python file, by name; nothing is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def _whole(documentation: dict[str, Any], fragments: Path) -> dict[str, Any]:
    """With what the fragments that it extends have."""
    extended = documentation.get("extends_documentation_fragment", [])
    for name in [extended] if isinstance(extended, str) else extended:
        text = _class_text(fragments / f"{name.rpartition('.')[2]}.py")
        for section, values in yaml.safe_load(text).items():
            own = documentation.get(section, {} if isinstance(values, dict) else [])
            if isinstance(values, dict):
                documentation[section] = {
                    **own,
                    **{k: v for k, v in values.items() if k not in own},
                }
            else:
                documentation[section] = [*own, *values]
    return documentation


def _class_text(path: Path) -> str:
    """``ModuleDocFragment.DOCUMENTATION``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            if getattr(node.targets[0], "id", "") == "DOCUMENTATION":
                return str(node.value.value)
    raise SystemExit(f"{path} has no DOCUMENTATION")


def _plugin_page(sort: str, path: Path, documentation: dict[str, Any], said: dict[str, str]) -> str:
    parts = [f"{cell(documentation['short_description'])}.\n"]
    parts += list(_plugin_parts(documentation))
    if said.get("EXAMPLES"):
        parts.append(f"## Examples\n\n```yaml\n{said['EXAMPLES'].strip()}\n```\n")
    returned = yaml.safe_load(said.get("RETURN", "")) or {}
    if returned:
        parts += ["## What it returns\n", returned_table(returned)]
    source = f"plugins/{_FILE_NAMES[sort]}/{path.name}"
    return page(f"roundhouse.llm.{path.stem}", source, parts)


def _plugin_parts(documentation: dict[str, Any]) -> Iterator[str]:
    yield paragraphs(documentation["description"])
    if documentation.get("requirements"):
        needed = [f"- {cell(one)}" for one in documentation["requirements"]]
        yield "\n".join(["It needs, on the host that it runs on:\n", *needed]) + "\n"
    options = documentation.get("options") or {}
    if options:
        yield "## Options\n"
        yield options_table(options, "option")
    attributes = documentation.get("attributes") or {}
    if attributes:
        yield "## How it behaves\n"
        yield table(
            ["", "support", "what"],
            [
                [name.replace("_", " "), str(one.get("support", "")), cell(one["description"])]
                for name, one in attributes.items()
            ],
        )
