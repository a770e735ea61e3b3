"""Engines: one small description each; `engine_for` finds the one that serves a model."""

from __future__ import annotations

from dataclasses import replace

from llm_router.config.schema import Model
from llm_router.engines.base import (
    Engine,
    OperationName,
    Probe,
    ProbeAnswer,
    Readiness,
    Repairs,
    WarmUpCall,
)
from llm_router.engines.command import COMMAND
from llm_router.engines.llamacpp import LLAMACPP
from llm_router.engines.sglang import SGLANG
from llm_router.engines.tabby import TABBY
from llm_router.engines.vllm import VLLM

ENGINES: dict[str, Engine] = {
    engine.backend: engine for engine in (SGLANG, VLLM, TABBY, LLAMACPP, COMMAND)
}


def engine_for(model: Model) -> Engine:
    """The engine of the model's backend."""
    return ENGINES[model.backend]


def repairs_for(model: Model) -> Repairs:
    """What is mended in the answers of the model's engine: as the engine needs it, unless
    models.yml says otherwise."""
    own = engine_for(model).repairs
    if model.repairs is None:
        return own
    return replace(own, **model.repairs.model_dump(exclude_none=True))


__all__ = [
    "ENGINES",
    "Engine",
    "OperationName",
    "Probe",
    "ProbeAnswer",
    "Readiness",
    "Repairs",
    "WarmUpCall",
    "engine_for",
]
