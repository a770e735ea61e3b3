"""The stand-in engine itself: that it has the habits which the router's tests count on."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import STANDIN, free_port, wait_until

pytestmark = pytest.mark.contracts

CHAT = "/v1/chat/completions"
REAL = ("sglang", "vllm", "tabby", "llamacpp")


class Standin:
    """One stand-in process."""

    def __init__(self, directory: Path, engine: str, **options: Any) -> None:
        self.port = options.pop("port", None) or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.journal = directory / f"journal-{self.port}.jsonl"
        command = [sys.executable, "-S", "-E", str(STANDIN), "--engine", engine, "--name", "a"]
        command += ["--port", str(self.port), "--journal", str(self.journal)]
        for key, value in options.items():
            command += [f"--{key.replace('_', '-')}", str(value)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def noted(self, what: str) -> list[dict[str, Any]]:
        if not self.journal.exists():
            return []
        lines = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return [line for line in lines if line["what"] == what]

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=10)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=10)

    def probe(self, path: str) -> int | str:
        """The status, or ``refused``."""
        try:
            return self.get(path).status_code
        except httpx.ConnectError:
            return "refused"

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)


Start = Callable[..., Standin]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a stand-in, and waits until it is ready unless told otherwise."""
    made: list[Standin] = []

    def one(engine: str, *, ready: bool = True, **options: Any) -> Standin:
        made.append(Standin(tmp_path, engine, **options))
        if ready:
            wait_until(lambda: bool(made[-1].noted("listening")), "it listens")
            wait_until(lambda: bool(made[-1].noted("ready")), "it is ready")
        return made[-1]

    yield one
    for standin in made:
        standin.process.kill()
        standin.process.communicate()


def data_of(response: httpx.Response) -> list[Any]:
    """An event stream's data; ``[DONE]`` as text."""
    events = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    return [event if event == "[DONE]" else json.loads(event) for event in events]


def seen_while_loading(standin: Standin, path: str) -> list[int | str]:
    """Every different answer of a probe until it is 200."""
    seen: list[int | str] = []
    until = time.monotonic() + 5
    while 200 not in seen and time.monotonic() < until:
        status = standin.probe(path)
        if status not in seen:
            seen.append(status)
        time.sleep(0.005)
    return seen


@pytest.mark.parametrize(
    ("engine", "path", "seen"),
    [
        ("vllm", "/health", ["refused", 200]),
        ("vllm", "/v1/models", ["refused", 200]),
        ("sglang", "/health", ["refused", 503, 200]),
        ("sglang", "/v1/models", ["refused", 200]),
        ("sglang", "/ready", ["refused", 503, 200]),
        ("tabby", "/v1/model", ["refused", 200]),
        ("llamacpp", "/health", [503, 200]),
        ("llamacpp", "/v1/models", [503, 200]),
    ],
)
def test_what_is_seen_while_it_loads(
    start: Start, engine: str, path: str, seen: list[int | str]
) -> None:
    standin = start(engine, load=0.6, ready=False)
    if engine == "llamacpp":
        wait_until(lambda: bool(standin.noted("listening")), "it listens")
    assert seen_while_loading(standin, path) == seen


def test_llamacpp_says_that_it_loads(start: Start) -> None:
    standin = start("llamacpp", load=5, ready=False)
    wait_until(lambda: bool(standin.noted("listening")), "it listens")
    error = {"message": "Loading model", "type": "unavailable_error", "code": 503}
    assert standin.get("/v1/models").json() == {"error": error}


def test_the_healths_of_the_engines(start: Start) -> None:
    assert start("vllm").get("/health").content == b""
    assert start("llamacpp").get("/health").json() == {"status": "ok"}
    assert start("tabby", flags="empty").get("/health").json()["status"] == "healthy"
    began = time.monotonic()
    assert start("sglang", pace=0.2).get("/health").status_code == 200
    assert time.monotonic() - began >= 0.2


