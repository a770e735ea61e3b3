"""Any program with an OpenAI API: nothing is known of it but ``/v1/models``.

So it is asked for everything that is asked for, and says itself what it cannot do.
"""

from __future__ import annotations

from llm_router.engines.base import USUAL_PATHS, Engine, Probe, serves_model

COMMAND = Engine(
    backend="command",
    label="command",
    probes=(Probe("/v1/models", serves_model),),
    operations=USUAL_PATHS,
    own_paths=frozenset({"GET /health", "GET /metrics", "GET /v1/models"}),
)
