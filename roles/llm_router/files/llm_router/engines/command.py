"""Any program with an OpenAI API: nothing is known of it but ``/v1/models``."""

from __future__ import annotations

from llm_router.engines.base import Engine, Probe, serves_model

COMMAND = Engine(
    backend="command",
    label="command",
    probes=(Probe("/v1/models", serves_model),),
)