def test_tabby_without_a_model(start: Start) -> None:
    tabby = start("tabby", flags="empty", models="A,B")
    assert tabby.get("/health").status_code == 200
    assert tabby.get("/v1/model").status_code == 503
    assert tabby.post(CHAT, model="A", messages=[]).status_code == 500
    assert tabby.post(CHAT, messages=[]).json() == {"detail": "No models are currently loaded."}
    assert tabby.post("/v1/model/load", model_name="C").status_code == 400
    progress = data_of(tabby.post("/v1/model/load", model_name="B"))
    assert [event["status"] for event in progress] == ["processing"] * 5 + ["finished"]
    assert tabby.get("/v1/model").json()["id"] == "B"
    assert tabby.post("/v1/model/unload").json() is None
    assert tabby.get("/v1/model").status_code == 503


def test_tabby_takes_the_next_port_without_a_word_to_its_client(start: Start) -> None:
    port = free_port(and_next=1)
    with socket.create_server(("127.0.0.1", port)):
        tabby = start("tabby", port=port)
        assert tabby.noted("listening")[0]["port"] == port + 1
    tabby.terminate()
    assert tabby.process.stdout is not None
    assert (
        f"Port {port} is currently in use. Switching to {port + 1}" in tabby.process.stdout.read()
    )


def test_tabby_stays_sick_after_a_failed_generation(start: Start) -> None:
    tabby = start("tabby", fault="no-token")
    assert tabby.get("/health").status_code == 200
    assert "aborted" in tabby.post(CHAT, model="a", messages=[]).json()["detail"]
    assert tabby.get("/health").status_code == 503


def test_tabby_tells_of_a_failure_in_its_stream_and_ends_it_without_done(start: Start) -> None:
    tabby = start("tabby", fault="no-token")
    assert [*data_of(tabby.post(CHAT, messages=[], stream=True))[0]] == ["error"]
    countless = data_of(tabby.post("/v1/completions", prompt="x", stream=True))
    assert countless[0]["error"]["message"].startswith("Completion aborted")


def test_tabby_refuses_a_tool_without_description_and_parameters(start: Start) -> None:
    answer = start("tabby").post(CHAT, messages=[], tools=[{"function": {"name": "f"}}])
    assert answer.status_code == 422
    assert [one["loc"][-1] for one in answer.json()["detail"]] == ["description", "parameters"]


def test_tabby_names_the_model_of_a_texts_chunks_otherwise(start: Start) -> None:
    chunk = data_of(start("tabby").post("/v1/completions", prompt="x", max_tokens=2, stream=True))[
        0
    ]
    assert (chunk["model_name"], "model" in chunk) == ("a", False)


def test_an_old_tabby_hangs_once_it_was_asked_without_a_model(start: Start) -> None:
    tabby = start("tabby", flags="empty,exl2", models="A")
    assert tabby.post(CHAT, model="A", messages=[]).status_code == 500
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(tabby.url + CHAT, json={"model": "A", "messages": []}, timeout=0.3)


@pytest.mark.parametrize(
    ("engine", "status", "says"),
    [("sglang", 200, "x"), ("tabby", 200, "a"), ("llamacpp", 200, "a")],
)
def test_three_engines_answer_any_name(start: Start, engine: str, status: int, says: str) -> None:
    answer = start(engine).post(CHAT, model="x", messages=[])
    assert answer.status_code == status
    assert answer.json()["model"] == says


def test_vllm_refuses_what_it_does_not_serve(start: Start) -> None:
    vllm = start("vllm", context=100)
    unknown = vllm.post(CHAT, model="x", messages=[])
    assert unknown.status_code == 404
    assert unknown.json()["error"]["message"].endswith("does not exist. Valid aliases: a.")
    refused: list[dict[str, Any]] = [
        {"tools": [{}]},
        {"max_tokens": 101},
        {"stream_options": {"include_usage": True}},
    ]
    for extra in refused:
        assert vllm.post(CHAT, model="a", messages=[], **extra).status_code == 400
    assert vllm.post(CHAT, messages=[], tools=[{}], tool_choice="none").status_code == 200


