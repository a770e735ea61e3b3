"""Errors in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from llm_router.engines.values import cut_text
from llm_router.scheduler.core import Refusal


class ApiError(Exception):
    """An answer that is an error; ``status`` is its HTTP status."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        log_lines: Sequence[str] = (),
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"  # RFC 9110, section 15.5.2
        self.body: dict[str, Any] = {
            "error": {"message": message, "type": kind, "param": param, "code": code}
        }
        if log_lines:
            self.body["error"]["log_lines"] = list(log_lines)


def unknown_model(name: object, known: Iterable[str]) -> ApiError:
    """404: the engines themselves would answer any name with whatever they have loaded.

    ``known`` are the names that the caller may use.
    """
    names = ", ".join(sorted(known)) or "none"
    return ApiError(
        404,
        "model_not_found",
        f"The model '{cut_text(str(name))}' does not exist. Known models: {names}.",
        param="model",
    )


def refused(refusal: Refusal, *, with_log: bool = False, with_names: bool = True) -> ApiError:
    """503: the model could not be loaded, or not now. 429: too many wait. 404: it was removed.

    ``with_log``: whether the caller may read the engine's log, which the scope ``admin`` allows.
    ``with_names``: whether the caller may read the names of other models.
    """
    if refusal.kind == "overloaded":
        return ApiError(
            429,
            "queue_full",
            f"Try again later: {refusal.message}.",
            kind="rate_limit_error",
            retry_after=10,
        )
    if refusal.kind == "stopping":
        return stopping()
    if refusal.kind == "pinned":
        left = refusal.retry_after or 0
        reason = refusal.message if with_names else f"another model is pinned for {left:.0f} s more"
        return ApiError(
            503,
            "model_pinned",
            f"The model '{refusal.model}' cannot be loaded now: {reason}.",
            kind="server_error",
            retry_after=math.ceil(left),
        )
    if refusal.kind == "removed":
        return ApiError(
            404,
            "model_not_found",
            f"The model '{refusal.model}' does not exist any more: {refusal.message}.",
            param="model",
        )
    if refusal.kind == "unavailable":
        return units_unavailable(refusal.model, refusal.message, action="loaded")
    return ApiError(
        503,
        "model_unavailable",
        f"The model '{refusal.model}' could not be loaded. {refusal.message}",
        kind="server_error",
        log_lines=refusal.log_lines if with_log else (),
    )


def stopping() -> ApiError:
    """503: the next router will be there in a moment."""
    return ApiError(
        503,
        "router_stopping",
        "The router is stopping; try again in a moment.",
        kind="server_error",
        retry_after=5,
    )


def bad_request(message: str, param: str | None = None) -> ApiError:
    """400."""
    return ApiError(400, "invalid_request", message, param=param)


def encoded_body(encoding: str) -> ApiError:
    """415."""
    return ApiError(
        415,
        "unsupported_media_type",
        f"The request's body is encoded (Content-Encoding: {encoding[:40]}); send it without "
        "that encoding.",
    )


def not_supported(model: str, engine: str, path: str) -> ApiError:
    """501: said before anything is loaded for it."""
    return ApiError(
        501,
        "not_supported",
        f"The model '{model}' is served by {engine}, which has no {path}.",
        param="model",
    )


def path_not_allowed(engine: str, what: str) -> ApiError:
    """403: an engine's own path that is not among those that are let through."""
    return ApiError(
        403,
        "path_not_allowed",
        f"{what} is none of the paths of {engine} that may be reached through the router; "
        "models.yml can allow more with `upstream_paths:`.",
        kind="permission_error",
    )


def upstream_broke(model: str, what: str) -> ApiError:
    """502: the engine did not answer, or stopped in the middle of its answer."""
    return ApiError(
        502,
        "engine_failed",
        f"The engine of '{model}' {what}. The next request starts it again.",
        kind="server_error",
    )


def impossible_answer(model: str, what: str) -> ApiError:
    """502: an answer whose head cannot go on."""
    return ApiError(502, "engine_failed", f"The engine of '{model}' {what}.", kind="server_error")


