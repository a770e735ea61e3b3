"""llama.cpp's server.

Its port opens before it loads; ``/health`` and ``/v1/models`` answer 503 until it can serve, and
the id in ``/v1/models`` is ``--alias``. Its paths were asked of PyPI's xllamacpp 2026.10.
"""

from __future__ import annotations

import sys

from llm_router.config.schema import Config, Model
from llm_router.engine_files import llamacpp_arguments
from llm_router.engines.base import Engine, Probe, Repairs, http_ok, serves_model, usual

EMBEDDED = "embedded"


def child_argv(model: Model, config: Config) -> list[str]:
    """``llama-server``, or PyPI's xllamacpp in a Python child where nothing is installed."""
    if config.llamacpp_binary == EMBEDDED:
        program = [sys.executable, "-m", "llm_router.engines.xllamacpp_server"]
    else:
        program = [config.llamacpp_binary]
    port = int(model.base_url.rpartition(":")[2])
    return program + llamacpp_arguments(
        model_path=model.model_path or "",
        alias=model.upstream_name,
        port=port,
        args=model.args,
        settings=model.settings,
    )


LLAMACPP = Engine(
    backend="llamacpp",
    label="llamacpp",
    probes=(Probe("/health", http_ok), Probe("/v1/models", serves_model)),
    operations=usual(
        "chat",
        "completions",
        "responses",
        "responses_tokens",
        "messages",
        "count_tokens",
        "embeddings",
        "rerank",
        "tokenize",
        "detokenize",
        "transcriptions",
    ),
    # not POST /props and /lora-adapters, which change it for all, nor /slots: what others do
    own_paths=frozenset(
        {
            "GET /health",
            "GET /metrics",
            "GET /props",
            "GET /v1/models",
            "POST /apply-template",
            "POST /completion",
            "POST /embedding",
            "POST /infill",
        }
    ),
    child_argv=child_argv,
    repairs=Repairs(usage_apart=True),
)
