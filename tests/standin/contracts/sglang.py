"""SGLang 0.5.23."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

from contracts.openai import Routes, Turn
from contracts.typed import TypedApis
from wire import Connection, Request


class Sglang(TypedApis):
    """The port opens when the weights are there; a warm-up comes after that."""

    load_failure = 1
    heeds_n = True
    opens_at = 0.8
    owner = "sglang"
    open_paths = r"/(health|ready|metrics).*"
    id_prefix = ""
    routes: ClassVar[Routes] = {
        **TypedApis.routes,
        ("GET", "/health"): "health",
        ("GET", "/health_generate"): "health",
        ("GET", "/ready"): "is_ready",
        ("GET", "/model_info"): "model_info",
        ("GET", "/get_model_info"): "model_info",
        ("GET", "/metrics"): "metrics",
        ("POST", "/tokenize"): "tokenize",
        ("POST", "/v1/tokenize"): "tokenize",
        ("POST", "/detokenize"): "detokenize",
        ("POST", "/v1/detokenize"): "detokenize",
        ("POST", "/v1/embeddings"): "embeddings",
        ("GET", "/flush_cache"): "flush_cache",
        ("POST", "/flush_cache"): "flush_cache",
        ("POST", "/release_memory_occupation"): "release",
        ("POST", "/resume_memory_occupation"): "resume",
    }
    device_calls = frozenset({"release", "resume"})
    draining = False
    released = False

    def phases(self) -> list[tuple[float, Callable[[], None]]]:
        return [
            (self.opens_at, self.open_port),
            (self.opens_at, self.heed_sigterm),
            (1.0, self.be_ready),
        ]

    def before_load(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def terminate(self) -> NoReturn:
        self.draining = True
        self.pause(5)
        while not self.drained(0) and os.environ.get("SGL_FORCE_SHUTDOWN") != "1":
            self.pause(5)
        self.pause(0.5)
        self.exit(0)

    def while_loading(self, connection: Connection, request: Request) -> bool:
        if self.ready or request.path in ("/v1/models", "/model_info", "/get_model_info"):
            return False
        connection.answer(503)
        return True

    def health(self, connection: Connection, request: Request) -> None:
        """A generation of one token, which takes a second: up to 20 where none comes."""
        if self.draining:
            connection.answer(503)
        elif "plain-health" in self.options.flags or self.in_flight:
            connection.answer(200)
        elif "mute" in self.options.faults or self.released:
            connection.wait(20 * self.options.pace)
            connection.answer(503)
        else:
            connection.wait(self.options.pace)
            connection.answer(200)

    def is_ready(self, connection: Connection, request: Request) -> None:
        connection.answer(503 if self.draining else 200)

    def model_info(self, connection: Connection, request: Request) -> None:
        name = self.options.answers_as
        connection.answer(200, {"model_path": name, "served_model_name": name})

    def metrics(self, connection: Connection, request: Request) -> None:
        if "metrics" not in self.options.flags:
            self.not_found(connection, request)
            return
        line = f'sglang:num_running_reqs{{model_name="{self.options.name}"}} {self.in_flight}.0\n'
        connection.answer(200, line.encode(), "text/plain; version=0.0.4")

    def tokenize(self, connection: Connection, request: Request) -> None:
        tokens = list(range(len(str(request.json().get("prompt", "")).split())))
        shape = {"tokens": tokens, "count": len(tokens), "max_model_len": self.options.context}
        connection.answer(200, shape)

    def detokenize(self, connection: Connection, request: Request) -> None:
        connection.answer(200, {"text": self.words(0, len(request.json()["tokens"]))})

    def embeddings(self, connection: Connection, request: Request) -> None:
        self.error(
            connection, 400, "This model does not appear to be an embedding model", "BadRequest"
        )

    def flush_cache(self, connection: Connection, request: Request) -> None:
        connection.answer(200, b"Cache flushed.\n", "text/plain")

    def release(self, connection: Connection, request: Request) -> None:
        """Not while anything runs: an assertion ends the server."""
        if "saver" not in self.options.flags:
            self.error(connection, 400, "--enable-memory-saver is not set")
        elif self.in_flight or self.released:
            self.journal.note("asked-wrongly", why="release while busy, or twice")
            print("AssertionError: release_memory_occupation should be called only when idle")
            self.exit(1)
        else:
            self.released = True
            self.holds_device(False)
            connection.answer(200)

    def resume(self, connection: Connection, request: Request) -> None:
        """Not without a release: a KeyError ends the server."""
        if not self.released:
            self.journal.note("asked-wrongly", why="resume of what is awake")
            print("KeyError: 'weights'")
            self.exit(1)
        self.released = False
        self.holds_device(True)
        connection.answer(200)

    def not_found(self, connection: Connection, request: Request) -> None:
        connection.answer(404, {"detail": "Not Found"})

    def error_body(self, status: int, message: str, kind: str) -> Any:
        """Not under ``error``, as everybody else has it."""
        return {
            "object": "error",
            "message": message,
            "type": kind,
            "param": None,
            "code": status,
        }

    def model_entry(self) -> dict[str, Any]:
        return {"root": "/models/standin", "parent": None, "max_model_len": self.options.context}

    def says_model(self, body: dict[str, Any]) -> str:
        """Whatever the request said."""
        return str(body.get("model", "default"))

    def answer_turn(self, connection: Connection, turn: Turn) -> None:
        if self.released:
            self.journal.note("asked-wrongly", why="a generation of what sleeps")
            connection.wait(None)
        super().answer_turn(connection, turn)

    def usage(self, turn: Turn, tokens: int) -> dict[str, Any]:
        more = {"prompt_tokens_details": None, "reasoning_tokens": min(turn.reasoning, tokens)}
        return {**super().usage(turn, tokens), **more}

    def opening(self, connection: Connection, turn: Turn) -> None:
        for index in range(turn.choices if turn.chat else 0):
            delta = self.delta(role="assistant", content="")
            self.choice(connection, turn, index, delta, None, tokens=0)

    def part(self, turn: Turn, number: int) -> dict[str, Any]:
        """Every key of a delta is there, most of them null."""
        part = super().part(turn, number)
        return self.delta(**part["delta"]) if turn.chat else part

    def delta(self, **given: Any) -> dict[str, Any]:
        empty = {"role": None, "content": None, "reasoning_content": None, "tool_calls": None}
        return {"delta": {**empty, **given}}

    def finish_choices(self, connection: Connection, turn: Turn, reason: str = "") -> None:
        for index in range(turn.choices):
            part = self.delta() if turn.chat else {"text": ""}
            self.choice(connection, turn, index, part, reason or turn.stopped_by)

    def chunk(self, connection: Connection, turn: Turn, choices: list[Any], **extra: Any) -> None:
        super().chunk(connection, turn, choices, **{"usage": None, **extra})

    def error_in_stream(self, connection: Connection) -> None:
        self.event(connection, {"error": self.error_body(500, "CUDA error", "InternalServerError")})
        self.done(connection)
