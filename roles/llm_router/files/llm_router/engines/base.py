"""What an engine's description says. Everything here is data or a pure function.

The contracts come from the engines' own code; each engine's file names what it relies on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llm_router.config.schema import Config, Model
from llm_router.engines.residency import Policy, Residency
from llm_router.engines.values import LONGEST_TEXT, count, cut_text

Verdict = Literal["ready", "loading", "wrong", "refused", "asleep", "held"]
AsksForUsage = Literal["never", "streamed", "always"]
OperationName = Literal[
    "chat",
    "completions",
    "responses",
    "responses_compact",
    "responses_tokens",
    "messages",
    "count_tokens",
    "embeddings",
    "rerank",
    "score",
    "tokenize",
    "detokenize",
    "transcriptions",
    "translations",
    "speech",
    "images",
    "upstream",
]
"""What a request can ask of a model, whatever its engine; `api.paths` has each one's paths.
``upstream`` is an engine's own path, and not the same with any two."""

USUAL_PATHS: Mapping[OperationName, str] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "responses_compact": "/v1/responses/compact",
    "responses_tokens": "/v1/responses/input_tokens",
    "messages": "/v1/messages",
    "count_tokens": "/v1/messages/count_tokens",
    "embeddings": "/v1/embeddings",
    "rerank": "/v1/rerank",
    "score": "/v1/score",
    "tokenize": "/tokenize",
    "detokenize": "/detokenize",
    "transcriptions": "/v1/audio/transcriptions",
    "translations": "/v1/audio/translations",
    "speech": "/v1/audio/speech",
    "images": "/v1/images/generations",
}
"""Where engines have them unless their description says otherwise."""


def usual(*names: OperationName) -> dict[OperationName, str]:
    """These operations, each where most engines have it."""
    return {name: USUAL_PATHS[name] for name in names}


@dataclass(frozen=True)
class Readiness:
    """What a probe's answer means: ready, still loading, up with another model, up and not for
    whoever asks, up without its device, or not asked, since others have its port.

    ``context_length``: tokens that the model can hold, where the answer says so. ``silent``: no
    answer came in time, so that nothing is known. ``port_closed``: nothing listens there.
    ``serves``: the names that a wrong one has instead.
    ``empty``: the engine says that it has no model; it may be loading one, but it has lost the one
    that it had.
    """

    verdict: Verdict
    detail: str = ""
    context_length: int | None = None
    silent: bool = False
    port_closed: bool = False
    empty: bool = False
    serves: tuple[str, ...] = ()


READY = Readiness("ready")


@dataclass(frozen=True)
class ProbeAnswer:
    """An engine's answer to a probe; ``body`` is the parsed JSON, None when it is not JSON."""

    status: int
    body: Any


@dataclass(frozen=True)
class Probe:
    """One GET. All of an engine's probes must say ready, in order.

    ``timeout``: seconds until the whole answer must be here.
    """

    path: str
    judge: Callable[[ProbeAnswer, Model], Readiness]
    timeout: float = 5.0


@dataclass(frozen=True)
class WarmUpCall:
    """The request that proves that a token comes out, and the test of its answer."""

    path: str
    body: Mapping[str, Any]
    generated: Callable[[Any], bool]


@dataclass(frozen=True)
class Repairs:
    """What `api.repairs` mends in an engine's answers. Each acts only where its symptom shows."""

    role: bool = True
    """A choice's first delta names no role: TabbyAPI; llama.cpp when no text came at all."""
    done: bool = True
    """A stream that ended without ``[DONE]``: half an event is dropped, a whole answer is ended."""
    reasoning: bool = True
    """Reasoning comes as ``reasoning`` (vLLM) or ``reasoning_content`` (others): give both."""
    usage_apart: bool = False
    """Usage stands beside the last choice, not in a chunk of its own: TabbyAPI; llama.cpp's
    ``/v1/completions``, and there unasked."""
    ask_for_usage: AsksForUsage = "streamed"
    """Which requests must say ``stream_options.include_usage`` to have usage: vLLM answers 400 to
    one that is not streamed, TabbyAPI wants it on those too."""
    model: bool = False
    """A chunk has ``model_name`` in place of ``model``: TabbyAPI's texts; 79126f9's chats too,
    which have neither ``object`` nor ``created``."""
    tools: bool = False
    """A tool without description or parameters is refused (422): TabbyAPI. It gets empty ones."""
    unlimited: bool = False
    """A streamed text without ``max_tokens`` fails: TabbyAPI. 0 is its word for no limit."""