@pytest.mark.parametrize(
    ("engine", "role", "usage_choices", "whole_usage"),
    [
        ("openai", False, 0, True),
        ("sglang", True, 0, True),
        ("vllm", True, 0, True),
        ("tabby", False, 1, False),
        ("llamacpp", True, 0, True),
    ],
)
def test_streams_and_usage(
    start: Start, engine: str, role: bool, usage_choices: int, whole_usage: bool
) -> None:
    standin = start(engine)
    plain = data_of(standin.post(CHAT, model="a", messages=[], stream=True))
    assert bool(plain[0]["choices"][0]["delta"].get("role")) is role
    assert not any(chunk.get("usage") for chunk in plain[:-1])
    assert plain[-1] == "[DONE]"
    options = {"include_usage": True}
    asked = data_of(standin.post(CHAT, model="a", messages=[], stream=True, stream_options=options))
    assert asked[-2]["usage"]["completion_tokens"] == 5
    assert len(asked[-2]["choices"]) == usage_choices
    finished = [c for chunk in asked[:-1] for c in chunk["choices"] if c["finish_reason"]]
    assert len(finished) == 1
    whole = standin.post(CHAT, model="a", messages=[]).json()
    assert bool(whole["usage"]) is whole_usage
    streamed = "".join(c["delta"].get("content") or "" for d in plain[:-1] for c in d["choices"])
    assert streamed == whole["choices"][0]["message"]["content"] == "w0 w1 w2 w3 w4 "


def test_llamacpp_completions_have_usage_beside_the_last_choice(start: Start) -> None:
    events = data_of(start("llamacpp").post("/v1/completions", prompt="x", stream=True))
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-2]["usage"]["completion_tokens"] == 5
    assert "timings" in events[-2]


@pytest.mark.parametrize(
    ("engine", "key"),
    [
        ("vllm", "reasoning"),
        ("sglang", "reasoning_content"),
        ("tabby", "reasoning_content"),
        ("llamacpp", "reasoning_content"),
    ],
)
def test_the_name_of_reasoning(start: Start, engine: str, key: str) -> None:
    standin = start(engine, reasoning=2)
    message = standin.post(CHAT, messages=[]).json()["choices"][0]["message"]
    assert (message[key], message["content"]) == ("w0 w1 ", "w2 w3 w4 ")
    events = data_of(standin.post(CHAT, messages=[], stream=True))[:-1]
    assert "".join(event["choices"][0]["delta"].get(key) or "" for event in events) == "w0 w1 "


@pytest.mark.parametrize(
    ("engine", "calls"),
    [
        ("sglang", {"/tokenize": 200, "/v1/embeddings": 400, "/rerank": 404, "/metrics": 404}),
        ("vllm", {"/tokenize": 200, "/v1/embeddings": 404, "/rerank": 404, "/metrics": 200}),
        ("tabby", {"/tokenize": 404, "/v1/embeddings": 503, "/rerank": 404, "/metrics": 404}),
        ("llamacpp", {"/tokenize": 200, "/v1/embeddings": 501, "/rerank": 501, "/metrics": 501}),
    ],
)
def test_what_each_engine_has_and_has_not(start: Start, engine: str, calls: dict[str, int]) -> None:
    standin = start(engine)
    found = {
        path: standin.get(path).status_code
        if path == "/metrics"
        else standin.post(path, prompt="x y", content="x y", documents=[]).status_code
        for path in calls
    }
    assert found == calls
    assert standin.get("/nothing").status_code == 404


def test_the_shapes_of_tokenize(start: Start) -> None:
    assert start("llamacpp").post("/tokenize", content="x y").json() == {"tokens": [0, 1]}
    assert start("vllm").post("/tokenize", prompt="x y").json()["count"] == 2
    assert start("sglang").post("/tokenize", prompt="x y").json()["tokens"] == [0, 1]
    tabby = start("tabby").post("/v1/token/encode", text="x y").json()
    assert tabby == {"tokens": [0, 1], "length": 2}


