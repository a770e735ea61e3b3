"""llama.cpp's server, as PyPI's xllamacpp 2026.10 has it: what is here was run against it."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from contracts.openai import Routes, Turn
from contracts.typed import TypedApis
from wire import Connection, Request


class LlamaCpp(TypedApis):
    """The port opens before the model is loaded, and everything is 503 until then."""

    load_failure = 1
    heeds_n = True
    opens_at = 0.0
    owner = "llamacpp"
    open_paths = r"/health|/v1/health|/models|/v1/models|/"
    id_prefix = "chatcmpl-"
    routes: ClassVar[Routes] = {
        **TypedApis.routes,
        ("GET", "/health"): "health",
        ("GET", "/metrics"): "metrics",
        ("GET", "/props"): "props",
        ("POST", "/v1/responses/input_tokens"): "count_input_tokens",
        ("POST", "/tokenize"): "tokenize",
        ("POST", "/detokenize"): "detokenize",
        ("POST", "/apply-template"): "apply_template",
        ("POST", "/embedding"): "embeddings",
        ("POST", "/v1/embeddings"): "embeddings",
        ("POST", "/rerank"): "rerank",
        ("POST", "/v1/rerank"): "rerank",
    }

    def terminate(self) -> NoReturn:
        self.pause(0.03)
        self.exit(0)

    def model_entry(self) -> dict[str, Any]:
        return {"meta": {"n_ctx": self.options.context, "n_ctx_train": 131072, "n_params": 1}}

    def health(self, connection: Connection, request: Request) -> None:
        connection.answer(200, {"status": "ok"})

    def metrics(self, connection: Connection, request: Request) -> None:
        if self.lacks(connection, "metrics", "metrics endpoint"):
            return
        line = f"llamacpp:requests_processing {self.in_flight}\n"
        connection.answer(200, line.encode(), "text/plain; version=0.0.4")

    def props(self, connection: Connection, request: Request) -> None:
        settings = {"n_ctx": self.options.context}
        connection.answer(200, {"default_generation_settings": settings, "total_slots": 1})

    def tokenize(self, connection: Connection, request: Request) -> None:
        words = str(request.json().get("content", "")).split()
        connection.answer(200, {"tokens": list(range(len(words)))})

    def detokenize(self, connection: Connection, request: Request) -> None:
        connection.answer(200, {"content": self.words(0, len(request.json()["tokens"]))})

    def apply_template(self, connection: Connection, request: Request) -> None:
        messages = request.json()["messages"]
        text = "".join(f"{one['role']}: {one['content']}</s>" for one in messages)
        connection.answer(200, {"prompt": f"{text}assistant: "})

    def embeddings(self, connection: Connection, request: Request) -> None:
        if not self.lacks(connection, "embeddings", "embeddings"):
            entry = {"object": "embedding", "index": 0, "embedding": [0.6, 0.8]}
            usage = {"prompt_tokens": 3, "total_tokens": 3}
            model = self.options.answers_as
            connection.answer(
                200, {"model": model, "object": "list", "usage": usage, "data": [entry]}
            )

    def rerank(self, connection: Connection, request: Request) -> None:
        if not self.lacks(connection, "reranking", "reranking"):
            count = len(request.json()["documents"])
            results = [{"index": one, "relevance_score": -one} for one in range(count)]
            model = self.options.answers_as
            connection.answer(200, {"model": model, "object": "list", "results": results})

    def lacks(self, connection: Connection, flag: str, what: str) -> bool:
        """Answer 501 where the server was not started with ``--flag``; whether that was so."""
        if flag in self.options.flags:
            return False
        message = f"This server does not support {what}. Start it with `--{flag}`"
        self.error(connection, 501, message, "not_supported_error")
        return True

    def not_found(self, connection: Connection, request: Request) -> None:
        self.error(connection, 404, "File Not Found", "not_found_error")

    def usage(self, turn: Turn, tokens: int) -> dict[str, Any]:
        return {**super().usage(turn, tokens), "prompt_tokens_details": {"cached_tokens": 0}}

    def timings(self, turn: Turn) -> dict[str, Any]:
        seconds = max(0.001, self.options.interval * turn.count)
        return {
            "timings": {
                "prompt_n": 3,
                "predicted_n": turn.count,
                "predicted_ms": seconds * 1000,
                "predicted_per_second": turn.count / seconds,
            }
        }

    def whole(self, turn: Turn) -> dict[str, Any]:
        return super().whole(turn) | self.timings(turn)

    def opening(self, connection: Connection, turn: Turn) -> None:
        """Only with a first token: an answer without text has no role at all."""
        for index in range(turn.choices if turn.chat and turn.count else 0):
            delta = {"delta": {"role": "assistant", "content": None}}
            self.choice(connection, turn, index, delta, None)

    def finish(self, connection: Connection, turn: Turn) -> None:
        """A chat's usage comes apart if it was asked for; else its timings are with the last
        choice. A completion has both there, asked or not."""
        measures = self.timings(turn)
        if not turn.chat:
            measures["usage"] = self.usage(turn, turn.count)
        for index in range(turn.choices):
            last = index == turn.choices - 1 and not (turn.chat and turn.include_usage)
            part: dict[str, Any] = {"delta": {}} if turn.chat else {"text": ""}
            extra = measures if last else {}
            self.choice(connection, turn, index, part, turn.stopped_by, **extra)
        if turn.chat and turn.include_usage:
            self.chunk(connection, turn, [], usage=self.usage(turn, turn.count), **measures)

    def error_in_stream(self, connection: Connection) -> None:
        self.event(connection, self.error_body(500, "CUDA error", "server_error"))
