"""``GET /health``: whether the router can do its work, in the four keys that clients know; and
``GET /health?model=NAME``, for a balancer that must know where a model is."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Literal

from fastapi import APIRouter, Request
from starlette.datastructures import Headers

from llm_router.api.auth import Caller, identify
from llm_router.api.errors import ApiError, unknown_model
from llm_router.api.services import Services
from llm_router.api.wire import JsonResponse
from llm_router.config.names import find
from llm_router.engines import engine_for
from llm_router.http_protocol import LINE, Line

router = APIRouter()


@router.get("/health")
async def health(
    request: Request, model: str | None = None, want: Literal["loaded", "loadable"] = "loaded"
) -> JsonResponse:
    """200 while requests are welcome; 503 when units cannot be managed at all, and when the router
    is drained or about to stop, though it still answers.

    ``status`` is healthy, degraded, draining or unhealthy (``problem`` has the reason). It is
    degraded when some model's last switch failed (``failures`` has the reasons), when it is not
    known yet what runs in some group (``unknown_groups``), and when what runs in a group is not
    what should run there (``unsettled`` has the reasons, by group). ``loading`` has what a load
    does that takes long, by model: ``compiling kernels``.

    Names of models, and with them ``failures``, are shown to a caller that may use these models:
    where keys are configured, a request without one learns the status only. A balancer needs no
    more.

    With ``model``, 200 if it is loaded or being loaded; with ``want=loadable``, 200 if a request
    for it could be served too: its last switch did not fail, and no other model is pinned.
    """
    services: Services = request.app.state.services
    caller = _caller(request.scope, services)
    if model is not None:
        return await _of_model(services, model, want, caller)
    return await _of_router(services, caller)


def is_plain(scope: Mapping[str, Any]) -> bool:
    """Whether a request asks for ``/health`` without parameters and without a body."""
    return (
        scope["path"] == "/health"
        and scope["method"] in ("GET", "HEAD")
        and not scope["query_string"]
        and not any(
            name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"]
        )
    )


async def answer_plainly(scope: MutableMapping[str, Any], services: Services) -> None:
    """Answer a request that `is_plain`. Strangers may send thousands of them, and FastAPI takes ten
    times as long."""
    line: Line = scope[LINE]
    answer = await _of_router(services, _caller(scope, services))
    line.start(answer.status_code, [(b"content-type", b"application/json")], bytes(answer.body))


async def _of_router(services: Services, caller: Caller | None) -> JsonResponse:
    visible = [name for name in services.models if caller is not None and caller.may_use(name)]
    core = services.scheduler.core
    loaded = {group.current for group in core.groups.values()} - {None}
    backends: dict[str, bool] = {}
    for name, entry in services.models.items():
        label = engine_for(entry).label
        backends[label] = backends.get(label, False) or name in loaded
    body: dict[str, Any] = {
        "status": "draining" if services.draining else "healthy",
        "current_model": next((name for name in visible if name in loaded), None),
        "backends": backends,
        "models": visible,
    }
    if core.failures:
        if not services.draining:
            body["status"] = "degraded"
        body["failures"] = {
            name: failure.message for name, failure in core.failures.items() if name in visible
        }
    unknown, unsettled = services.reconciler.unknown(), services.reconciler.unsettled
    if unknown or unsettled:
        if not services.draining:
            body["status"] = "degraded"
        # the reasons name units and models
        told = caller is not None and caller.models is None
        if unknown and told:
            body["unknown_groups"] = unknown
        if unsettled and told:
            body["unsettled"] = dict(unsettled)
    doing = {
        switch.target: switch.doing
        for switch in services.scheduler.switches.values()
        if switch.doing and switch.target in visible
    }
    if doing:
        body["loading"] = doing
    problem = await services.units_problem()
    if problem is not None:
        body["status"] = "unhealthy"
        body["problem"] = problem
    return JsonResponse(body, 503 if services.draining or problem is not None else 200)


def _caller(scope: MutableMapping[str, Any], services: Services) -> Caller | None:
    """Who asks; None without a valid key, which is no reason to refuse a health check."""
    try:
        return identify(scope, Headers(scope=scope), services.settings)
    except ApiError:
        return None


async def _of_model(
    services: Services, asked: str, want: str, caller: Caller | None
) -> JsonResponse:
    known = find(services.models, asked)
    if known is None:
        names = services.names_for(caller) if caller is not None else ()
        raise unknown_model(asked, names)
    core, name = services.scheduler.core, known.model
    state, failed = services.state_of(name), name in core.failures
    # a load after a failed one may fail again: nobody else should wait for it
    here = state == "loaded" or (state == "loading" and not failed)
    free = not failed and core.group_of(name).pinned in (None, name)
    fit = here or (want == "loadable" and free and await services.units_problem() is None)
    body = {"model": name, "state": state, "draining": services.draining}
    switch = services.scheduler.switches.get(services.models[name].group)
    if switch is not None and switch.target == name and switch.doing:
        body["doing"] = switch.doing
    return JsonResponse(body, 200 if fit and not services.draining else 503)
