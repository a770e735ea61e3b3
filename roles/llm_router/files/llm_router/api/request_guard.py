"""What everything that FastAPI serves passes first: who calls, then a small body.

FastAPI reads a request's whole body, of any size and for any time, before its dependencies check
the key.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers

from llm_router.api.audit import CALLER
from llm_router.api.auth import identify
from llm_router.api.errors import ApiError
from llm_router.api.reply import Receive, announced_size, read_body
from llm_router.api.services import Services
from llm_router.http_protocol import LINE, Line

MAX_BODY = 64 * 1024
"""Bytes of a body that FastAPI parses."""
MAX_OPEN_BODY = 1024
"""Bytes of a body on a path that needs no key, where none has a use."""
MAX_QUERY = 2048
"""Bytes of a query."""
OPEN_PATHS = ("/health", "/openapi.json", "/", "/ui")
OPEN_FOLDER = "/ui/"


def is_open(path: str) -> bool:
    """Whether a path needs no key: health, the API's description and the dashboard's own files."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


def is_known(scope: MutableMapping[str, Any], services: Services) -> bool:
    """Whether the caller of a request may call at all."""
    try:
        identify(scope, Headers(scope=scope), services.settings)
    except ApiError:
        return False
    return True


async def admit(scope: MutableMapping[str, Any], receive: Receive, services: Services) -> Receive:
    """Identify the caller, then read the body; the `Receive` that has it.

    Raises `ApiError` 401, 403, 408, 413 and 414, `ClientGone`.
    """
    line: Line = scope[LINE]
    headers = Headers(scope=scope)
    limit = MAX_OPEN_BODY
    if not is_open(scope["path"]):
        scope[CALLER] = identify(scope, headers, services.settings).name
        limit = MAX_BODY
    if len(scope["query_string"]) > MAX_QUERY:
        raise ApiError(
            414, "query_too_long", f"The query of the URL is longer than {MAX_QUERY} bytes."
        )
    seconds = services.settings.config.requests.client_timeout
    announced = announced_size(headers)
    body = await read_body(line, limit=limit, idle=seconds, total=seconds, announced=announced)
    first = True

    async def again() -> MutableMapping[str, Any]:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": bytes(body), "more_body": False}
        return await receive()

    return again


def for_fastapi(scope: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A request as the application gets it.

    Without cookies: nothing here uses them, FastAPI parses them all the same, and before CPython's
    fix of CVE-2024-7592 a head full of quoted ones takes a second.

    HEAD is GET there; the connection sends no body.
    """
    headers = [field for field in scope["headers"] if field[0] != b"cookie"]
    if scope["method"] == "HEAD":
        return {**scope, "headers": headers, "method": "GET"}
    return {**scope, "headers": headers}


def refuse(line: Line, error: ApiError, body: bytes) -> None:
    """Send an error as the whole answer."""
    headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    line.start(error.status, [(b"content-type", b"application/json"), *headers], body)