def test_vllm_sleeps_and_looks_healthy(start: Start) -> None:
    assert start("vllm").post("/sleep").status_code == 404
    vllm = start("vllm", flags="dev")
    assert vllm.post("/sleep?level=1").status_code == 200
    assert vllm.get("/is_sleeping").json() == {"is_sleeping": True}
    assert vllm.get("/health").status_code == 200
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(vllm.url + CHAT, json={"messages": []}, timeout=0.2)
    vllm.post("/wake_up")
    assert vllm.post(CHAT, messages=[]).status_code == 200


def test_sglang_dies_of_a_resume_without_a_release(start: Start) -> None:
    sglang = start("sglang", flags="saver")
    assert sglang.post("/release_memory_occupation").status_code == 200
    assert sglang.post("/resume_memory_occupation").status_code == 200
    with pytest.raises(httpx.TransportError):
        sglang.post("/resume_memory_occupation")
    assert sglang.process.wait(5) == 1


# SIGTERM


@pytest.mark.parametrize("engine", ["openai", *REAL])
def test_an_idle_engine_ends_in_order(start: Start, engine: str) -> None:
    assert start(engine).terminate() == 0


@pytest.mark.parametrize(
    ("engine", "code"), [("tabby", 0), ("sglang", -signal.SIGTERM), ("llamacpp", 0)]
)
def test_sigterm_while_it_loads(start: Start, engine: str, code: int) -> None:
    standin = start(engine, load=30, ready=False)
    wait_until(lambda: bool(standin.noted("start")), "it starts")
    time.sleep(0.05)
    assert standin.terminate() == code


def test_vllm_ignores_sigterm_while_it_loads(start: Start) -> None:
    early = start("vllm", load=30, ready=False)
    wait_until(lambda: bool(early.noted("start")), "it starts")
    assert early.terminate() == -signal.SIGTERM
    vllm = start("vllm", load=0.8, ready=False)
    time.sleep(0.5)
    vllm.process.send_signal(signal.SIGTERM)
    wait_until(lambda: vllm.probe("/health") == 200, "it serves all the same")
    assert vllm.terminate() == 0


def stream_and_terminate(standin: Standin) -> httpx.Response:
    """A stream in whose middle SIGTERM comes."""
    with ThreadPoolExecutor() as pool:
        stream = pool.submit(standin.post, CHAT, messages=[], stream=True)
        wait_until(lambda: bool(standin.noted("request")), "it streams")
        time.sleep(0.15)
        assert standin.terminate() == 0
        return stream.result()


def test_vllm_aborts_its_streams(start: Start) -> None:
    events = data_of(stream_and_terminate(start("vllm", interval=0.05, tokens=100)))
    assert len(events) < 50
    assert events[-2]["choices"][0]["finish_reason"] == "abort"
    assert events[-1] == "[DONE]"


def test_tabby_cuts_its_streams(start: Start) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        stream_and_terminate(start("tabby", interval=0.05, tokens=100))


def test_tabby_waits_for_what_is_not_streamed(start: Start) -> None:
    tabby = start("tabby", first=0.5)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(tabby.post, CHAT, messages=[])
        wait_until(lambda: bool(tabby.noted("request")), "it generates")
        assert tabby.terminate() == 0
        assert answer.result().status_code == 200


def test_sglang_drains_without_limit(start: Start) -> None:
    sglang = start("sglang", interval=0.1, tokens=10)
    assert data_of(stream_and_terminate(sglang))[-1] == "[DONE]"


