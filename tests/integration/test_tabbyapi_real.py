"""The stand-in for TabbyAPI beside TabbyAPI itself: the same requests, and the same answers.

Only ExLlama and PyTorch are replaced (`tests/tabbyapi/fakes`). It runs where
ROUNDHOUSE_TABBYAPI_REPOSITORY names a repository with TabbyAPI's commits.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml

from llm_router.engines.tabby_load import UNSAID, lost_over_the_api
from llm_router.logs.masking import masked
from tests.hosts import tabbyapi_repository
from tests.tabbyapi import real

from .conftest import Router, free_port, wait_until

pytestmark = [
    pytest.mark.contracts,
    pytest.mark.skipif(
        real.repository() is None, reason=f"{real.VARIABLE} names no repository with TabbyAPI"
    ),
]

FLAVORS = ("exl3", "exl2")
USER, ADMIN = "k" * 32, "a" * 32
CHAT, TEXT, LOAD = "/v1/chat/completions", "/v1/completions", "/v1/model/load"
WITHIN = 10.0
"""Seconds; past them nothing comes any more: 79126f9 holds a lock for good."""
TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
AS_USER = {"authorization": f"Bearer {USER}"}
AS_ADMIN = {"authorization": f"Bearer {ADMIN}"}
USAGE: dict[str, Any] = {"stream_options": {"include_usage": True}}


class Ask(NamedTuple):
    """A request. ``body`` is JSON, or bytes as they are."""

    method: str
    path: str
    body: Any = None
    headers: dict[str, str] = AS_USER


def chat(prompt: str = "hi there", **more: Any) -> Ask:
    messages = [{"role": "user", "content": prompt}]
    return Ask("POST", CHAT, {"model": "a", "messages": messages, **more})


def text(prompt: Any = "hi there", **more: Any) -> Ask:
    return Ask("POST", TEXT, {"model": "a", "prompt": prompt, **more})


def load(name: str, **more: Any) -> Ask:
    return Ask("POST", LOAD, {"model_name": name, **more}, AS_ADMIN)


UNLOAD = Ask("POST", "/v1/model/unload", None, AS_ADMIN)
HEALTH = Ask("GET", "/health", None, {})
MODEL = Ask("GET", "/v1/model")
NO_MODEL = Ask("POST", CHAT, {"messages": [{"role": "user", "content": "x"}]})

TALKS: dict[str, tuple[str, list[Ask]]] = {
    "what it says of itself": (
        "",
        [
            *(MODEL, HEALTH, Ask("GET", "/v1/models"), Ask("GET", "/v1/models", None, AS_ADMIN)),
            *(Ask("GET", "/props"), Ask("GET", "/.well-known/serviceinfo", None, {})),
            *(Ask("GET", "/nope"), Ask("GET", CHAT), Ask("GET", "/metrics")),
            Ask("POST", "/v1/token/encode", {"text": "hi there"}),
            Ask("POST", "/v1/token/decode", {"tokens": [0, 1]}),
            Ask("POST", "/v1/embeddings", {"model": "a", "input": "x"}),
        ],
    ),
    "who may ask": (
        "",
        [
            *(Ask("GET", "/v1/model", None, {}), Ask("GET", "/v1/model", None, AS_ADMIN)),
            Ask("GET", "/v1/model", None, {"authorization": "Bearer x"}),
            Ask("GET", "/v1/model", None, {"x-admin-key": ADMIN}),
            Ask("GET", "/v1/model", None, {"x-api-key": USER}),
            Ask("POST", LOAD, {"model_name": "b"}, AS_USER),
            Ask("POST", LOAD, {"model_name": "b"}, {}),
        ],
    ),
    "whole answers": (
        "",
        [
            *(chat(), chat(**USAGE), chat(n=2), chat(max_tokens=2), NO_MODEL),
            Ask("POST", CHAT, {"model": "zzz", "messages": [{"role": "user", "content": "x"}]}),
            *(text(), text(**USAGE), text(["a", "b"]), text(max_tokens=2)),
        ],
    ),
    "streams": (
        "",
        [
            *(chat(stream=True), chat(stream=True, **USAGE), chat(stream=True, n=2)),
            *(chat(stream=True, max_tokens=2), text(stream=True, max_tokens=3)),
            *(text(stream=True, max_tokens=3, **USAGE), text(stream=True), HEALTH),
        ],
    ),
    "refusals": (
        "",
        [
            chat(tools=[{"type": "function", "function": {"name": "now"}}] * 2),
            *(Ask("POST", CHAT, {"model": "a"}), Ask("POST", TEXT, {"model": "a"})),
            *(chat("w " * 5000), chat("w " * 5000, stream=True), Ask("POST", CHAT, b"{")),
            HEALTH,
        ],
    ),
    "loads": (
        "",
        [
            *(load("none"), Ask("POST", LOAD, {}, AS_ADMIN), load("a"), load("b", **UNSAID)),
            *(MODEL, UNLOAD, UNLOAD, MODEL, Ask("GET", "/v1/models"), HEALTH),
            *(Ask("POST", "/v1/token/encode", {"text": "x"}), load("broken"), MODEL),
            *(load("a"), chat()),
        ],
    ),
    "asked without a model": ("", [UNLOAD, NO_MODEL, chat(), load("a"), chat()]),
    "a text that is asked without a model": ("", [UNLOAD, text(), text(stream=True)]),
    "failures": ("no-token", [chat("FAIL"), HEALTH, MODEL]),
    "failures in streams": (
        "error-mid-stream",
        [chat("FAIL", stream=True), HEALTH, text("FAIL", stream=True, max_tokens=4), MODEL],
    ),
}
"""The stand-in's fault, and what is asked in order; FAIL is the same for the real one."""