@dataclass(frozen=True)
class Engine:
    """A backend, described."""

    backend: str
    label: str
    """What people call it, in /health and in messages."""
    probes: tuple[Probe, ...]
    operations: Mapping[OperationName, str]
    """What it can be asked for, and its own path for that. One that needs a certain model or flag
    is here too: the engine's refusal says so better than the router could."""
    own_paths: frozenset[str] = frozenset()
    """``METHOD /path``: what may be reached of its other paths. A list of what is allowed, because
    a list of what is not would miss the next release's: none of these loads, unloads, puts to
    sleep, reconfigures or profiles anything, or shows other people's requests."""
    child_argv: Callable[[Model, Config], list[str]] | None = None
    """How it runs as a child process where models.yml gives no ``command``; None: not at all."""
    repairs: Repairs = Repairs()
    residencies: Mapping[Policy, Residency] = field(default_factory=dict)
    """How it can give up its device and stay."""
    draws_bars: bool = False
    """Whether its log tells how far a load has got: see `engines.loading`."""
    memory_option: str | None = None
    """Its option for the part of each GPU's memory that it must find free, or ends."""
    request_defaults: Mapping[str, Any] = field(default_factory=dict)
    names_itself: bool = False
    """Whether an answer names the model that made it, whatever was asked for: TabbyAPI."""
    sickness: Probe | None = None
    """What it says of failures that only a restart ends; ready: it knows of none. It is asked once
    several generations in a row have failed."""

    @property
    def asks_for_usage(self) -> bool:
        """Whether a stream carries usage only if ``stream_options.include_usage`` asks for it."""
        return self.repairs.ask_for_usage != "never"

    def child_command(self, model: Model, config: Config) -> list[str] | None:
        """The child process that serves ``model``: its own ``command``, else the engine's way."""
        if model.command:
            return [*model.command, *model.args]
        return self.child_argv(model, config) if self.child_argv is not None else None

    def warm_up(self, model: Model) -> WarmUpCall:
        """One token from a plain completion: works for chat and base models alike."""
        body = {"model": model.upstream_name, "prompt": "Hi", "max_tokens": 1, "stream": False}
        if self.repairs.ask_for_usage == "always":
            # without a count, an answer of no text cannot be told from a first token
            body["stream_options"] = {"include_usage": True}
        return WarmUpCall("/v1/completions", body, _generated)


def _generated(body: Any) -> bool:
    """A choice came, and a token by the engine's own count where it gives one."""
    if not isinstance(body, dict) or not body.get("choices"):
        return False
    usage = body.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return tokens != 0


def http_ok(answer: ProbeAnswer, _: Model) -> Readiness:
    """Ready as soon as the answer is 200."""
    if answer.status == 200:
        return READY
    return Readiness("loading", f"answers {answer.status}")


def last_part(name: str) -> str:
    """What an engine that goes by folders calls the model in this one."""
    return name.rpartition("/")[2]


def ready(context_length: Any) -> Readiness:
    """Ready, with what the engine says of its context if that is a number of tokens."""
    return Readiness("ready", context_length=count(context_length) or None)


def serves_model(answer: ProbeAnswer, model: Model) -> Readiness:
    """``/v1/models`` lists the model under the name that the router will use.

    The context's length stands there too: as ``max_model_len`` (SGLang, vLLM) or in ``meta`` as
    ``n_ctx`` (llama.cpp).
    """
    if answer.status != 200 or not isinstance(answer.body, dict):
        return Readiness("loading", f"/v1/models answers {answer.status}")
    data = answer.body.get("data")
    items = [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []
    for item in items:
        if item.get("id") == model.upstream_name:
            meta = item.get("meta")
            here = meta.get("n_ctx") if isinstance(meta, dict) else None
            return ready(item.get("max_model_len") or here)
    ids = tuple(item["id"] for item in items if isinstance(item.get("id"), str))
    return serves_another(*ids)


def serves_another(*names: str) -> Readiness:
    """Up, with ``names`` instead of the model: the engine's own texts, of any length."""
    short = all(len(name) <= LONGEST_TEXT for name in names[:2])
    return Readiness(
        "wrong",
        f"it serves {cut_text(', '.join(names)) or 'nothing'}",
        serves=names[:2] if short else (),
    )
