"""TabbyAPI e632af4; with the flag ``exl2`` 79126f9, the last with ExLlamaV2."""

from __future__ import annotations

import re
import socket
import time
from dataclasses import replace
from typing import Any, ClassVar, NoReturn

from contracts.openai import OpenAi, Routes, Turn
from wire import Connection, Gone, Request

PING = 15.0
REQUIRED = "Field required"
MODULES = 5


class Tabby(OpenAi):
    """The port opens when the model of the config is loaded; without one (flag ``empty``) at
    once, and a model can be loaded over the API."""

    load_failure = 1
    heeds_n = True
    opens_at = 1.0
    open_paths = r"/health|/\.well-known/serviceinfo|/docs|/openapi\.json"
    separator = "\r\n\r\n"  # sse-starlette's
    owner = "tabbyAPI"
    id_prefix = "chatcmpl-"
    streams_heed_stop = True
    routes: ClassVar[Routes] = {
        **OpenAi.routes,
        ("GET", "/health"): "health",
        ("GET", "/v1/model"): "current_model",
        ("GET", "/v1/model/list"): "list_models",
        ("POST", "/v1/model/load"): "load",
        ("POST", "/v1/model/unload"): "unload",
        ("POST", "/v1/token/encode"): "encode",
        ("POST", "/v1/token/decode"): "decode",
        ("POST", "/v1/embeddings"): "embeddings",
    }
    admins_only = frozenset({"/v1/model/load", "/v1/model/unload"})
    device_calls = frozenset({"load", "unload"})
    loaded: str | None = None
    sick: str | None = None
    lock_leaked = False
    """79126f9 keeps a lock for good when it is asked while nothing is loaded."""
    api_keys: frozenset[str] = frozenset()
    admin_key: str | None = None
    """None: they are not read from api_tokens.yml, and ``--api-key`` says who may ask."""

    def before_load(self) -> None:
        super().before_load()
        for _ in range(2):
            if not self.answers_on(self.port):
                break
            print(f"Port {self.port} is currently in use. Switching to {self.port + 1}")
            self.port += 1
        else:
            print(f"Port {self.port - 1} is in use too. Exiting.")
            self.exit(0)
        if "empty" in self.options.flags:
            self.options.load = 0.0
        else:
            self.loaded = self.options.answers_as.rpartition("/")[2]

    def answers_on(self, port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("localhost", port)) == 0

    def terminate(self) -> NoReturn:
        """At once while it loads; streams are cut, all else is waited for."""
        self.close_port()
        if self.ready:
            busy = self.in_flight > 0
            self.pause(1.0 if busy else 0.5)
            self.drained(None)
        self.exit(0)

    def while_loading(self, connection: Connection, request: Request) -> bool:
        return False

    def let_in(self, request: Request) -> bool:
        """An admin's key is valid everywhere, but not as ``x-admin-key`` on a user's paths."""
        if self.admin_key is None or re.fullmatch(self.open_paths, request.path):
            return super().let_in(request)
        admins_only = request.path in self.admins_only
        own_header = request.headers.get("x-admin-key" if admins_only else "x-api-key")
        key = own_header or request.headers.get("authorization", "").partition(" ")[2]
        return key == self.admin_key or (not admins_only and key in self.api_keys)

    def not_found(self, connection: Connection, request: Request) -> None:
        connection.answer(404, {"detail": "Not Found"})

    def error_body(self, status: int, message: str, kind: str) -> Any:
        return {"detail": message}

    def health(self, connection: Connection, request: Request) -> None:
        """200 without a model too; 503 for ever after a generation has failed."""
        if self.sick is None:
            connection.answer(200, {"status": "healthy", "issues": []})
            return
        issue = {"time": "2026-08-13T00:00:00Z", "description": self.sick}
        connection.answer(503, {"status": "unhealthy", "issues": [issue]})

    def current_model(self, connection: Connection, request: Request) -> None:
        if self.loaded is None:
            self.error(connection, 503, "No models are currently loaded.")
            return
        entry = {"id": self.loaded, "object": "model", "created": 1, "owned_by": self.owner}
        sizes = {"max_seq_len": self.options.context, "cache_size": 4096, "cache_mode": "FP16"}
        connection.answer(200, {**entry, "logging": None, "parameters": {**sizes, "draft": None}})

    def list_models(self, connection: Connection, request: Request) -> None:
        ids = [self.loaded] if self.loaded else []
        data = [{"id": one, "object": "model", "created": 1, "owned_by": self.owner} for one in ids]
        connection.answer(200, {"object": "list", "data": data})

    def load(self, connection: Connection, request: Request) -> None:
        """The old model goes first; a client that leaves does not stop it; no ``[DONE]``."""
        name = request.json()["model_name"]
        if name not in (self.options.models or [self.options.name]):
            self.error(connection, 400, "Could not find the model path for the requested model.")
            return
        self.drained(None)
        self.loaded = None
        self.holds_device(True)
        connection.begin_stream()
        for module in range(1, MODULES + 1):
            time.sleep(self.options.load / MODULES)
            if "exit-while-loading" in self.options.faults:
                self.event(connection, {"error": {"message": "CUDA out of memory", "trace": None}})
                connection.end_stream()
                return
            if module == MODULES:
                self.loaded = name.rpartition("/")[2]
            status = "finished" if module == MODULES else "processing"
            progress = {"module": module, "modules": MODULES, "status": status}
            try:
                self.event(connection, {"model_type": "model", **progress})
            except Gone:
                continue
        connection.end_stream()

    def unload(self, connection: Connection, request: Request) -> None:
        """What runs is killed."""
        self.epoch += 1
        self.loaded = None
        self.holds_device(False)
        connection.answer(200, None)

    def encode(self, connection: Connection, request: Request) -> None:
        tokens = list(range(len(str(request.json().get("text", "")).split())))
        connection.answer(200, {"tokens": tokens, "length": len(tokens)})

    def decode(self, connection: Connection, request: Request) -> None:
        connection.answer(200, {"text": self.words(0, len(request.json()["tokens"]))})

    def embeddings(self, connection: Connection, request: Request) -> None:
        self.error(connection, 503, "No embedding models are currently loaded.")

    def refuses(self, connection: Connection, body: Any, *, chat: bool) -> bool:
        """Pydantic's 422 first: a tool needs a description and parameters."""
        missing = [
            {"type": "missing", "loc": ["body", "tools", index, "function", key], "msg": REQUIRED}
            for index, tool in enumerate(body.get("tools") or [] if chat else [])
            for key in ("description", "parameters")
            if tool["function"].get(key) is None
        ]
        if missing:
            connection.answer(422, {"detail": missing})
            return True
        if self.lock_leaked:
            connection.wait(None)
        if self.loaded is not None:
            return False
        self.lock_leaked = "exl2" in self.options.flags
        if body.get("model"):
            connection.answer(500, b"Internal Server Error", "text/plain; charset=utf-8")
        else:
            self.error(connection, 503, "No models are currently loaded.")
        return True

    def answer_turn(self, connection: Connection, turn: Turn) -> None:
        """A stream has begun before its generation fails; one of a text always fails without
        ``max_tokens`` (`None += 0`), and that makes nothing sick."""
        wanted = [turn.body.get(key) for key in ("max_tokens", "max_completion_tokens")]
        countless = not turn.chat and all(one is None for one in wanted)
        if turn.body.get("stream") and (countless or "no-token" in self.options.faults):
            connection.begin_stream()
            if countless:
                message = "Completion aborted. Please check the server console."
                self.event(connection, {"error": {"message": message, "trace": None}})
            else:
                self.error_in_stream(connection)
            connection.end_stream()
            return
        super().answer_turn(connection, turn)

    def generation_failed(self, connection: Connection) -> None:
        self.sick = "no kernel image"
        self.error(connection, 503, "Chat completion x aborted. Maybe the model was unloaded?")

    def says_model(self, body: dict[str, Any]) -> str:
        return self.loaded or ""

    def usage(self, turn: Turn, tokens: int) -> dict[str, Any]:
        seconds = self.options.interval * tokens
        rate = tokens / seconds if seconds else "Indeterminate"
        measures = {"completion_time": seconds, "completion_tokens_per_sec": rate}
        return {**super().usage(turn, tokens), **measures}

    def whole(self, turn: Turn) -> dict[str, Any]:
        """Usage only if asked for, here too."""
        answer = super().whole(turn)
        return answer if turn.include_usage else {**answer, "usage": None}

    def between_tokens(self, connection: Connection, seconds: float) -> None:
        """Comments while nothing comes."""
        every = PING * self.options.pace
        while seconds > every:
            connection.wait(every)
            connection.piece(b": ping\r\n\r\n")
            seconds -= every
        connection.wait(seconds)

    def token(self, connection: Connection, turn: Turn, number: int) -> None:
        """The last one has the finish reason, unless usage comes after it."""
        last = number == turn.count - 1 and not turn.include_usage
        for index in range(turn.choices):
            extra = {"eos_reason": "stop_token"} if last else {}
            part = {**self.part(turn, number), **extra}
            self.choice(connection, turn, index, part, turn.stopped_by if last else None)

    def chunk(self, connection: Connection, turn: Turn, choices: list[Any], **extra: Any) -> None:
        """Of a text, and with 79126f9 of a chat too, the model stands in ``model_name``."""
        if not turn.chat or "exl2" in self.options.flags:
            base = {key: value for key, value in turn.base.items() if key != "model"}
            turn = replace(turn, base={**base, "model_name": turn.base["model"]})
        super().chunk(connection, turn, choices, **extra)

    def finish(self, connection: Connection, turn: Turn) -> None:
        if turn.include_usage:
            part: dict[str, Any] = {"delta": {}} if turn.chat else {"text": ""}
            entry = {"index": 0, **part, "finish_reason": turn.stopped_by}
            self.chunk(connection, turn, [entry], usage=self.usage(turn, turn.count))

    def aborted(self, connection: Connection, turn: Turn) -> None:
        """SIGTERM cuts; an unload tells."""
        if self.stop.at is None:
            self.error_in_stream(connection)
            connection.end_stream()
        connection.close()

    def error_in_stream(self, connection: Connection) -> None:
        self.sick = "Chat completion aborted"
        message = "Chat completion aborted. Please check the server console."
        self.event(connection, {"error": {"message": message, "trace": None}})
