"""The HTTP API from the router's own OpenAPI description."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_router.api import create_app
from llm_router.config.load import Settings
from llm_router.config.schema import Config
from tools.docs.markup import escape, page, table

Json = dict[str, Any]
_ORDER = ("get", "post", "put", "patch", "delete")


def http_page() -> str:
    """Every path and method, what it takes and what it answers."""
    nowhere = Path("/nonexistent/config.yml")
    settings = Settings(Config(schema=1), {}, (), nowhere, nowhere, nowhere)
    made = create_app(settings).openapi()
    parts = [
        "The same as data: `GET /openapi.json` of a running router. What the paths mean, and how "
        "an answer streams: [api.md](../api.md); what administration does: [architecture.md]"
        "(../architecture.md#admin-api-same-port-and-the-admin-socket).\n",
        _overview(made),
    ]
    for path, methods in made["paths"].items():
        for method in _ORDER:
            if method in methods:
                parts += list(_operation(path, method, methods[method], made))
    return page("HTTP API", "the router's OpenAPI description", parts)


def _overview(made: Json) -> str:
    rows = [
        [f"`{method.upper()} {path}`", _said(methods[method]).partition(". ")[0].rstrip(".")]
        for path, methods in made["paths"].items()
        for method in _ORDER
        if method in methods
    ]
    return table(["call", "what"], rows)


def _operation(path: str, method: str, entry: Json, made: Json) -> Iterator[str]:
    yield f"## {method.upper()} {path}\n"
    yield _said(entry) + "\n"
    taken = list(_taken(entry, made))
    if taken:
        yield table(["it takes", "in", "value", "what"], taken)
    answers = [
        [
            status,
            ", ".join(f"`{kind}`" for kind in answer.get("content", {})),
            answer["description"],
        ]
        for status, answer in sorted(entry["responses"].items())
        if not status.startswith(("4", "5"))
    ]
    yield table(["status", "content", "what"], [[*map(escape, row)] for row in answers])
    errors = sorted(status for status in entry["responses"] if status[0] in "45")
    if errors:
        yield f"Errors: {', '.join(errors)}.\n"


def _said(entry: Json) -> str:
    """The docstring of what answers, or one line."""
    return escape(entry.get("description") or entry.get("summary", "")).replace("``", "`")


def _taken(entry: Json, made: Json) -> Iterator[list[str]]:
    for one in entry.get("parameters", ()):
        needed = "; required" if one.get("required") else ""
        what = escape(one.get("description", ""))
        yield [f"`{one['name']}`", one["in"] + needed, _value(one["schema"]), what]
    for kind, content in entry.get("requestBody", {}).get("content", {}).items():
        body = _resolved(content.get("schema", {}), made)
        if not body.get("properties"):
            yield ["the body", f"`{kind}`", "", ""]
        for name, one in body.get("properties", {}).items():
            needed = "; required" if name in body.get("required", ()) else ""
            what = escape(one.get("description", ""))
            yield [f"`{name}`", f"`{kind}`{needed}", _value(_resolved(one, made)), what]


def _resolved(schema: Json, made: Json) -> Json:
    if "$ref" not in schema:
        return schema
    found: Json = made["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def _value(schema: Json) -> str:
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    several = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    if several:
        return " or ".join(_value(one) for one in several)
    default = f", {schema['default']}" if schema.get("default") not in (None, "") else ""
    return str(schema.get("type", "")) + default
