"""What can be asked of a model, and under which paths. Data; `Engine.operations` says which engine
can do what."""

from __future__ import annotations

from dataclasses import dataclass

from llm_router.api.dialects import ANTHROPIC, OPENAI, RESPONSES, Dialect
from llm_router.engines.base import OperationName


@dataclass(frozen=True)
class Operation:
    """One thing that can be asked of a model; ``paths`` lead to it, the first is its name."""

    name: OperationName
    paths: tuple[str, ...]
    summary: str
    dialect: Dialect = OPENAI
    form: bool = False
    """Whether a request is a multipart form, not JSON."""
    generates: bool = False
    """Whether the answer is text with a count of tokens: it is measured, it may be streamed event
    by event, and another model may stand in where the router's configuration says so."""
    tuned: bool = True
    """Whether the model's parameters (``defaults``, ``force``, ``strip``) are for it."""
    json_answer: bool = True
    """Whether the answer is JSON, so that spaces may come before it."""

    @property
    def json_request(self) -> bool:
        """Whether a request is JSON of which the router knows the top level."""
        return not self.form and self is not UPSTREAM

    @property
    def path(self) -> str:
        """The path that it is known by."""
        return self.paths[0]


CHAT = Operation("chat", ("/v1/chat/completions",), "Chat", generates=True)

OPERATIONS: tuple[Operation, ...] = (
    CHAT,
    Operation("completions", ("/v1/completions",), "Completion of a text", generates=True),
    Operation(
        "responses", ("/v1/responses",), "OpenAI's Responses", dialect=RESPONSES, generates=True
    ),
    Operation(
        "responses_compact",
        ("/v1/responses/compact",),
        "A shorter form of a conversation, for Responses",
        dialect=RESPONSES,
        tuned=False,
    ),
    Operation(
        "responses_tokens",
        ("/v1/responses/input_tokens",),
        "Responses' count of a request's tokens",
        dialect=RESPONSES,
        tuned=False,
    ),
    Operation(
        "messages", ("/v1/messages",), "Anthropic's Messages", dialect=ANTHROPIC, generates=True
    ),
    Operation(
        "count_tokens",
        ("/v1/messages/count_tokens",),
        "Anthropic's count of a request's tokens",
        dialect=ANTHROPIC,
        tuned=False,
    ),
    Operation("embeddings", ("/v1/embeddings",), "Embeddings"),
    Operation("rerank", ("/v1/rerank", "/rerank"), "Documents by their relevance to a query"),
    Operation("score", ("/v1/score", "/score"), "How alike texts are"),
    Operation(
        "tokenize",
        ("/tokenize", "/v1/tokenize", "/v1/token/encode"),
        "A text's tokens; the body is as the model's engine has it",
        tuned=False,
    ),
    Operation(
        "detokenize",
        ("/detokenize", "/v1/detokenize", "/v1/token/decode"),
        "The text of tokens; the body is as the model's engine has it",
        tuned=False,
    ),
    Operation(
        "transcriptions",
        ("/v1/audio/transcriptions",),
        "Speech to text",
        form=True,
        tuned=False,
        json_answer=False,
    ),
    Operation(
        "translations",
        ("/v1/audio/translations",),
        "Speech to English text",
        form=True,
        tuned=False,
        json_answer=False,
    ),
    Operation("speech", ("/v1/audio/speech",), "Text to speech", json_answer=False),
    Operation("images", ("/v1/images/generations",), "Images"),
)

UPSTREAM = Operation(
    "upstream",
    ("/upstream",),
    "A path of the model's engine itself",
    tuned=False,
    json_answer=False,
)
