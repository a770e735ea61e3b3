"""TabbyAPI.

``/health`` is 200 with no model at all; ``/v1/model`` names what is loaded, by the last part of
its path, and answers 503 while nothing is.
"""

from __future__ import annotations

from llm_router.config.schema import Model
from llm_router.engines import residency
from llm_router.engines.base import (
    Engine,
    Probe,
    ProbeAnswer,
    Readiness,
    Repairs,
    last_part,
    ready,
    serves_another,
    usual,
)


def _model_loaded(answer: ProbeAnswer, model: Model) -> Readiness:
    if answer.status == 503:
        return Readiness("loading", "it has no model loaded", empty=True)
    if answer.status != 200 or not isinstance(answer.body, dict):
        return Readiness("loading", f"/v1/model answers {answer.status}")
    loaded = answer.body.get("id")
    if not isinstance(loaded, str):
        return serves_another()
    if loaded == last_part(model.upstream_name):
        parameters = answer.body.get("parameters")
        return ready(parameters.get("max_seq_len") if isinstance(parameters, dict) else None)
    return serves_another(loaded)


def _sick(answer: ProbeAnswer, _: Model) -> Readiness:
    """``/health`` is 503 from the first generation that failed until the process ends."""
    issues = answer.body.get("issues") if isinstance(answer.body, dict) else None
    if answer.status != 503 or not isinstance(issues, list) or not issues:
        return Readiness("ready")
    last = issues[-1]
    said = last.get("description") if isinstance(last, dict) else last
    return Readiness("wrong", f"its /health says {str(said)[:200]!r}")


TABBY = Engine(
    backend="tabby",
    label="tabbyapi",
    probes=(Probe("/v1/model", _model_loaded),),
    operations={
        **usual("chat", "completions", "embeddings"),
        "tokenize": "/v1/token/encode",
        "detokenize": "/v1/token/decode",
    },
    own_paths=frozenset(
        {
            "GET /.well-known/serviceinfo",
            "GET /health",
            "GET /props",
            "GET /v1/lora",
            "GET /v1/model",
            "GET /v1/model/embedding",
            "GET /v1/models",
        }
    ),
    residencies=residency.TABBY,
    repairs=Repairs(
        usage_apart=True, ask_for_usage="always", model=True, tools=True, unlimited=True
    ),
    names_itself=True,
    sickness=Probe("/health", _sick),
)