class Server:
    """One of the two, with the models a, b and one that cannot be loaded."""

    def __init__(
        self, directory: Path, flavor: str, *, real_one: bool, fault: str = "", **model: Any
    ) -> None:
        self.directory, self.flavor, self.real_one, self.fault = directory, flavor, real_one, fault
        self.port = free_port(and_next=1)
        self.models = directory / "models"
        self.config = directory / "config.yml"
        self.log = directory / "log"
        (directory / "lib/logs").mkdir(parents=True)
        tokens = {"api_key": USER, "admin_key": ADMIN}
        (directory / "lib/api_tokens.yml").write_text(yaml.safe_dump(tokens))
        for name in ("a", "b", "broken"):
            folder = self.models / name
            folder.mkdir(parents=True)
            details = {"quantization_config": {"quant_method": "exl3"}}
            (folder / "config.json").write_text(
                json.dumps({"max_position_embeddings": 4096, **details})
            )
            tokenizer = {"chat_template": TEMPLATE, "add_bos_token": False}
            (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
        (self.models / "broken/BROKEN").touch()
        self.section = {"model_dir": str(self.models), "model_name": "a", **model}
        settings = {"network": {"port": self.port}, "model": self.section}
        self.config.write_text(yaml.safe_dump({**settings, "developer": {"unsafe_launch": True}}))

    def argv(self) -> list[str]:
        if self.real_one:
            program = [str(real.python()), str(real.checkout(self.flavor) / "main.py")]
        else:
            tree = self.directory / "checkout"
            tree.mkdir()
            tabbyapi_repository.write_tree(tree, self.flavor)
            program = [sys.executable, str(tree / "main.py")]
        return [*program, "--config", str(self.config)]

    def environment(self) -> dict[str, str]:
        if self.real_one:
            return {"PYTHONPATH": str(real.FAKES)}
        return {"STANDIN_ARGS": f"--fault={self.fault}"}

    def own(self, model: str, **settings: Any) -> None:
        """The model's own file."""
        file = self.models / model / "tabby_config.yml"
        file.write_text(yaml.safe_dump({"model": settings}))

    @contextmanager
    def running(self) -> Iterator[Server]:
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                self.argv(),
                cwd=self.directory / "lib",
                env=os.environ | self.environment(),
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(lambda: self.answers(process), f"it answers; {self.log}", 60)
            yield self
        finally:
            process.kill()
            process.wait()

    def answers(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/health").is_success
        except httpx.HTTPError:
            return False

    def send(self, ask: Ask) -> httpx.Response:
        content: dict[str, Any] = {"content": ask.body} if isinstance(ask.body, bytes) else {}
        if ask.body is not None and not content:
            content = {"json": ask.body}
        url = f"http://127.0.0.1:{self.port}{ask.path}"
        headers = {"content-type": "application/json"} if "content" in content else {}
        headers |= ask.headers
        return httpx.request(ask.method, url, headers=headers, timeout=WITHIN, **content)

    def parameters(self) -> dict[str, Any]:
        """What it says of the settings of what is loaded."""
        said = self.send(MODEL).json()["parameters"]
        return {key: said[key] for key in ("max_seq_len", "cache_size", "cache_mode")}


Pairs = Callable[..., list[Server]]


def two(directory: Path, flavor: str, **options: Any) -> list[Server]:
    return [
        Server(directory / name, flavor, real_one=name == "real", **options)
        for name in ("real", "standin")
    ]


# Their values are the model's, the clock's or a matter of chance.
FREE = {"created", "content", "text", "description", "time", "prompt_tokens", "total_tokens"}
FREE |= {"prompt_template_content", "chat_template", "completion_time", "completion_tokens_per_sec"}
FREE |= {"prompt_time", "prompt_tokens_per_sec", "total_time"}


def shape(value: Any, key: str = "") -> Any:
    """The value without what is free."""
    if isinstance(value, dict):
        return {each: shape(inner, each) for each, inner in sorted(value.items())}
    if isinstance(value, list):
        found = [shape(each, key) for each in value]
        return sorted(found, key=lambda each: str(each["id"])) if key == "data" else found
    if key in FREE:
        return "…"
    if key == "id" and isinstance(value, str):
        return re.sub(r"-[0-9a-f]+$", "-…", value)
    if key == "detail" and isinstance(value, str):
        return re.sub(r"^(Chat completion|Completion) \w+ aborted", "… aborted", value)
    return value


def answer(server: Server, ask: Ask) -> list[Any]:
    """Status, type and shape of an answer; of a stream, each kind of event once in a row."""
    try:
        got = server.send(ask)
    except httpx.TimeoutException:
        return ["no answer"]
    kind = got.headers.get("content-type", "").replace(" ", "")
    if "event-stream" not in kind:
        try:
            return [got.status_code, kind, shape(got.json())]
        except ValueError:
            return [got.status_code, kind, got.text]
    ends = "\r\n\r\n" in got.text or not got.text
    choices: dict[Any, list[Any]] = {}
    for event in filter(None, got.text.replace("\r\n", "\n").split("\n\n")):
        data = event.removeprefix("data: ")
        seen = shape(json.loads(data)) if data.startswith("{") else data
        # choices take turns in an order of their own
        own = seen["choices"][0]["index"] if isinstance(seen, dict) and "choices" in seen else None
        row = choices.setdefault(own, [])
        if not row or row[-1] != seen:
            row.append(seen)
    return [got.status_code, kind, ends, choices]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pairs]:
    with ExitStack() as stack:
        found: dict[tuple[str, str], list[Server]] = {}

        def pair(flavor: str, fault: str, *, fresh: bool) -> list[Server]:
            if fresh or (flavor, fault) not in found:
                servers = two(tmp_path_factory.mktemp(flavor), flavor, fault=fault)
                found[flavor, fault] = [stack.enter_context(each.running()) for each in servers]
            return found[flavor, fault]

        yield pair


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("talk", TALKS)
def test_the_stand_in_answers_as_tabbyapi_does(pairs: Pairs, flavor: str, talk: str) -> None:
    fault, asks = TALKS[talk]
    # what was asked without a model may hang for good
    servers = pairs(flavor, fault, fresh="without a model" in talk)
    for ask in asks:
        its_own, standins = (answer(server, ask) for server in servers)
        assert standins == its_own, ask


SETTINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"cache_mode": "Q8", "max_seq_len": 2048}, {}),
    ({"cache_mode": "Q8", "max_seq_len": 2048, "use_as_default": ["cache_mode"]}, {}),
    ({"cache_mode": "Q8", "use_as_default": ["cache_mode"]}, {"max_seq_len": 1024}),
    ({"cache_mode": "Q8"}, {"cache_mode": "Q4", "max_seq_len": 1024}),
    ({"gpu_split": [1.0], "use_as_default": ["gpu_split"]}, {"cache_mode": "Q6"}),
]
"""config.yml's section, and the model's own file."""


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize(("section", "own"), SETTINGS)
def test_settings_of_a_start_and_of_a_load(
    tmp_path: Path, flavor: str, section: dict[str, Any], own: dict[str, Any]
) -> None:
    """The router's word on whether a load over the API changes settings holds, too."""
    said = []
    for server in two(tmp_path, flavor, **section):
        server.own("a", **own)
        with server.running():
            started = server.parameters()
            server.send(UNLOAD)
            assert server.send(load("a", **UNSAID)).status_code == 200
            said.append((started, server.parameters()))
    assert said[0] == said[1]
    started, loaded = said[0]
    if flavor == "exl3":
        mine = [f"model.{key}" for key in own]
        assert (started == loaded) == (lost_over_the_api({"model": section}, mine) == [])
        assert own.items() <= started.items()
    elif not own:  # with ExLlamaV2 the router writes no such file
        assert (started == loaded) == (lost_over_the_api({"model": section}, ()) == [])


