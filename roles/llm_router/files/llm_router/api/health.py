"""``GET /health``: whether the router can do its work, in the four keys that clients know."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from llm_router.api.services import Services
from llm_router.engines import engine_for

router = APIRouter()


@router.get("/health")
async def health(request: Request) -> JSONResponse:
    """200 while requests can be served, 503 when units cannot be managed at all.

    ``status`` is healthy, degraded (some model's last switch failed: ``failures`` has the
    reasons) or unhealthy (``problem`` has the reason).
    """
    services: Services = request.app.state.services
    core = services.scheduler.core
    loaded = {group.current for group in core.groups.values()} - {None}
    backends: dict[str, bool] = {}
    for name, model in services.models.items():
        label = engine_for(model).label
        backends[label] = backends.get(label, False) or name in loaded
    body: dict[str, Any] = {
        "status": "healthy",
        "current_model": next((name for name in services.models if name in loaded), None),
        "backends": backends,
        "models": list(services.models),
    }
    if core.failures:
        body["status"] = "degraded"
        body["failures"] = {name: failure.message for name, failure in core.failures.items()}
    problem = await services.units.problem()
    if problem is not None:
        body["status"] = "unhealthy"
        body["problem"] = problem
    return JSONResponse(body, 200 if problem is None else 503)
