"""An engine's own errors: what is read out of them, and whose fault they are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_router.api.engine_errors import LONGEST, engine_error, has_form, status_of


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"detail": "No models are currently loaded."}, "No models are currently loaded."),
        ({"detail": [{"loc": ["body", "n"], "msg": "m"}, {"msg": "o"}, 1]}, "body.n: m; o; 1"),
        ({"error": "text"}, "text"),
        ({"error": {"message": "m"}}, "m"),
        ({"object": "error", "message": "m"}, "m"),
        ("just text", "just text"),
        ({"detail": {"a": 1}}, '{"detail": {"a": 1}}'),
        ([], "[]"),
    ],
)
def test_a_person_can_read_it(said: Any, message: str) -> None:
    error = engine_error("a", 503, json.dumps(said).encode(), "7")
    assert error.body["error"]["message"] == f"The engine of 'a' answered 503: {message}"
    assert error.headers == {"retry-after": "7"}


@pytest.mark.parametrize("data", [b"x" * 10_000, b"\xff" * 10_000, b"[" * 10_000, b"{}"])
def test_what_cannot_be_read_is_cut(data: bytes) -> None:
    assert not has_form(data)
    message = engine_error("a", 500, data).body["error"]["message"]
    assert len(message) < LONGEST + 50


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"message": "m"}, 502),
        ({"message": "m", "code": 500, "type": "server_error"}, 502),
        ({"message": "m", "code": 400, "type": "BadRequestError"}, 400),
        # TabbyAPI's, of a prompt that is too long
        ({"type": "invalid_request_error", "code": "context_length_exceeded"}, 400),
        ({"message": "m", "code": 401}, 502),
        ("text", 502),
        (None, 502),
    ],
)
def test_an_error_in_a_stream_is_the_engines_fault_unless_it_says_otherwise(
    error: Any, status: int
) -> None:
    assert status_of(error) == status
