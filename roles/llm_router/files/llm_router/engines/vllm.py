"""vLLM. Its port answers once the engine is up; ``/health`` is 200 with an empty body.

Its paths are those of 0.33.0; it registers the ones that the loaded model's kind can serve.
"""

from __future__ import annotations

from llm_router.config.schema import Model
from llm_router.engines import residency
from llm_router.engines.base import (
    READY,
    Engine,
    Probe,
    ProbeAnswer,
    Readiness,
    Repairs,
    http_ok,
    serves_model,
    usual,
)


def _awake(answer: ProbeAnswer, _: Model) -> Readiness:
    """Asleep, it says everywhere else that it is well, and answers no generation. Without its dev
    mode it knows no such question, and cannot sleep."""
    if answer.status == 200 and isinstance(answer.body, dict) and answer.body.get("is_sleeping"):
        return Readiness("asleep", "it sleeps")
    return READY


VLLM = Engine(
    backend="vllm",
    label="vllm",
    probes=(
        Probe("/health", http_ok),
        Probe("/v1/models", serves_model),
        Probe("/is_sleeping", _awake),
    ),
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
        "translations",
    ),
    own_paths=frozenset(
        {
            "GET /health",
            "GET /load",
            "GET /metrics",
            "GET /ping",
            "GET /tokenizer_info",
            "GET /v1/models",
            "GET /version",
            "POST /classify",
            "POST /generative_scoring",
            "POST /pooling",
            "POST /v2/embed",
            "POST /v2/rerank",
        }
    ),
    repairs=Repairs(role=False),
    residencies=residency.VLLM,
    draws_bars=True,
    memory_option="gpu-memory-utilization",
)
