"""What FastAPI gets of a request."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import Request

from llm_router.api.request_guard import for_fastapi


def scope(method: str, path: str) -> dict[str, Any]:
    headers = [(b"host", b"x"), (b"cookie", b'a="' + b'\\"' * 10_000 + b'"'), (b"cookie", b"b=c")]
    return {"type": "http", "method": method, "path": path, "headers": headers}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("path", ["/health", "/admin/state", "/v1/models"])
def test_no_cookie_is_parsed(method: str, path: str) -> None:
    request = Request(for_fastapi(scope(method, path)))
    assert request.cookies == {}
    assert request.headers["host"] == "x"


def test_head_is_get() -> None:
    for path in ("/v1/models", "/admin/live"):
        assert for_fastapi(scope("HEAD", path))["method"] == "GET"
