"""vLLM 0.32 and 0.33."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

from contracts.openai import Routes, Turn
from contracts.typed import TypedApis
from wire import Connection, Request, Stopping

IMPORTS = 0.3
"""How much of a load goes by before SIGTERM is ignored instead of ending it."""


JUST_ANSWERED = 0.25
"""Seconds that a generation may take to end here after its client has the whole answer."""


class Vllm(TypedApis):
    """The port is bound at once and does not listen until the model is loaded."""

    load_failure = 1
    heeds_n = True
    opens_at = 1.0
    owner = "vllm"
    open_paths = r"/(?!(v1|v2|inference|cohere)(/|$)).*"
    id_prefix = "chatcmpl-"
    reasoning_key = "reasoning"
    streams_heed_stop = True
    routes: ClassVar[Routes] = {
        **TypedApis.routes,
        ("GET", "/health"): "health",
        ("GET", "/ping"): "health",
        ("POST", "/ping"): "health",
        ("GET", "/version"): "version",
        ("GET", "/load"): "server_load",
        ("GET", "/metrics"): "metrics",
        ("POST", "/tokenize"): "tokenize",
        ("POST", "/detokenize"): "detokenize",
    }
    dev_routes: ClassVar[Routes] = {
        ("POST", "/sleep"): "sleep",
        ("POST", "/wake_up"): "wake_up",
        ("GET", "/is_sleeping"): "is_sleeping",
        ("POST", "/collective_rpc"): "collective_rpc",
        ("POST", "/reset_prefix_cache"): "reset_prefix_cache",
    }
    device_calls = frozenset({"sleep", "wake_up", "collective_rpc", "reset_prefix_cache"})
    sleep_level = 0
    weights = True

    def phases(self) -> list[tuple[float, Callable[[], None]]]:
        self.usage_unasked = "force-usage" in self.options.flags
        return [
            (IMPORTS, self.ignore_sigterm),
            (1.0, self.heed_sigterm),
            (1.0, self.be_ready),
            (1.0, self.listen),
        ]

    def before_load(self) -> None:
        self.listener = self.bind()

    def ignore_sigterm(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def route(self, method: str, path: str) -> str | None:
        found = super().route(method, path)
        if found is None and "dev" in self.options.flags:
            return self.dev_routes.get((method, path))
        return found

    def terminate(self) -> NoReturn:
        self.close_port()
        busy = self.in_flight > 0
        self.drained(5.0)
        self.pause(2.1 if busy else 0.4)
        self.exit(0)

    def health(self, connection: Connection, request: Request) -> None:
        connection.answer(200)

    def version(self, connection: Connection, request: Request) -> None:
        connection.answer(200, {"version": "0.33.0"})

    def server_load(self, connection: Connection, request: Request) -> None:
        connection.answer(200, {"server_load": self.in_flight})

    def metrics(self, connection: Connection, request: Request) -> None:
        label = f'{{model_name="{self.options.answers_as}"}}'
        lines = [
            f"vllm:num_requests_running{label} {self.in_flight}.0",
            f"vllm:num_requests_waiting{label} 0.0",
            f"vllm:kv_cache_usage_perc{label} 0.0",
        ]
        connection.answer(200, "\n".join([*lines, ""]).encode(), "text/plain; version=0.0.4")

    def tokenize(self, connection: Connection, request: Request) -> None:
        tokens = list(range(len(str(request.json().get("prompt", "")).split())))
        shape = {"count": len(tokens), "max_model_len": self.options.context, "tokens": tokens}
        connection.answer(200, {**shape, "token_strs": None})

    def detokenize(self, connection: Connection, request: Request) -> None:
        count = len(request.json()["tokens"])
        connection.answer(200, {"prompt": self.words(0, count)})

    def sleep(self, connection: Connection, request: Request) -> None:
        if self.sleep_level:
            self.journal.note("asked-wrongly", why="sleep of what sleeps")
        elif not self.drained(JUST_ANSWERED):
            self.journal.note("asked-wrongly", why="sleep while busy")
        if request.query.get("mode", "abort") == "abort":
            self.epoch += 1
        self.drained(5.0)
        self.sleep_level = int(request.query.get("level", 1))
        self.weights = self.sleep_level < 2
        self.holds_device(False)
        connection.answer(200)

    def wake_up(self, connection: Connection, request: Request) -> None:
        tags = request.query.get("tags")
        if not self.sleep_level and tags != "kv_cache":
            self.journal.note("asked-wrongly", why="wake up of what is awake")
        self.sleep_level = 0
        self.holds_device(True)
        connection.answer(200)

    def is_sleeping(self, connection: Connection, request: Request) -> None:
        connection.answer(200, {"is_sleeping": self.sleep_level > 0})

    def collective_rpc(self, connection: Connection, request: Request) -> None:
        self.weights = self.weights or request.json().get("method") == "reload_weights"
        connection.answer(200, {"results": [None]})

    def reset_prefix_cache(self, connection: Connection, request: Request) -> None:
        connection.answer(200)

    def word(self, index: int) -> str:
        return super().word(index) if self.weights else "!"

    def not_found(self, connection: Connection, request: Request) -> None:
        connection.answer(404, {"detail": "Not Found"})

    def error_body(self, status: int, message: str, kind: str) -> Any:
        return {"error": {"message": message, "type": kind, "param": None, "code": status}}

    def model_entry(self) -> dict[str, Any]:
        return {"root": "/models/standin", "parent": None, "max_model_len": self.options.context}

    def refuses(self, connection: Connection, body: Any, *, chat: bool) -> bool:
        named, served = body.get("model"), self.options.answers_as
        if named is not None and named != served:
            message = f"The model `{named}` does not exist. Valid aliases: {served}."
            error = {"message": message, "type": "NotFoundError", "param": "model", "code": 404}
            connection.answer(404, {"error": error})
            return True
        problem = self.problem(body)
        if problem:
            self.error(connection, 400, problem, "BadRequestError")
        return bool(problem)

    def problem(self, body: Any) -> str | None:
        if body.get("stream_options") and not body.get("stream"):
            return "Stream options can only be defined when `stream=True`."
        automatic = body.get("tools") and body.get("tool_choice", "auto") == "auto"
        if automatic and "tools" not in self.options.flags:
            return (
                '"auto" tool choice requires --enable-auto-tool-choice and '
                "--tool-call-parser to be set"
            )
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or 0
        if limit > self.options.context:
            return f"max_tokens {limit} is more than max_model_len {self.options.context}"
        return None

    def answer_turn(self, connection: Connection, turn: Turn) -> None:
        if self.sleep_level:
            self.journal.note("asked-wrongly", why="a generation of what sleeps")
            connection.wait(None)
        connection.heeds_stop = True
        try:
            super().answer_turn(connection, turn)
        except Stopping:
            connection.answer(200, {**self.whole(turn), "choices": []})

    def whole(self, turn: Turn) -> dict[str, Any]:
        answer = super().whole(turn)
        answer["usage"]["prompt_tokens_details"] = None
        return answer | self.measures()

    def measures(self) -> dict[str, Any]:
        if "request-metrics" not in self.options.flags:
            return {}
        return {"metrics": {"time_to_first_token_ms": 8.5, "tokens_per_second": 500.9}}

    def opening(self, connection: Connection, turn: Turn) -> None:
        for index in range(turn.choices if turn.chat else 0):
            delta = {"delta": {"role": "assistant", "content": ""}}
            self.choice(connection, turn, index, delta, None, tokens=0)

    def token(self, connection: Connection, turn: Turn, number: int) -> None:
        """The last token carries the finish reason."""
        reason = turn.stopped_by if number == turn.count - 1 else None
        for index in range(turn.choices):
            part = self.part(turn, number)
            self.choice(connection, turn, index, part, reason, tokens=number + 1)

    def finish(self, connection: Connection, turn: Turn) -> None:
        if turn.include_usage or self.usage_unasked:
            usage = self.usage(turn, turn.count)
            self.chunk(connection, turn, [], usage=usage, **self.measures())

    def aborted(self, connection: Connection, turn: Turn) -> None:
        self.finish_choices(connection, turn, "abort")
        self.done(connection)
        connection.end_stream()

    def error_in_stream(self, connection: Connection) -> None:
        self.event(connection, self.error_body(500, "CUDA error", "InternalServerError"))
        self.done(connection)
