"""SGLang.

``/health`` generates a token and takes a second or more: a short time-out would never succeed.
The ``model`` of a request is not checked, hence the id probe.
Its paths are those of 0.5.23's ``http_server.py``; images are its diffusion server's.
"""

from __future__ import annotations

from llm_router.engines import residency
from llm_router.engines.base import Engine, Probe, Repairs, http_ok, serves_model, usual

SGLANG = Engine(
    backend="sglang",
    label="sglang",
    probes=(Probe("/v1/models", serves_model), Probe("/health", http_ok, timeout=25.0)),
    operations=usual(
        "chat",
        "completions",
        "responses",
        "messages",
        "count_tokens",
        "embeddings",
        "rerank",
        "score",
        "tokenize",
        "detokenize",
        "transcriptions",
        "images",
    ),
    # not /server_info: it shows the server's arguments, keys among them
    own_paths=frozenset(
        {
            "GET /health",
            "GET /health_generate",
            "GET /metrics",
            "GET /model_info",
            "GET /ready",
            "GET /v1/models",
            "POST /classify",
            "POST /encode",
            "POST /generate",
            "POST /parse_function_call",
            "POST /separate_reasoning",
            "POST /v1/classify",
        }
    ),
    repairs=Repairs(role=False),
    residencies=residency.SGLANG,
    draws_bars=True,
)
