"""An engine's refusal as the router's clients get it. Pure.

FastAPI's engines answer ``{"detail": …}``, SGLang an object without ``error``, and what nobody
caught is plain text. Clients of an OpenAI API read ``error.message`` and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_router.api.errors import ApiError
from llm_router.api.weight import from_engine

LONGEST = 300
"""Characters of an engine's own words that are passed on."""


def has_form(data: bytes) -> bool:
    """Whether an engine's error has the form that clients read: it passes as it is."""
    body = _parsed(data)
    error = body.get("error") if isinstance(body, dict) else None
    return isinstance(error, dict) and isinstance(error.get("message"), str)


def engine_error(model: str, status: int, data: bytes, retry_after: str = "") -> ApiError:
    """What an engine answered with an error's status, in the router's form."""
    said = _message(_parsed(data))
    if said is None:
        said = data[: 4 * LONGEST].decode("utf-8", "replace")
    said = " ".join(said.split())[:LONGEST]
    kind = "invalid_request_error" if status < 500 else "server_error"
    return ApiError(
        status,
        "engine_error",
        f"The engine of '{model}' answered {status}{': ' if said else '.'}{said}",
        kind="rate_limit_error" if status == 429 else kind,
        retry_after=int(retry_after) if retry_after.isdecimal() else None,
    )


def refused_key(model: str, status: int) -> ApiError:
    """502: a client has no part in the key between router and engine; its own was right."""
    return ApiError(
        502,
        "engine_refused_key",
        f"The engine of '{model}' refused the router's key ({status}). The operator finds the file "
        "with that key in the router's log.",
        kind="server_error",
    )


def status_of(error: Any) -> int:
    """The HTTP status that an ``error`` of a stream stands for, whose own 200 is out: 502, or that
    of a client's mistake. llama.cpp and vLLM give the number as ``code``."""
    if not isinstance(error, Mapping):
        return 502
    code, kind = error.get("code"), str(error.get("type")).lower()
    if isinstance(code, int) and 400 <= code < 500 and code not in (401, 403):
        return code
    return 400 if kind in ("invalid_request_error", "badrequesterror") else 502


def _parsed(data: bytes) -> Any:
    try:
        return from_engine(data)
    except ValueError:
        return None


def _message(body: Any) -> str | None:
    """The text that a person can read in an engine's error."""
    if isinstance(body, str):
        return body
    if not isinstance(body, dict):
        return None
    for key in ("error", "detail", "message"):
        value = body.get(key)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, dict) and isinstance(value.get("message"), str):
            return str(value["message"])
        if isinstance(value, list) and value:
            return "; ".join(_problem(one) for one in value[:5])
    return None


def _problem(one: Any) -> str:
    """One of pydantic's: where, and what."""
    if not isinstance(one, dict) or not isinstance(one.get("msg"), str):
        return str(one)[:LONGEST]
    place = one.get("loc")
    where = ".".join(map(str, place)) + ": " if isinstance(place, list) and place else ""
    return where + str(one["msg"])
