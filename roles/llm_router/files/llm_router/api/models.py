"""``/v1/models``: answered from the configuration, at once, in the middle of a switch too."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from llm_router.api.auth import identify
from llm_router.api.errors import unknown_model
from llm_router.api.services import Services

router = APIRouter()


def _entry(services: Services, name: str) -> dict[str, Any]:
    model = services.models[name]
    return {
        "id": name,
        "object": "model",
        "created": services.started_at,
        "owned_by": model.backend,
        "loaded": services.is_loaded(name),
    }


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """Every configured model."""
    services: Services = request.app.state.services
    identify(request.scope, request.headers, services.settings).must("use")
    return {"object": "list", "data": [_entry(services, name) for name in services.models]}


@router.get("/v1/models/{name:path}")
async def get_model(request: Request, name: str) -> dict[str, Any]:
    """One model."""
    services: Services = request.app.state.services
    identify(request.scope, request.headers, services.settings).must("use")
    if name not in services.models:
        raise unknown_model(name, services.models)
    return _entry(services, name)
