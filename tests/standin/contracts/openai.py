"""A plain OpenAI API, and what all engines have in common: life, faults, generation.

Its port is open at once and answers 503 until the model is loaded. Each engine changes what its
contract has otherwise.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from journal import Journal
from options import Options
from wire import Connection, Gone, Request, Stop, Stopping

UTF8 = ("Grüße ", "日本語 ", "👩‍👩‍👧 ", "e\u0301 ", "🇩🇪 ", "\u2028 ", "plain ")

Routes = dict[tuple[str, str], str]
"""By method and path: the name of the method that answers."""


@dataclass
class Turn:
    """One generation. ``reasoning`` of its ``count`` tokens are reasoning."""

    body: dict[str, Any]
    chat: bool
    count: int
    reasoning: int
    stopped_by: str
    base: dict[str, Any]
    include_usage: bool
    continuous_usage: bool
    choices: int
    path: str = ""

    @property
    def kind(self) -> str:
        """The ``object`` of a chunk."""
        return "chat.completion.chunk" if self.chat else "text_completion"


class OpenAi:
    """The engine. `run` does not return."""

    load_failure = 3
    """The exit status when a load fails."""
    opens_at = 0.0
    """How much of the load is done when the port opens; 1: with the last of it."""
    streams_heed_stop = False
    """Whether SIGTERM ends a stream before its time."""
    separator = "\n\n"
    owner = "standin"
    id_prefix = "standin-"
    reasoning_key = "reasoning_content"
    heeds_n = False
    """Whether a request for ``n`` choices has so many."""
    open_paths = r"/health"
    """What is answered without the key: a regular expression over the whole path."""
    usage_unasked = False
    """Whether a stream carries usage without being asked."""
    device_calls: frozenset[str] = frozenset()
    """Methods that give up the device or take it back."""
    routes: ClassVar[Routes] = {
        ("GET", "/v1/models"): "list_models",
        ("POST", "/v1/chat/completions"): "chat",
        ("POST", "/v1/completions"): "complete",
    }

    def __init__(self, options: Options) -> None:
        self.options = options
        self.journal = Journal(options)
        self.stop = Stop()
        self.started = time.monotonic()
        self.port = options.port
        self.listener = socket.socket()
        self.ready = False
        self.in_flight = 0
        self.epoch = 0
        """Grows when what runs is aborted."""
        self.last_busy = time.monotonic()
        self.changed = threading.Condition()
        self.unanswered: set[socket.socket] = set()
        """Connections on which the answer to a generation has not begun."""

    # ---- its life

    def run(self) -> NoReturn:
        """Load, serve until SIGTERM, end."""
        signal.signal(signal.SIGUSR1, lambda *_: self.stall())
        self.journal.event("start")
        self.holds_device(True)
        if "ignore-term" in self.options.faults:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        else:
            self.before_load()
        if self.options.shards:
            threading.Thread(target=self.draw_bars, daemon=True).start()
        for part, step in self.phases():
            if part == 1.0 and self.options.faults & {"never-ready", "stuck-load"}:
                break
            self.wait_for_load(part)
            if part == 1.0 and "exit-while-loading" in self.options.faults:
                print("CUDA out of memory, says the stand-in", flush=True)
                self.exit(self.load_failure)
            step()
        if "die-idle" in self.options.faults:
            self.die_when_idle()
        self.stop.wait(None)
        self.terminate()

    def phases(self) -> list[tuple[float, Callable[[], None]]]:
        """What happens when so much of the load is done, in order."""
        return [(0.0, self.heed_sigterm), (self.opens_at, self.open_port), (1.0, self.be_ready)]

    def before_load(self) -> None:
        """What comes first of all."""
        self.heed_sigterm()

    def wait_for_load(self, part: float) -> None:
        due = self.started + self.options.load * part
        if self.stop.wait(max(0.0, due - time.monotonic())):
            self.terminate()
        if part == 1.0 and self.options.compile:
            self.compile()

    def compile(self) -> None:
        """A real process of the name cc1plus runs for so long. What is compiled is kept."""
        seconds, self.options.compile = self.options.compile, 0.0
        kept = self.options.kernels and Path(self.options.kernels) / f"{self.options.name}.so"
        if kept and kept.exists():
            return
        self.journal.note("compiling")
        with tempfile.TemporaryDirectory() as directory:
            compiler = Path(directory) / "cc1plus"
            shutil.copy(shutil.which("sleep") or "/bin/sleep", compiler)
            with subprocess.Popen([compiler, str(seconds)]) as process:
                while process.poll() is None:
                    if self.stop.wait(0.05):
                        process.kill()
                        self.terminate()
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.touch()

    def draw_bars(self) -> None:
        """The weights' progress, in the form and with the prefix that vLLM's log has."""
        total = self.options.shards
        last = total // 2 if "stuck-load" in self.options.faults else total
        for done in range(last + 1):
            due = self.started + self.options.load * 0.9 * done / total
            time.sleep(max(0.0, due - time.monotonic()))
            bar = f"{100 * done // total:3d}% Completed | {done}/{total} [00:01<00:01,  4.66s/it]"
            prefix = f"(EngineCore_DP0 pid={os.getpid()}) \r"
            print(f"{prefix}Loading safetensors checkpoint shards: {bar}\n", flush=True)

    def heed_sigterm(self) -> None:
        if "ignore-term" not in self.options.faults:
            signal.signal(signal.SIGTERM, lambda *_: self.stop.set())

    def open_port(self) -> None:
        self.listener = self.bind()
        self.listen()

    def bind(self) -> socket.socket:
        """The port, bound and not yet listening: a connection is refused."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", self.port))
        except OSError as error:
            print(f"port {self.port}: {error.strerror}", flush=True)
            self.exit(1)
        return listener

    def listen(self) -> None:
        self.journal.note("listening", port=self.port)
        self.listener.listen(1024)
        threading.Thread(target=self.accept, daemon=True).start()

    def close_port(self) -> None:
        """No new connections; those that are there go on."""
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self.listener.close()

    def be_ready(self) -> None:
        self.ready = True
        self.last_busy = time.monotonic()
        self.journal.note("ready")

    def die_when_idle(self) -> None:
        while not self.stop.wait(0.01):
            if not self.in_flight and time.monotonic() - self.last_busy > self.options.die_after:
                print("Segmentation fault, says the stand-in", flush=True)
                self.exit(9)

    def terminate(self) -> NoReturn:
        """SIGTERM has come."""
        self.exit(0)

    def exit(self, code: int) -> NoReturn:
        """End now. Waiting for threads would wait for open connections."""
        self.holds_device(False)
        if code == 0:
            self.journal.event("stop")
        else:
            self.journal.note("exit", code=code)
        sys.stdout.flush()
        os._exit(code)

    def stall(self) -> None:
        """SIGUSR1: break connections without an answer, and do nothing more until SIGCONT."""
        for client in [*self.unanswered]:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        os.kill(os.getpid(), signal.SIGSTOP)

    def pause(self, seconds: float) -> None:
        """A wait of the engine's own, at the stand-in's pace."""
        time.sleep(seconds * self.options.pace)

    def drained(self, timeout: float | None) -> bool:
        """Whether no generation runs any more, within so many seconds."""
        with self.changed:
            return self.changed.wait_for(lambda: not self.in_flight, timeout)

    # ---- HTTP

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        """One connection's requests, one after the other."""
        connection = Connection(client, self.stop, self.options.split)
        with suppress(Gone):
            while (request := connection.request()) is not None:
                self.journal.note(
                    "request",
                    method=request.method,
                    path=request.path,
                    query=request.query,
                    headers=request.headers,
                    body=request.body.decode("utf-8", "replace"),
                )
                self.respond(connection, request)
        connection.close()

    def respond(self, connection: Connection, request: Request) -> None:
        if not self.let_in(request):
            self.error(connection, 401, "Unauthorized", "authentication_error")
            return
        if self.while_loading(connection, request):
            return
        handler = self.route(request.method, request.path)
        if handler is None:
            self.not_found(connection, request)
            return
        try:
            if handler in self.device_calls and random.random() < self.options.flaky:
                self.go_wrong(connection)
            getattr(self, handler)(connection, request)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # a body that is not what it should be
            self.error(connection, 400, f"{error!r}", "invalid_request_error")

    def go_wrong(self, connection: Connection) -> None:
        """Refuse, end or never answer."""
        how = random.choice(["refuse", "end", "hang"])
        self.journal.note("flaky", how=how)
        if how == "end":
            print("CUDA error, says the stand-in", flush=True)
            self.exit(1)
        if how == "hang":
            connection.wait(None)
        raise ValueError("CUDA error")

    def holds_device(self, held: bool) -> None:
        """Its memory is the GPU's now, or is not."""
        self.journal.note("device", held=held)

    def let_in(self, request: Request) -> bool:
        """Whether it showed the key, or needs none."""
        key = self.options.api_key
        if key is None or re.fullmatch(self.open_paths, request.path):
            return True
        return request.headers.get("authorization") == f"Bearer {key}"

    def route(self, method: str, path: str) -> str | None:
        return self.routes.get((method, path))

    def while_loading(self, connection: Connection, request: Request) -> bool:
        """Answer what cannot be served yet; whether that was so."""
        if self.ready:
            return False
        self.error(connection, 503, "Loading model", "unavailable_error")
        return True

    def not_found(self, connection: Connection, request: Request) -> None:
        self.error(connection, 404, f"no {request.path}", "not_found_error")

    def error(
        self, connection: Connection, status: int, message: str, kind: str = "server_error"
    ) -> None:
        """An error in the engine's own shape."""
        connection.answer(status, self.error_body(status, message, kind))

    def error_body(self, status: int, message: str, kind: str) -> Any:
        return {"error": {"message": message, "type": kind, "code": status}}

    def list_models(self, connection: Connection, request: Request) -> None:
        entry = {"object": "model", "created": 1, "owned_by": self.owner, **self.model_entry()}
        connection.answer(
            200, {"object": "list", "data": [{"id": self.options.answers_as, **entry}]}
        )

    def model_entry(self) -> dict[str, Any]:
        """What the engine's list of models says more."""
        return {}

    # ---- generation

    def chat(self, connection: Connection, request: Request) -> None:
        self.generate(connection, request, chat=True)

    def complete(self, connection: Connection, request: Request) -> None:
        self.generate(connection, request, chat=False)

    def generate(self, connection: Connection, request: Request, *, chat: bool) -> None:
        try:
            body = request.json()
        except ValueError as error:
            self.bad_json(connection, error)
            return
        if chat:
            self.journal.chat(body)
        if self.refuses(connection, body, chat=chat):
            return
        turn = self.turn(body, chat=chat)
        turn.path = request.path
        with self.changed:
            self.in_flight += 1
        ended = "answered"
        try:
            self.answer_turn(connection, turn)
        except Gone:
            ended = "aborted"
            raise
        finally:
            connection.heeds_stop = False
            with self.changed:
                self.in_flight -= 1
                self.last_busy = time.monotonic()
                self.changed.notify_all()
            self.journal.note(ended, path=request.path)

    def bad_json(self, connection: Connection, error: ValueError) -> None:
        self.error(connection, 400, f"invalid JSON: {error}", "invalid_request_error")

    def refuses(self, connection: Connection, body: Any, *, chat: bool) -> bool:
        """Answer a request that the engine does not serve; whether that was so."""
        return False

    def turn(self, body: dict[str, Any], *, chat: bool) -> Turn:
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        count = 0 if "empty" in self.options.faults else limit or self.options.tokens
        options = body.get("stream_options") or {}
        return Turn(
            body,
            chat,
            count,
            min(self.options.reasoning, count) if chat else 0,
            "length" if limit else "stop",
            {"id": f"{self.id_prefix}1", "created": 1, "model": self.says_model(body)},
            bool(options.get("include_usage")),
            bool(options.get("include_usage") and options.get("continuous_usage_stats")),
            int(body.get("n") or 1) if self.heeds_n else 1,
        )

    def says_model(self, body: dict[str, Any]) -> str:
        """The ``model`` of an answer."""
        return self.options.answers_as

    def answer_turn(self, connection: Connection, turn: Turn) -> None:
        if "no-token" in self.options.faults:
            self.generation_failed(connection)
            return
        if "mute" in self.options.faults:
            connection.wait(None)
        if turn.body.get("stream"):
            self.stream(connection, turn)
            return
        self.unanswered.add(connection.socket)
        try:
            connection.wait(self.options.first + self.options.interval * max(0, turn.count - 1))
        finally:
            self.unanswered.discard(connection.socket)
        connection.answer(200, self.whole(turn))

    def generation_failed(self, connection: Connection) -> None:
        self.error(connection, 500, "no kernel image")

    def word(self, index: int) -> str:
        if self.options.text == "utf8":
            return UTF8[index % len(UTF8)]
        return f"w{index} "

    def words(self, first: int, last: int) -> str:
        return "".join(self.word(index) for index in range(first, last))

    def usage(self, turn: Turn, tokens: int) -> dict[str, Any]:
        """The count of ``tokens`` for each choice."""
        tokens *= turn.choices
        return {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 3 + tokens}

    def whole(self, turn: Turn) -> dict[str, Any]:
        """An answer that is not streamed."""
        choices = []
        for index in range(turn.choices):
            text = self.words(turn.reasoning, turn.count)
            choice: dict[str, Any] = {"index": index, "finish_reason": turn.stopped_by}
            message: dict[str, Any] = {"role": "assistant", "content": text}
            if turn.reasoning:
                message[self.reasoning_key] = self.words(0, turn.reasoning)
            choices.append(choice | ({"message": message} if turn.chat else {"text": text}))
        kind = "chat.completion" if turn.chat else "text_completion"
        return {
            **turn.base,
            "object": kind,
            "choices": choices,
            "usage": self.usage(turn, turn.count),
        }

    def stream(self, connection: Connection, turn: Turn) -> None:
        connection.wait(self.options.first)
        connection.begin_stream()
        connection.heeds_stop = self.streams_heed_stop
        epoch = self.epoch
        try:
            self.opening(connection, turn)
            for number in range(turn.count):
                if number:
                    self.between_tokens(connection, self.options.interval)
                if self.epoch != epoch:
                    raise Stopping
                if number == self.options.after and not self.goes_on(connection, turn):
                    return
                self.token(connection, turn, number)
            self.finish(connection, turn)
        except Stopping:
            connection.heeds_stop = False
            self.aborted(connection, turn)
            return
        if "no-done" not in self.options.faults:
            self.done(connection)
        connection.end_stream()

    def goes_on(self, connection: Connection, turn: Turn) -> bool:
        """The faults in mid-stream; whether the stream goes on."""
        faults = self.options.faults
        if "die-mid-stream" in faults:
            self.exit(9)
        if "hang-mid-stream" in faults:
            connection.wait(None)
        if "half-event" in faults:
            connection.piece(b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"ha')
        if "cut-mid-stream" in faults or "half-event" in faults:
            connection.close()
            raise Gone
        if "error-mid-stream" in faults:
            self.error_in_stream(connection)
            connection.end_stream()
            return False
        return True

    def error_in_stream(self, connection: Connection) -> None:
        self.event(connection, {"error": {"message": "CUDA error", "type": "server_error"}})
        self.done(connection)

    def between_tokens(self, connection: Connection, seconds: float) -> None:
        connection.wait(seconds)

    def opening(self, connection: Connection, turn: Turn) -> None:
        """What comes before the first token."""

    def token(self, connection: Connection, turn: Turn, number: int) -> None:
        for index in range(turn.choices):
            part = self.part(turn, number)
            self.choice(connection, turn, index, part, None, tokens=number + 1)

    def part(self, turn: Turn, number: int) -> dict[str, Any]:
        """The token as its choice carries it."""
        if not turn.chat:
            return {"text": self.word(number)}
        key = self.reasoning_key if number < turn.reasoning else "content"
        return {"delta": {key: self.word(number)}}

    def finish(self, connection: Connection, turn: Turn) -> None:
        """What comes after the last token and before ``[DONE]``."""
        self.finish_choices(connection, turn)
        self.usage_chunk(connection, turn, turn.count)

    def finish_choices(self, connection: Connection, turn: Turn, reason: str = "") -> None:
        for index in range(turn.choices):
            empty: dict[str, Any] = {"delta": {}} if turn.chat else {"text": ""}
            self.choice(connection, turn, index, empty, reason or turn.stopped_by)

    def usage_chunk(self, connection: Connection, turn: Turn, tokens: int) -> None:
        if turn.include_usage or self.usage_unasked:
            self.chunk(connection, turn, [], usage=self.usage(turn, tokens))

    def aborted(self, connection: Connection, turn: Turn) -> None:
        """The engine ends a stream before its time: SIGTERM, or what runs was killed."""
        connection.close()

    def choice(
        self,
        connection: Connection,
        turn: Turn,
        index: int,
        part: dict[str, Any],
        finish: str | None,
        *,
        tokens: int | None = None,
        **extra: Any,
    ) -> None:
        """A chunk with one choice."""
        if turn.continuous_usage and tokens is not None:
            extra["usage"] = self.usage(turn, tokens)
        entry = {"index": index, **part, "finish_reason": finish}
        self.chunk(connection, turn, [entry], **extra)

    def chunk(self, connection: Connection, turn: Turn, choices: list[Any], **extra: Any) -> None:
        self.event(connection, {**turn.base, "object": turn.kind, "choices": choices, **extra})

    def event(self, connection: Connection, body: Any) -> None:
        data = json.dumps(body, ensure_ascii=False)
        connection.piece(f"data: {data}{self.separator}".encode("utf-8", "replace"))

    def done(self, connection: Connection) -> None:
        connection.piece(f"data: [DONE]{self.separator}".encode())