def test_settings_in_the_config_of_exllamav2_hold(tmp_path: Path) -> None:
    """Where the router writes them; in the model's own file they do not."""
    server = Server(tmp_path / "own", "exl2", real_one=True)
    server.own("a", cache_mode="Q4")
    with server.running():
        assert server.parameters()["cache_mode"] == "FP16"
    server = Server(tmp_path / "config", "exl2", real_one=True, cache_mode="Q4")
    with server.running():
        assert server.parameters()["cache_mode"] == "Q4"


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("width", ["", "60"])
def test_no_key_is_left_in_the_log(
    tmp_path: Path, flavor: str, width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TABBY_LOG_CONSOLE_WIDTH", width)
    logs = []
    for server in two(tmp_path, flavor):
        # 79126f9 has one user key, and ends where there is a list
        users = [USER, "short", f"{USER}2"] if flavor == "exl3" else USER
        keys = {"api_key": users, "admin_key": ADMIN}
        (server.directory / "lib/api_tokens.yml").write_text(yaml.safe_dump(keys))
        with server.running():
            logs.append(server.log.read_text().splitlines())
    for log in logs:
        assert any(ADMIN in line for line in log)
        shown = "\n".join(masked(log))
        assert not re.search(rf"{USER}|{ADMIN}|short", shown), shown


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Router]:
    made = Router(tmp_path)
    yield made
    made.end()


