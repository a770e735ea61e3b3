"""How each family of paths says that one must wait, that something failed, and that it has ended.

Pure. A client of Anthropic's API understands neither OpenAI's errors nor ``[DONE]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llm_router.api.errors import ApiError
from llm_router.api.wire import event, to_json

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Dialect:
    """``ends``: the ``type`` of the events that end a stream; where there is none, ``[DONE]`` does.

    ``error_event`` is the last that a client reads of a stream that failed.
    """

    keepalive: bytes
    ends: frozenset[str]
    error_body: Callable[[ApiError], Any]
    error_event: Callable[[ApiError], bytes]


def _named_event(name: str, body: Any) -> bytes:
    return b"event: %b\n%b" % (name.encode(), event(body))


def _responses_error(error: ApiError) -> bytes:
    """As the Responses API describes it, and with ``error``, as its server has it and its client
    library looks for it."""
    inner = error.body["error"]
    plain = {key: inner[key] for key in ("code", "message", "param")}
    return _named_event("error", {"type": "error", **plain, "error": inner})


_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def _anthropic_body(error: ApiError) -> dict[str, Any]:
    fallback = "api_error" if error.status >= 500 else "invalid_request_error"
    inner = error.body["error"]
    kind = _ANTHROPIC_TYPES.get(error.status, fallback)
    more = {key: inner[key] for key in ("code", "log_lines") if inner.get(key)}
    return {"type": "error", "error": {"type": kind, "message": inner["message"], **more}}


OPENAI = Dialect(
    keepalive=b": waiting\n\n",
    ends=frozenset(),
    error_body=lambda error: error.body,
    error_event=lambda error: event(error.body) + DONE,
)

RESPONSES = Dialect(
    keepalive=b": waiting\n\n",
    ends=frozenset({"response.completed", "response.incomplete", "response.failed", "error"}),
    error_body=lambda error: error.body,
    error_event=_responses_error,
)

ANTHROPIC = Dialect(
    # its own event for this: no client may mind one, wherever it comes
    keepalive=b"event: ping\ndata: " + to_json({"type": "ping"}) + b"\n\n",
    ends=frozenset({"message_stop", "error"}),
    error_body=_anthropic_body,
    error_event=lambda error: _named_event("error", _anthropic_body(error)),
)
