"""SGLang.

``/health`` generates a token and takes a second or more: a short time-out would never succeed.
The ``model`` of a request is not checked, hence the id probe.
"""

from __future__ import annotations

from llm_router.engines.base import Engine, Probe, Repairs, http_ok, serves_model

SGLANG = Engine(
    backend="sglang",
    label="sglang",
    probes=(Probe("/v1/models", serves_model), Probe("/health", http_ok, timeout=25.0)),
    repairs=Repairs(role=False),
)
