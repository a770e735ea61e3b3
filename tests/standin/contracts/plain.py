"""Any program with an OpenAI API: it has every path, and says back what came."""

from __future__ import annotations

from typing import ClassVar

from contracts.openai import Routes
from contracts.typed import TypedApis
from wire import Connection, Request


class Plain(TypedApis):
    """No engine's habits."""

    routes: ClassVar[Routes] = {
        **TypedApis.routes,
        ("GET", "/health"): "health",
        ("PUT", "/own/path"): "echo",
        **{
            ("POST", path): "echo"
            for path in (
                "/v1/responses/compact",
                "/v1/responses/input_tokens",
                "/v1/embeddings",
                "/v1/rerank",
                "/v1/score",
                "/tokenize",
                "/detokenize",
                "/v1/audio/transcriptions",
                "/v1/audio/translations",
                "/v1/images/generations",
            )
        },
        ("POST", "/v1/audio/speech"): "speech",
    }

    def health(self, connection: Connection, request: Request) -> None:
        connection.answer(200)

    def echo(self, connection: Connection, request: Request) -> None:
        connection.answer(200, {"path": request.path, "query": request.query})

    def speech(self, connection: Connection, request: Request) -> None:
        """Sound in chunks; with a fault it is cut off in the middle."""
        connection.begin_stream("audio/mpeg")
        for _ in range(self.options.tokens):
            connection.piece(bytes(range(256)))
        if "cut-mid-stream" in self.options.faults:
            connection.close()
        else:
            connection.end_stream()