def entry(router: Router, server: Server, name: str, **more: Any) -> dict[str, Any]:
    """The real one, as a child of the router."""
    key = router.dir / "key"
    key.write_text(ADMIN)
    program = router.dir / f"{name}.sh"
    exports = "".join(f"export {key}={value}\n" for key, value in server.environment().items())
    program.write_text(
        f"cd {server.directory}/lib\n{exports}exec {' '.join(server.argv())}\n", encoding="utf-8"
    )
    command = ["/bin/sh", str(program)]
    usual = {"backend": "tabby", "port": server.port, "command": command, "api_key_file": str(key)}
    return {**usual, "model_name": "a", **more}


@pytest.mark.parametrize("flavor", FLAVORS)
def test_the_router_in_front_of_tabbyapi(router: Router, flavor: str) -> None:
    server = Server(router.dir / "tabby", flavor, real_one=True)
    router.write({"mine": entry(router, server, "mine")})
    router.start()

    def ask(path: str, **body: Any) -> httpx.Response:
        asked = {"model": "mine", **body}
        return httpx.post(router.url + path, json=asked, timeout=60)

    def messages(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": text}]

    got = ask(
        CHAT, messages=messages("hi"), tools=[{"type": "function", "function": {"name": "f"}}]
    )
    assert got.status_code == 200, got.text
    for path, body in ((CHAT, {"messages": messages("hi")}), (TEXT, {"prompt": "hi"})):
        got = ask(path, stream=True, **body)
        chunks = [json.loads(line[6:]) for line in got.text.splitlines() if line[:7] == "data: {"]
        assert got.text.rstrip().endswith("data: [DONE]")
        kind = "chat.completion.chunk" if path == CHAT else "text_completion"
        assert {chunk.get("object") for chunk in chunks} == {kind}
        assert all(chunk.get("model") and type(chunk.get("created")) is int for chunk in chunks)
    got = ask(CHAT, messages=messages("FAIL"), stream=True)
    assert got.text.count('"error"') == 1
    got = ask(CHAT, messages=messages("w " * 5000))
    assert (got.status_code, got.json()["error"]["code"]) == (400, "context_length_exceeded")
    # another model, behind the router's back: nobody gets its answer
    assert server.send(load("b")).status_code == 200
    got = ask(CHAT, messages=messages("hi"))
    assert got.status_code == 200, got.text
    assert server.send(MODEL).json()["id"] == "a"