def compressed_answer(model: str, encoding: str) -> ApiError:
    """502: an answer that the router can neither measure nor mend."""
    return ApiError(
        502,
        "engine_failed",
        f"The engine of '{model}' compressed its answer (Content-Encoding: {encoding[:40]}), which "
        "the router did not request. Switch compression off in the engine, or in the proxy before "
        "it.",
        kind="server_error",
    )


def answer_too_large(model: str, what: str, most: int) -> ApiError:
    """502: an answer that is not streamed is held until it is whole, and this one is too large."""
    return ApiError(
        502,
        "engine_failed",
        f"The engine of '{model}' {what}. An answer that is not streamed may have {most} bytes "
        "(requests.max_answer). Request less at once, or a stream.",
        kind="server_error",
    )


def not_loaded(model: str, loaded: str | None) -> ApiError:
    """409: the request may cause no switch, and nothing may stand in for its model.

    ``loaded``: a name that the caller may use, or None.
    """
    return ApiError(
        409,
        "switch_not_allowed",
        f"The model '{model}' is not loaded and this request may not cause a switch. "
        f"Loaded now: {loaded or 'none'}.",
        param="model",
    )


def not_yours(key: str, model: str) -> ApiError:
    """403: the key has a list of models, and this one is not on it."""
    return ApiError(
        403,
        "model_not_allowed",
        f"The key '{key}' may not use the model '{model}'.",
        kind="permission_error",
        param="model",
    )


def metrics_not_allowed(key: str) -> ApiError:
    """403: the metrics name every model, and the key has a list of some."""
    return ApiError(
        403,
        "metrics_not_allowed",
        f"The key '{key}' is limited to some models, and /metrics names all of them; use a key "
        "without `models:`, or one with the scope 'admin'.",
        kind="permission_error",
    )


def too_many_at_once(key: str, limit: int) -> ApiError:
    """429: the key has as many requests under way as it may have."""
    return ApiError(
        429,
        "too_many_requests",
        f"The key '{key}' has {limit} requests under way, and may not have more at once.",
        kind="rate_limit_error",
        retry_after=1,
    )


def out_of_files() -> ApiError:
    """503: the router cannot open a connection to the engine."""
    return ApiError(
        503,
        "out_of_files",
        "The router has no free file descriptor for a connection to the engine; try again in a "
        "moment. The operator can raise LimitNOFILE of llm-router.service, or lower "
        "requests.max_connections.",
        kind="server_error",
        retry_after=1,
    )


def units_unavailable(model: str, reason: str, *, action: str = "used") -> ApiError:
    """503: systemd, the bus or the helper cannot be reached, so the model cannot be ``action``; no
    fault of the model."""
    return ApiError(
        503,
        "units_unavailable",
        f"The model '{model}' cannot be {action} now. {reason}",
        kind="server_error",
        retry_after=10,
    )


def port_held(model: str, reason: str) -> ApiError:
    """503: another account has the engine's port; nothing is sent there."""
    return ApiError(
        503,
        "engine_port_held",
        f"The model '{model}' cannot be reached: {reason}.",
        kind="server_error",
        retry_after=10,
    )


def engine_silent(model: str, seconds: float) -> ApiError:
    """504: the engine is there and sends nothing."""
    return ApiError(
        504,
        "engine_timeout",
        f"The engine of '{model}' sent nothing for {seconds:g} s (requests.idle_timeout).",
        kind="server_error",
    )


def cut_off(model: str) -> ApiError:
    """503: a switch has waited for this answer as long as it was told to."""
    return ApiError(
        503,
        "answer_cut",
        f"This answer of '{model}' was cut off: other requests need another model, and have "
        "waited for it as long as scheduler.drain_timeout says.",
        kind="server_error",
    )


def cancelled() -> ApiError:
    """503: an operator ended the request."""
    return ApiError(
        503, "request_cancelled", "An operator cancelled this request.", kind="server_error"
    )


def internal_error() -> ApiError:
    """500: a fault of the router's own; its log has the trace."""
    return ApiError(
        500,
        "internal_error",
        "The router failed on this request; its log says why (journalctl -u llm-router).",
        kind="server_error",
    )
