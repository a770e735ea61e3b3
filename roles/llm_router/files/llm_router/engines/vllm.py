"""vLLM. Its port answers once the engine is up; ``/health`` is 200 with an empty body."""

from __future__ import annotations

from llm_router.engines.base import Engine, Probe, Repairs, http_ok, serves_model

VLLM = Engine(
    backend="vllm",
    label="vllm",
    probes=(Probe("/health", http_ok), Probe("/v1/models", serves_model)),
    repairs=Repairs(role=False),
)
