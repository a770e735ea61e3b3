"""The OpenAPI description: what FastAPI knows, the proxied paths, and every error. Pure."""

from __future__ import annotations

from typing import Any

from llm_router.api.dialects import ANTHROPIC
from llm_router.api.paths import OPERATIONS, UPSTREAM, Operation

Json = dict[str, Any]

_ERRORS = {
    400: "The request is not understood",
    401: "No API key, or a wrong one",
    403: "The key may not do this",
    404: "There is no such model",
    408: "The request took too long to come",
    409: "This cannot be done now, or not without a switch that is not allowed",
    413: "The request is too large",
    429: "Too many requests wait, or the key has reached a limit of its own",
    500: "The router failed",
    501: "The model's engine cannot do this",
    502: "The engine failed",
    503: "The model cannot be loaded now, or the router is stopping",
    504: "The engine is silent, or the time that was given is over",
}
_ANY = {"type": "object", "additionalProperties": True}
_MODEL = {"type": "string", "description": "A model, an alias or a variant of models.yml"}
_SCHEMAS: Json = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": "string"},
                    "log_lines": {"type": "array", "items": {"type": "string"}},
                },
            }
        },
    },
    "EngineError": {
        "type": "object",
        "description": "Many engines tell of their own errors in shapes of their own",
        "additionalProperties": True,
    },
    "AnthropicError": {
        "type": "object",
        "required": ["type", "error"],
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "required": ["type", "message"],
                "properties": {
                    "type": {"type": "string"},
                    "message": {"type": "string"},
                    "code": {"type": "string"},
                    "log_lines": {"type": "array", "items": {"type": "string"}},
                },
            },
        },
    },
}
_NOT_JSON = {
    "/metrics": {"text/plain": {"schema": {"type": "string"}}},
    "/admin/events": {"text/event-stream": {"schema": {"type": "string"}}},
    "/admin/live": {"text/event-stream": {"schema": {"type": "string"}}},
}
_HEADERS: Json = {
    "X-Request-Id": "The request's id, as in the log",
    "X-LLM-Router-Model": "The model that answers",
    "X-LLM-Router-Backend": "Its engine",
    "X-LLM-Router-Queue-Seconds": "How long the request waited for its turn",
    "X-LLM-Router-Switch-Seconds": "How long it waited for the model to be loaded",
}


def described(made: Json) -> Json:
    """FastAPI's description of its own routes, made complete; ``made`` is changed."""
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas.update(_SCHEMAS)
    made["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    # or none at all, where no key is configured
    made["security"] = [{"bearer": []}, {"key": []}, {}]
    for path, methods in made["paths"].items():
        for entry in methods.values():
            # the router answers 400 instead
            entry["responses"].pop("422", None)
            if path in _NOT_JSON:
                entry["responses"]["200"]["content"] = _NOT_JSON[path]
            entry["responses"].update(_errors(400, 401, 403, 404, 408, 409, 500, 503, 504))
    health = made["paths"].get("/health", {}).get("get")
    if health is not None:
        # unhealthy is an answer, not an error
        health["responses"]["503"] = health["responses"]["200"]
    for operation in OPERATIONS:
        for path in operation.paths:
            made["paths"][path] = {"post": _proxied(operation, path)}
    upstream = {method: _upstream(method) for method in ("get", "post")}
    made["paths"][UPSTREAM.path + "/{model}/{path}"] = upstream
    return made


def _errors(*statuses: int, schema: str = "Error", engines: bool = False) -> Json:
    """``engines``: whether they may be an engine's own, which pass as they are."""
    shape: Json = {"$ref": f"#/components/schemas/{schema}"}
    content: Json = {"application/json": {"schema": shape}}
    if engines:
        own = {"$ref": "#/components/schemas/EngineError"}
        content = {"application/json": {"schema": {"anyOf": [shape, own]}}, "text/plain": {}}
    return {
        str(status): {"description": _ERRORS[status], "content": content} for status in statuses
    }


def _proxied(operation: Operation, path: str) -> Json:
    model: Json = {"type": "object", "required": ["model"], "properties": {"model": _MODEL}}
    if operation.form:
        file = {"type": "string", "format": "binary"}
        model["properties"] = {"model": _MODEL, "file": file}
        kind = "multipart/form-data"
    else:
        kind = "application/json"
    answer: Json = {"application/json": {"schema": _ANY}}
    if operation.generates:
        answer["text/event-stream"] = {"schema": {"type": "string"}}
    if not operation.json_answer:
        answer = {"*/*": {}}
    entry: Json = {
        "summary": operation.summary,
        "operationId": f"{operation.name}_{operation.paths.index(path)}",
        "requestBody": {"required": True, "content": {kind: {"schema": model}}},
        "responses": _answered(answer, anthropic=operation.dialect is ANTHROPIC),
    }
    if operation.name == "chat":
        styles = ["auto", "content", "event", "reasoning", "off"]
        entry["parameters"] = [_header("X-LLM-Router-Status", styles), _SWITCH]
    else:
        entry["parameters"] = [_SWITCH]
    return entry


def _upstream(method: str) -> Json:
    entry: Json = {
        "summary": UPSTREAM.summary,
        "description": "Only the paths that are known to be harmless; 403 for any other.",
        "operationId": f"upstream_{method}",
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in ("model", "path")
        ],
        "responses": _answered({"*/*": {}}, anthropic=False),
    }
    if method == "post":
        entry["requestBody"] = {"content": {"*/*": {}}}
    return entry


def _answered(content: Json, *, anthropic: bool) -> Json:
    headers = {
        name: {"description": what, "schema": {"type": "string"}} for name, what in _HEADERS.items()
    }
    return {
        "200": {"description": "The engine's answer", "headers": headers, "content": content},
        **_errors(*_ERRORS, schema="AnthropicError" if anthropic else "Error", engines=True),
        "default": {
            "description": "What the engine says otherwise, as it says it",
            "content": {"*/*": {}},
        },
    }


def _header(name: str, values: list[str]) -> Json:
    return {"name": name, "in": "header", "schema": {"type": "string", "enum": values}}


_SWITCH = _header("X-LLM-Router-Switch", ["allow", "never"])
