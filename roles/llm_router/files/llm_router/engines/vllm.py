"""vLLM. Its port answers once the engine is up; ``/health`` is 200 with an empty body.

Its paths are those of 0.33.0; it registers the ones that the loaded model's kind can serve.
"""

from __future__ import annotations

from llm_router.engines.base import Engine, Probe, Repairs, http_ok, serves_model, usual

VLLM = Engine(
    backend="vllm",
    label="vllm",
    probes=(Probe("/health", http_ok), Probe("/v1/models", serves_model)),
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
)