def test_sglang_drains_nothing_if_it_is_told_so(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGL_FORCE_SHUTDOWN", "1")
    with pytest.raises(httpx.RemoteProtocolError):
        stream_and_terminate(start("sglang", interval=0.1, tokens=100))


# faults


def test_a_client_that_leaves_is_noticed(start: Start) -> None:
    standin = start("vllm", interval=30)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(standin.url + CHAT, json={"stream": True, "messages": []}, timeout=0.2)
    wait_until(lambda: bool(standin.noted("aborted")), "it notices", 2)


def test_borders_fall_inside_characters(start: Start) -> None:
    standin = start("vllm", text="utf8", tokens=14, split=7)
    with httpx.stream("POST", standin.url + CHAT, json={"stream": True, "messages": []}) as got:
        pieces = list(got.iter_raw())
    assert max(map(len, pieces)) <= 7
    broken = 0
    for piece in pieces:
        try:
            piece.decode()
        except UnicodeDecodeError:
            broken += 1
    assert broken
    text = "".join(
        choice["delta"].get("content", "")
        for line in b"".join(pieces).decode().split("\n\n")[:-2]
        for choice in json.loads(line[6:])["choices"]
    )
    whole = standin.post(CHAT, messages=[]).json()["choices"][0]["message"]["content"]
    assert text == whole
    assert "日本語" in text


@pytest.mark.parametrize(
    ("engine", "fault", "ends"),
    [
        ("vllm", "error-mid-stream", "done"),
        ("sglang", "error-mid-stream", "done"),
        ("tabby", "error-mid-stream", "error"),
        ("llamacpp", "error-mid-stream", "error"),
        ("vllm", "no-done", "chunk"),
        ("vllm", "cut-mid-stream", "cut"),
        ("vllm", "half-event", "cut"),
        ("vllm", "die-mid-stream", "cut"),
    ],
)
def test_how_a_stream_goes_wrong(start: Start, engine: str, fault: str, ends: str) -> None:
    standin = start(engine, fault=fault)
    if ends == "cut":
        with pytest.raises(httpx.RemoteProtocolError):
            standin.post(CHAT, messages=[], stream=True)
        assert (standin.probe("/health") == "refused") is (fault == "die-mid-stream")
        return
    events = data_of(standin.post(CHAT, messages=[], stream=True))
    assert (events[-1] == "[DONE]") is (ends == "done")
    told = [event for event in events if "error" in event]
    assert bool(told) is (fault == "error-mid-stream")


def test_it_hangs_with_the_connection_open(start: Start) -> None:
    standin = start("openai", fault="hang-mid-stream", after=3)
    seen: list[bytes] = []

    def read() -> None:
        body = {"stream": True, "messages": []}
        with httpx.stream("POST", standin.url + CHAT, json=body, timeout=0.3) as got:
            seen.extend(got.iter_raw())

    with pytest.raises(httpx.ReadTimeout):
        read()
    assert b"".join(seen).count(b"data:") == 3


def test_it_dies_when_idle(start: Start) -> None:
    standin = start("openai", fault="die-idle", die_after=0.3)
    assert standin.post(CHAT, messages=[]).status_code == 200
    assert standin.process.wait(5) == 9


def test_a_fault_lasts_until_a_file_is_there(start: Start, tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    options = {"fault": "exit-while-loading", "fault_until": mended}
    assert start("llamacpp", ready=False, **options).process.wait(5) == 1
    mended.touch()
    assert start("llamacpp", **options).get("/health").status_code == 200


def test_arguments_may_come_from_the_environment(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_ARGS", "--tokens 2 --first 0")
    answer = start("openai").post(CHAT, messages=[]).json()
    assert answer["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("engine", "guarded", "open_to_all"),
    [
        ("sglang", "/model_info", "/health"),
        ("vllm", "/v1/models", "/version"),
        ("tabby", "/v1/model", "/health"),
        ("llamacpp", "/props", "/v1/models"),
    ],
)
def test_a_key_is_asked_for_where_the_engine_asks(
    start: Start, engine: str, guarded: str, open_to_all: str
) -> None:
    standin = start(engine, api_key="k")
    assert standin.get(guarded).status_code == 401
    assert standin.get(open_to_all).status_code == 200
    shown = {"authorization": "Bearer k"}
    assert httpx.get(standin.url + guarded, headers=shown).status_code == 200
