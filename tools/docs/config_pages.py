"""models.yml, config.yml and keys.yml, key by key, from the schema that reads them.

What a key is for is the text below its field in `llm_router.config.schema`; what it may be and its
default are the field's own.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from llm_router.config import schema
from tools.docs.markup import code, escape, page, table

SOURCE = "roles/llm_router/files/llm_router/config/schema.py"
Json = dict[str, Any]


def config_pages() -> dict[str, str]:
    """By name under docs/reference: a page for each file."""
    entry, parameters = schema.ModelEntry, schema.Parameters
    return {
        "models-yml.md": page(
            "models.yml",
            SOURCE,
            [
                "What each key of a model is for in a whole file: [architecture.md]"
                "(../architecture.md#modelsyml). Examples: [examples/](../../examples/).\n",
                "## The file\n",
                _keys_table(schema.ModelsFile),
                "## A model's entry\n",
                _keys_table(entry),
                "## An entry of `variants`\n",
                _keys_table(parameters),
                "## `repairs`\n",
                _intro(schema.RepairSwitches),
                _keys_table(schema.RepairSwitches),
            ],
        ),
        "config-yml.md": page("config.yml", SOURCE, _config_parts()),
        "keys-yml.md": page(
            "keys.yml",
            SOURCE,
            [_keys_table(schema.KeysFile), "## An entry of `keys`\n", _keys_table(schema.ApiKey)],
        ),
    }


def _config_parts() -> Iterator[str]:
    yield (
        "On a server the role writes it: [`llm_router`](roles/llm_router.md) has a variable for"
        " each key that a server may want to set, and `llm_router_config_extra` for the rest.\n"
    )
    sections = {
        name: field.annotation
        for name, field in schema.Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
    yield _keys_table(schema.Config, leave_out=set(sections))
    for name, section in sections.items():
        yield f"## `{name}`\n"
        yield _intro(section)
        yield _keys_table(section)


def _intro(section: type[BaseModel]) -> str:
    return "\n\n".join(_said(one) for one in _docstring(section).split("\n\n")) + "\n"


def _docstring(section: type[BaseModel]) -> str:
    return inspect.cleandoc(section.__doc__ or "")


def _keys_table(section: type[BaseModel], leave_out: set[str] | None = None) -> str:
    described = _descriptions(section)
    made = section.model_json_schema(by_alias=False)
    rows = []
    for name, field in section.model_fields.items():
        if name in (leave_out or ()):
            continue
        if name not in described:
            raise SystemExit(f"{SOURCE}: {section.__name__}.{name} has no description below it")
        values = _values(made["properties"][name], made.get("$defs", {}))
        default = "required" if field.is_required() else _default(field.get_default())
        rows.append([f"`{field.alias or name}`", values, default, escape(_said(described[name]))])
    return table(["key", "value", "default", "what"], rows)


def _default(value: object) -> str:
    if value in (None, [], {}) or isinstance(value, BaseModel):
        return ""
    return code(f"[{', '.join(value)}]" if isinstance(value, list) else value)


def _said(text: str) -> str:
    """A docstring as Markdown: its double backquotes single, and a page that it names linked."""
    said = " ".join(text.split()).replace("``", "`")
    return re.sub(r"\bdocs/([a-z-]+\.md)", r"[\1](../\1)", said)


def _descriptions(section: type[BaseModel]) -> dict[str, str]:
    """By field, of the class and those that it inherits from: the text below it."""
    found: dict[str, str] = {}
    tree = ast.parse(inspect.getsource(schema))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for base in reversed(section.__mro__):
        body = classes[base.__name__].body if base.__name__ in classes else []
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                    found[field.target.id] = str(text.value.value)
                elif _is_section(field):
                    found[field.target.id] = f"See [`{field.target.id}`](#{field.target.id})."
    return found


def _is_section(field: ast.AnnAssign) -> bool:
    named = getattr(schema, ast.unparse(field.annotation).partition(" ")[0], None)
    return isinstance(named, type) and issubclass(named, BaseModel)


def _values(entry: Json, defs: Json) -> str:
    """What a field's JSON schema allows, in words."""
    if "$ref" in entry:
        return _values(defs[entry["$ref"].rpartition("/")[2]], defs)
    if "anyOf" in entry:
        several = [one for one in entry["anyOf"] if one.get("type") != "null"]
        return " or ".join(_values(one, defs) for one in several)
    if "const" in entry:
        return code(entry["const"])
    if "enum" in entry:
        return ", ".join(code(one) for one in entry["enum"])
    kind = entry.get("type")
    if kind == "array":
        return f"list of {_values(entry['items'], defs)}"
    if kind == "object":
        return "mapping"
    if kind in ("integer", "number"):
        return {"integer": "whole number", "number": "number"}[kind] + _bounds(entry)
    if kind == "boolean":
        return "`true`, `false`"
    return "path" if entry.get("pattern") == "^/" else "text"


def _bounds(entry: Json) -> str:
    low, high = entry.get("minimum"), entry.get("maximum")
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    if low is not None:
        return f", {low:g} or more"
    return ", more than 0" if entry.get("exclusiveMinimum") == 0 else ""
