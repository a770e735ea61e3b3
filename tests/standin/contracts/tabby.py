"""TabbyAPI e632af4; with the flag ``exl2`` 79126f9, the last with ExLlamaV2."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from contracts.openai import OpenAi, Routes, Turn
from wire import Connection, Gone, Request

PING = 15.0
MODULES = 5
SITE = "https://theroyallab.github.io/tabbyAPI"
CODE = "https://github.com/theroyallab/tabbyAPI"


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
        ("GET", "/props"): "props",
        ("GET", "/.well-known/serviceinfo"): "service_info",
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
    hangs = False
    """Whether a request waits for that lock, and SIGTERM for the request."""
    lock_leaked = False
    """79126f9 keeps a lock for good when it is asked while nothing is loaded."""
    api_keys: frozenset[str] = frozenset()
    admin_key: str | None = None
    """None: they are not read from api_tokens.yml, and ``--api-key`` says who may ask."""
    model_dir: Path | None = None
    """None: what can be loaded are ``--models``."""
    parameters: Mapping[str, Any] = {}
    """Of the loaded model, where they are not the usual ones."""

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
            if self.hangs:
                threading.Event().wait()
        self.exit(0)

    def while_loading(self, connection: Connection, request: Request) -> bool:
        return False

    def let_in(self, request: Request) -> bool:
        """An admin's key is valid everywhere, but not as ``x-admin-key`` on a user's paths."""
        if self.admin_key is None or re.fullmatch(self.open_paths, request.path):
            return super().let_in(request)
        key = self.shown_key(request)
        admins_only = request.path in self.admins_only
        return key == self.admin_key or (not admins_only and key in self.api_keys)

    def shown_key(self, request: Request) -> str | None:
        """The key where it is looked for on this path; None without one."""
        own = "x-admin-key" if request.path in self.admins_only else "x-api-key"
        bearer = request.headers.get("authorization", "").partition(" ")[2]
        return request.headers.get(own) or bearer or None

    def respond(self, connection: Connection, request: Request) -> None:
        """404 and 405 come before the key."""
        if self.route(request.method, request.path) is None:
            self.not_found(connection, request)
        elif not self.let_in(request):
            kind = "admin" if request.path in self.admins_only else "API"
            missing = f"Please provide an {kind} key"
            wrong = f"Invalid {kind} key"
            self.error(connection, 401, wrong if self.shown_key(request) else missing)
        else:
            super().respond(connection, request)

    def not_found(self, connection: Connection, request: Request) -> None:
        if any(path == request.path for _, path in self.routes):
            connection.answer(405, {"detail": "Method Not Allowed"})
            return
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
            self.nothing_loaded(connection)
            return
        connection.answer(200, self.card(self.loaded, self.card_parameters()))

    def nothing_loaded(self, connection: Connection) -> None:
        self.error(connection, 503, "No models are currently loaded.")

    def card(self, name: str, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
        entry = {"id": name, "object": "model", "created": 1, "owned_by": self.owner}
        return {**entry, "logging": None, "parameters": parameters}

    def card_parameters(self) -> dict[str, Any]:
        length = self.parameters.get("max_seq_len") or self.options.context
        return {
            "max_seq_len": length,
            "cache_size": self.parameters.get("cache_size") or length,
            "cache_mode": self.parameters.get("cache_mode") or "FP16",
            "rope_scale": 1.0,
            "rope_alpha": 1.0,
            "max_batch_size": 128,
            "chunk_size": 2048,
            "prompt_template": "from_tokenizer_config",
            "prompt_template_content": "{{ messages }}",
            "use_vision": False,
            "draft": None,
        }

    def props(self, connection: Connection, request: Request) -> None:
        if self.loaded is None:
            self.nothing_loaded(connection)
            return
        own = self.card_parameters()
        answer = {"total_slots": own["max_batch_size"], "chat_template": "{{ messages }}"}
        length = {"n_ctx": own["max_seq_len"]}
        connection.answer(200, {**answer, "default_generation_settings": length})

    def service_info(self, connection: Connection, request: Request) -> None:
        def api(name: str, path: str) -> dict[str, Any]:
            return {"name": name, "relative_url": path, "documentation": SITE, "version": 1}

        software = {"name": "TabbyAPI", "repository": CODE, "homepage": CODE}
        apis = {"openai": api("OpenAI API", "/v1"), "koboldai": api("KoboldAI API", "/api")}
        connection.answer(200, {"version": 0.1, "software": software, "api": apis})

    def list_models(self, connection: Connection, request: Request) -> None:
        """An admin sees every folder, whatever is in it."""
        ids = [self.loaded] if self.loaded else []
        if self.model_dir is not None and self.shown_key(request) == self.admin_key:
            ids = [path.name for path in self.model_dir.iterdir() if path.is_dir()]
        connection.answer(200, {"object": "list", "data": [self.card(one) for one in ids]})

    def can_load(self, name: str) -> bool:
        if self.model_dir is not None:
            return (self.model_dir / name).exists()
        return name in (self.options.models or [self.options.name])

    def settings_of(self, name: str, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a load over the API gives the model; config.yml's section counts for nothing."""
        return asked

    def is_broken(self, name: str) -> bool:
        """Whether its load fails."""
        if "exit-while-loading" in self.options.faults:
            return True
        return self.model_dir is not None and (self.model_dir / name / "BROKEN").exists()

    def load(self, connection: Connection, request: Request) -> None:
        """The old model goes first; a client that leaves does not stop it; no ``[DONE]``. The
        model that is loaded already is not loaded again, and 79126f9 has no event for that; it
        knows it by the last part of its path."""
        body = request.json()
        if "model_name" not in body:
            self.missing(connection, (["model_name"], body))
            return
        name = body["model_name"]
        if not self.can_load(name):
            message = "Could not find the model path for load. Check model name or config.yml?"
            self.error(connection, 400, message)
            return
        same = self.loaded == name.rpartition("/")[2]
        if same:
            connection.begin_stream()
            if "exl2" not in self.options.flags:
                self.progress(connection, 1, 1, "processing")
                self.progress(connection, 1, 1, "finished")
            connection.end_stream()
            return
        self.drained(None)
        self.loaded = None
        self.holds_device(True)
        connection.begin_stream()
        broken = self.is_broken(name)
        for module in range(1, MODULES + 1):
            time.sleep(self.options.load / MODULES)
            if module == MODULES and not broken:
                self.parameters = self.settings_of(name, body)
                self.loaded = name.rpartition("/")[2]
            if module == 2 and broken:
                self.event(connection, {"error": {"message": "CUDA out of memory", "trace": None}})
                break
            self.progress(connection, module, MODULES, "processing")
        if not broken:
            self.progress(connection, MODULES, MODULES, "finished")
        connection.end_stream()

    def progress(self, connection: Connection, module: int, modules: int, status: str) -> None:
        done = {"module": module, "modules": modules, "status": status}
        with suppress(Gone):
            self.event(connection, {"model_type": "model", **done})

    def unload(self, connection: Connection, request: Request) -> None:
        """What runs is killed."""
        if self.loaded is None:
            self.nothing_loaded(connection)
            return
        self.epoch += 1
        self.loaded = None
        self.holds_device(False)
        connection.answer(200, None)

    def encode(self, connection: Connection, request: Request) -> None:
        if self.loaded is None:
            self.nothing_loaded(connection)
            return
        tokens = list(range(len(str(request.json().get("text", "")).split())))
        connection.answer(200, {"tokens": tokens, "length": len(tokens)})

    def decode(self, connection: Connection, request: Request) -> None:
        if self.loaded is None:
            self.nothing_loaded(connection)
            return
        connection.answer(200, {"text": self.words(0, len(request.json()["tokens"]))})

    def embeddings(self, connection: Connection, request: Request) -> None:
        self.error(connection, 503, "No embedding models are currently loaded.")

    def bad_json(self, connection: Connection, error: ValueError) -> None:
        """Pydantic's word for it."""
        why = str(error).partition(":")[0]
        entry = {"type": "json_invalid", "loc": ["body", 1], "msg": "JSON decode error"}
        connection.answer(422, {"detail": [{**entry, "input": {}, "ctx": {"error": why}}]})

    def missing(self, connection: Connection, *found: tuple[list[Any], Any]) -> None:
        """422 for keys that are required: where each should be, and what is there instead."""
        entry = {"type": "missing", "msg": "Field required"}
        detail = [{**entry, "loc": ["body", *place], "input": given} for place, given in found]
        connection.answer(422, {"detail": detail})

    def refuses(self, connection: Connection, body: Any, *, chat: bool) -> bool:
        """Pydantic's 422 first: a tool needs a description and parameters."""
        needed = "messages" if chat else "prompt"
        if needed not in body:
            self.missing(connection, ([needed], body))
            return True
        missing = [
            (["tools", index, "function", key], tool["function"])
            for index, tool in enumerate(body.get("tools") or [] if chat else [])
            for key in ("description", "parameters")
            if tool["function"].get(key) is None
        ]
        if missing:
            self.missing(connection, *missing)
            return True
        if self.lock_leaked:
            self.hangs = True
            connection.wait(None)
        if self.loaded is None:
            self.lock_leaked = "exl2" in self.options.flags
            if body.get("model"):
                connection.answer(500, b"Internal Server Error", "text/plain; charset=utf-8")
            else:
                self.nothing_loaded(connection)
            return True
        return self.is_too_long(connection, body, chat=chat)

    def is_too_long(self, connection: Connection, body: Any, *, chat: bool) -> bool:
        """A prompt beyond the context is refused before a stream begins; a word is a token."""
        parts = [each.get("content") for each in body["messages"]] if chat else [body["prompt"]]
        text = " ".join(str(part) for part in parts)
        length, context = len(text.split()), self.card_parameters()["max_seq_len"]
        if length <= context:
            return False
        error = {"type": "invalid_request_error", "param": None, "code": "context_length_exceeded"}
        message = f"Prompt length {length} exceeds the available context size of {context} tokens"
        connection.answer(400, {"error": {"message": message, **error}})
        return True

    def answer_turn(self, connection: Connection, turn: Turn) -> None:
        """A stream has begun before its generation fails; one of a text always fails without
        ``max_tokens`` (`None += 0`), and that makes nothing sick."""
        wanted = [turn.body.get(key) for key in ("max_tokens", "max_completion_tokens")]
        countless = not turn.chat and all(one is None for one in wanted)
        if turn.body.get("stream") and (countless or "no-token" in self.options.faults):
            connection.begin_stream()
            if countless:
                self.abort_event(connection, "Completion")
            else:
                self.sick = "no kernel image"
                self.abort_event(connection, "Chat completion" if turn.chat else "Completion")
            connection.end_stream()
            return
        super().answer_turn(connection, turn)

    def generation_failed(self, connection: Connection) -> None:
        self.sick = "no kernel image"
        self.error(
            connection,
            503,
            "Chat completion x aborted. Maybe the model was unloaded? "
            "Please check the server console.",
        )

    def says_model(self, body: dict[str, Any]) -> str:
        return self.loaded or ""

    def usage(self, turn: Turn, tokens: int) -> dict[str, Any]:
        seconds = self.options.interval * tokens
        rate = tokens / seconds if seconds else "Indeterminate"
        measures = {"completion_time": seconds, "completion_tokens_per_sec": rate}
        measures |= {"prompt_time": 0.01, "prompt_tokens_per_sec": 300.0}
        return {**super().usage(turn, tokens), **measures, "total_time": seconds + 0.01}

    def eos_reason(self, turn: Turn) -> str:
        return "max_new_tokens" if turn.stopped_by == "length" else "stop_token"

    def whole(self, turn: Turn) -> dict[str, Any]:
        """Usage only if asked for, here too; of several texts a choice each."""
        answer = super().whole(turn)
        answer["id"] = "cmpl-1"
        if not turn.include_usage:
            answer["usage"] = None
        for choice in answer["choices"]:
            choice |= {"eos_reason": self.eos_reason(turn), "logprobs": None}
            if turn.chat:
                choice["stop_str"] = None
                nothing = ("reasoning_content", "tool_calls", "tool_call_id")
                choice["message"] = dict.fromkeys(nothing) | choice["message"]
        return answer

    def turn(self, body: dict[str, Any], *, chat: bool) -> Turn:
        turn = super().turn(body, chat=chat)
        prompt = body.get("prompt")
        texts = len(prompt) if isinstance(prompt, list) and not chat else 1
        return replace(turn, choices=turn.choices * texts)

    def between_tokens(self, connection: Connection, seconds: float) -> None:
        """Comments while nothing comes."""
        every = PING * self.options.pace
        while seconds > every:
            connection.wait(every)
            connection.piece(b": ping\r\n\r\n")
            seconds -= every
        connection.wait(seconds)

    def token(self, connection: Connection, turn: Turn, number: int) -> None:
        for index in range(turn.choices):
            self.choice(connection, turn, index, self.part(turn, number), None)

    def chunk(self, connection: Connection, turn: Turn, choices: list[Any], **extra: Any) -> None:
        """Of a text, and with 79126f9 of a chat too, the model stands in ``model_name``; a chat
        there has neither kind nor time."""
        old = "exl2" in self.options.flags
        if turn.chat and old:
            base = {"id": turn.base["id"], "model_name": turn.base["model"]}
            self.event(connection, {**base, "choices": choices, **extra})
            return
        if not turn.chat:
            base = {key: value for key, value in turn.base.items() if key != "model"}
            turn = replace(turn, base={**base, "model_name": turn.base["model"]})
        super().chunk(connection, turn, choices, **extra)

    def finish(self, connection: Connection, turn: Turn) -> None:
        """The finish reason in a chunk of its own; of the last choice beside the usage, if that
        was asked for."""
        empty: dict[str, Any] = {"delta": {}} if turn.chat else {"text": ""}
        for index in range(turn.choices):
            entry = {"index": index, **empty, "finish_reason": turn.stopped_by}
            if turn.include_usage and index == turn.choices - 1:
                self.chunk(connection, turn, [entry], usage=self.usage(turn, turn.count))
            else:
                self.chunk(connection, turn, [{**entry, "eos_reason": self.eos_reason(turn)}])

    def aborted(self, connection: Connection, turn: Turn) -> None:
        """SIGTERM cuts; an unload tells."""
        if self.stop.at is None:
            self.error_in_stream(connection)
            connection.end_stream()
        connection.close()

    def goes_on(self, connection: Connection, turn: Turn) -> bool:
        if "error-mid-stream" in self.options.faults:
            self.sick = "no kernel image"
            self.abort_event(connection, "Chat completion" if turn.chat else "Completion")
            connection.end_stream()
            return False
        return super().goes_on(connection, turn)

    def error_in_stream(self, connection: Connection) -> None:
        self.sick = "Chat completion aborted"
        self.abort_event(connection, "Chat completion")

    def abort_event(self, connection: Connection, what: str) -> None:
        message = f"{what} aborted. Please check the server console."
        self.event(connection, {"error": {"message": message, "trace": None}})
