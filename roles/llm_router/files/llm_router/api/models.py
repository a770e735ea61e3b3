"""``/v1/models``: answered from the configuration, at once, in the middle of a switch too."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from llm_router.api.auth import identify, may_use
from llm_router.api.errors import not_yours, unknown_model
from llm_router.api.services import Services
from llm_router.config.names import Name, find, names_of
from llm_router.config.schema import Model

router = APIRouter()


def _entry(services: Services, known: Name[Model]) -> dict[str, Any]:
    model = known.entry
    state = services.state_of(known.model)
    entry: dict[str, Any] = {
        "id": known.name,
        "object": "model",
        "created": services.started_at,
        "owned_by": model.backend,
        "loaded": state == "loaded",
        "state": state,
    }
    context_length = model.context_length or services.learned.context_length(known.model)
    if context_length is not None:
        entry["context_length"] = context_length
    if model.description is not None:
        entry["description"] = model.description
        # where Open WebUI looks for it
        entry["info"] = {"meta": {"description": model.description}}
    if model.tags:
        entry["tags"] = list(model.tags)
    if known.name != known.model:
        # vLLM's name for it: what this one is made of
        entry["parent"] = known.model
        return entry
    if model.display_name is not None:
        entry["name"] = model.display_name
    if model.aliases:
        entry["aliases"] = list(model.aliases)
    return entry


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """Every model and every variant that the caller may use. An alias is no entry of its own: a
    person who chooses from this list would have the same model twice."""
    services: Services = request.app.state.services
    caller = identify(request.scope, request.headers, services.settings)
    caller.must("use")
    shown = [
        _entry(services, known)
        for known in names_of(services.models)
        if known.variant is not None or known.name == known.model
        if may_use(caller, known)
    ]
    return {"object": "list", "data": shown}


@router.get("/v1/models/{name:path}")
async def get_model(request: Request, name: str) -> dict[str, Any]:
    """One model, by any of its names."""
    services: Services = request.app.state.services
    caller = identify(request.scope, request.headers, services.settings)
    caller.must("use")
    known = find(services.models, name)
    if known is None:
        raise unknown_model(name, services.names_for(caller))
    if not may_use(caller, known):
        raise not_yours(caller.name, name)
    return _entry(services, known)
