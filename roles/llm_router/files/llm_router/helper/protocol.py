"""The helper's protocol: one line of JSON each way, one request a connection. Pure.

The client keeps its side of the connection open until it has its answer: one that goes away takes
its `start` back, and ends its `prewarm`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from llm_router.json_codec import json_text

Kind = Literal["host", "model"]
"""Whose fault a refusal is. An answer without it is of a helper before this field, and reads as
``model``; a router before it ignores the field."""
Verb = Literal["activate", "prewarm", "start", "stop", "logs"]

VERBS: tuple[Verb, ...] = ("activate", "prewarm", "start", "stop", "logs")
MAX_REQUEST = 4096
"""Bytes of a request, its newline included."""
MAX_ANSWER = 4 << 20
MAX_NAME = 200
MAX_LINES = 500
MAX_LINE_LENGTH = 2000
"""Characters that are kept of one log line."""
MAX_TIMEOUT = 3600.0
MAX_SINCE = 2.0**36


class ProtocolError(Exception):
    """A line that is no request, or no answer; the message is one sentence."""


@dataclass(frozen=True)
class Request:
    """``timeout`` is in seconds, for start and stop; None leaves it to the helper. ``since``, for
    logs: seconds since 1970; None is as far back as ``lines`` go. ``check``, for activate: nothing
    is written; the answer is the same."""

    verb: Verb
    model: str
    lines: int = 50
    timeout: float | None = None
    since: float | None = None
    check: bool = False


def encode_request(request: Request) -> bytes:
    """One line."""
    fields: dict[str, Any] = {"verb": request.verb, "model": request.model}
    if request.verb == "logs":
        fields["lines"] = request.lines
        if request.since is not None:
            fields["since"] = request.since
    if request.timeout is not None:
        fields["timeout"] = request.timeout
    if request.check:
        fields["check"] = True
    return json_text(fields).encode() + b"\n"


def decode_request(line: bytes) -> Request:
    """Raises `ProtocolError`; what it returns has the right types and is within the limits."""
    if len(line) > MAX_REQUEST:
        raise ProtocolError(f"a request has at most {MAX_REQUEST} bytes")
    fields = _object(line)
    unknown = fields.keys() - {"verb", "model", "lines", "timeout", "since", "check"}
    if unknown:
        raise ProtocolError(f"unknown field {min(unknown)!r}")
    verb, model = fields.get("verb"), fields.get("model")
    if verb not in VERBS:
        raise ProtocolError(f"verb must be one of {', '.join(VERBS)}")
    if not isinstance(model, str) or not 0 < len(model) <= MAX_NAME:
        raise ProtocolError("model must be a model's name")
    lines = fields.get("lines", 50)
    if type(lines) is not int or not 1 <= lines <= MAX_LINES:
        raise ProtocolError(f"lines must be a whole number from 1 to {MAX_LINES}")
    timeout, since = _timeout(fields.get("timeout")), _since(fields.get("since"))
    check = fields.get("check", False)
    if not isinstance(check, bool) or (check and verb != "activate"):
        raise ProtocolError("check must be true or false, and true for activate alone")
    return Request(cast(Verb, verb), model, lines, timeout, since, check)


def encode_answer(answer: Mapping[str, Any]) -> bytes:
    """One line; the mapping has ``ok``."""
    return json_text(answer).encode() + b"\n"


def decode_answer(line: bytes) -> dict[str, Any]:
    """The answer's fields; ``ok`` is a bool, and ``error`` a string unless ``ok``.

    ``kind`` (see `Kind`) is not checked: a later helper may know others.
    """
    fields = _object(line)
    ok = fields.get("ok")
    if not isinstance(ok, bool) or (not ok and not isinstance(fields.get("error"), str)):
        raise ProtocolError("an answer needs ok, and error unless ok")
    return fields


def _timeout(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ProtocolError("timeout must be a number of seconds")
    if not math.isfinite(value) or not 0 < value <= MAX_TIMEOUT:
        raise ProtocolError(f"timeout must be more than 0 and at most {MAX_TIMEOUT:g} seconds")
    return float(value)


def _since(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ProtocolError("since must be a number of seconds")
    if not 0 <= value <= MAX_SINCE:  # what is no number is within no bounds
        raise ProtocolError("since must be a time in seconds since 1970")
    return float(value)


def _object(line: bytes) -> dict[str, Any]:
    if not line.endswith(b"\n"):
        raise ProtocolError("the line has no end")
    try:
        value = json.loads(line)
    # a line of brackets is deeper than the parser goes
    except (ValueError, RecursionError):
        raise ProtocolError("the line is not JSON") from None
    if not isinstance(value, dict):
        raise ProtocolError("the line is not a JSON object")
    return value
