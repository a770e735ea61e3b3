"""Every path that a model can be asked under, with each engine; and the engines' own paths."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import yaml

from llm_router.api.paths import OPERATIONS
from llm_router.engines import ENGINES

from .conftest import Router, free_port, wait_until

pytestmark = pytest.mark.contracts

ANSWER = "w0 w1 w2 w3 w4 "
BODY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 5,
    "prompt": "a b",
    "content": "a b",
    "text": "a b",
    "input": "hi",
    "query": "q",
    "documents": ["d"],
    "tokens": [1, 2],
}


def journal(router: Router, what: str = "request") -> list[dict[str, Any]]:
    lines = map(json.loads, (router.dir / "journal.jsonl").read_text().splitlines())
    return [line for line in lines if line["what"] == what]


PROBES = ("/health", "/v1/model", "/v1/models")
"""What the router asks by itself, at any time."""


def asked(router: Router) -> list[dict[str, Any]]:
    """What engines were asked for clients."""
    return [line for line in journal(router) if line["path"] not in PROBES]


def last(router: Router) -> dict[str, Any]:
    """What an engine was asked last."""
    return asked(router)[-1]


def engine(router: Router, backend: str, name: str, **options: Any) -> dict[str, Any]:
    contract = "openai" if backend == "command" else backend
    path = router.dir / "journal.jsonl"
    made = router.standin(name, engine=contract, journal=path, **options)
    return {**made, "backend": backend}


def post(router: Router, path: str, model: str, **body: Any) -> httpx.Response:
    return httpx.post(router.url + path, json={**BODY, "model": model, **body}, timeout=20)


def send(router: Router, path: str, model: str, *, form: bool) -> httpx.Response:
    if not form:
        return post(router, path, model)
    files = {"file": ("a.wav", b"RIFF")}
    return httpx.post(router.url + path, data={"model": model}, files=files, timeout=20)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """A router with one model on each engine, all of them side by side."""
    router = Router(tmp_path_factory.mktemp("fleet"))
    models = {name: engine(router, name, name) | {"group": name} for name in ENGINES}
    router.write(models)
    router.start()
    yield router
    router.end()


@pytest.mark.parametrize("backend", ENGINES)
def test_what_an_engine_cannot_do_is_said_before_anything_is_loaded(
    fleet: Router, backend: str
) -> None:
    for operation in OPERATIONS:
        if operation.name in ENGINES[backend].operations:
            continue
        for path in operation.paths:
            answer = send(fleet, path, backend, form=operation.form)
            assert answer.status_code == 501
            error = answer.json()["error"]
            label = ENGINES[backend].label
            said = f"The model '{backend}' is served by {label}, which has no {operation.path}."
            assert error["message"] == said
            assert operation.name == "messages" or error["code"] == "not_supported"
    assert f"child_{backend}" not in fleet.engine_pids()


@pytest.mark.parametrize("backend", ENGINES)
def test_what_it_can_do_reaches_it_under_its_own_path(fleet: Router, backend: str) -> None:
    for operation in OPERATIONS:
        upstream = ENGINES[backend].operations.get(operation.name)
        for path in operation.paths if upstream else ():
            answer = send(fleet, path, backend, form=operation.form)
            assert last(fleet)["path"] == upstream
            assert answer.headers["x-llm-router-model"] == backend
            assert answer.headers["x-llm-router-backend"] == backend
            assert float(answer.headers["x-llm-router-queue-seconds"]) >= 0
            assert float(answer.headers["x-llm-router-switch-seconds"]) >= 0
            if operation.generates or backend == "command":
                assert answer.status_code == 200, answer.text
            assert "tokens_per_second" not in answer.text or operation.name == "chat"


@pytest.mark.parametrize("backend", ["vllm", "sglang", "llamacpp"])
def test_a_typed_stream_passes_as_it_is(fleet: Router, backend: str) -> None:
    own = f"{fleet.url}/upstream/{backend}"
    for path in ("/v1/messages", "/v1/responses"):
        body = {**BODY, "model": backend, "stream": True}
        straight = httpx.post(own + path, json=body).text
        assert straight.startswith("event: ")
        assert post(fleet, path, backend, stream=True).text == straight


def router_of(router: Router, **models: Any) -> Router:
    router.write(models, requests={"keepalive": 0.1}, switch={"timeout": 5, "stop_timeout": 0.5})
    router.start()
    return router


def test_anthropics_stream_waits_with_pings_and_nothing_else(router: Router) -> None:
    router_of(router, a=engine(router, "vllm", "a", load=0.8))
    text = post(router, "/v1/messages", "a", stream=True).text
    events = [part.split("\n") for part in text.rstrip("\n").split("\n\n")]
    names = [event[0].removeprefix("event: ") for event in events]
    pings = names.count("ping")
    assert pings >= 2
    assert names[:pings] == ["ping"] * pings
    assert names[pings] == "message_start"
    assert names[-1] == "message_stop"
    for name, event in zip(names, events, strict=True):
        assert json.loads(event[1].removeprefix("data: "))["type"] == name
        assert len(event) == 2
    assert "🔄" not in text
    assert "[DONE]" not in text
    metrics = httpx.get(router.url + "/metrics").text
    assert 'llm_router_generated_tokens_total{model="a"} 5.0' in metrics
    assert 'path="/v1/messages",status="200"' in metrics


def test_anthropics_errors_have_its_shape(router: Router) -> None:
    key = {"name": "k", "sha256": hashlib.sha256(b"k").hexdigest()}
    (router.dir / "keys.yml").write_text(yaml.safe_dump({"keys": [key]}))
    slow = engine(router, "vllm", "slow", load=0.5, fault="exit-while-loading")
    cut = engine(router, "vllm", "cut", fault="die-mid-stream")
    router_of(router, slow=slow, cut=cut)

    def ask(model: str, given: str = "k", **body: Any) -> httpx.Response:
        body = {**BODY, "model": model, **body}
        headers = {"x-api-key": given}
        return httpx.post(router.url + "/v1/messages", json=body, headers=headers, timeout=20)

    def error(answer: httpx.Response) -> tuple[int, str]:
        body = answer.json()
        assert body["type"] == "error"
        return answer.status_code, body["error"]["type"]

    assert error(ask("slow", "x")) == (401, "authentication_error")
    assert error(ask("none")) == (404, "not_found_error")
    assert error(ask("slow")) == (503, "overloaded_error")
    for model in ("slow", "cut"):
        *_, final = ask(model, stream=True).text.rstrip("\n").split("\n\n")
        name, data = final.split("\n")
        assert name == "event: error"
        assert json.loads(data.removeprefix("data: "))["type"] == "error"


def test_a_response_that_breaks_off_is_told_to_openais_client(router: Router) -> None:
    router_of(router, a=engine(router, "vllm", "a"), b=engine(router, "vllm", "b", fault="no-done"))
    client = router.client()
    assert client.responses.create(model="a", input="hi").output_text == ANSWER
    events = list(client.responses.create(model="a", input="hi", stream=True))
    assert events[-1].type == "response.completed"
    with pytest.raises(openai.APIError, match="stopped in the middle of its answer"):
        list(client.responses.create(model="b", input="hi", stream=True))


def test_a_form_passes_unchanged_but_for_the_models_name(router: Router) -> None:
    model = engine(router, "command", "a", answers_as="upstream-name")
    router_of(router, a={**model, "model_name": "upstream-name"})
    request = httpx.Request(
        "POST",
        router.url + "/v1/audio/transcriptions",
        data={"language": "de", "model": "a", "stream": "false"},
        files={"file": ("a.wav", b"model a\r\n" * 100, "audio/wav")},
    )
    raw = request.read()
    with httpx.Client() as client:
        assert client.send(request).status_code == 200
    got = last(router)
    assert got["headers"]["content-type"] == request.headers["content-type"]
    assert got["body"].encode() == raw.replace(
        b'name="model"\r\n\r\na\r\n', b'name="model"\r\n\r\nupstream-name\r\n'
    )
    router.client().audio.transcriptions.create(model="a", file=("a.mp3", b"ID3"))
    files = {"file": ("a.wav", b"RIFF")}
    for data in ({}, {"model": "b"}, {"model": ["a", "a"]}):
        answer = httpx.post(request.url, data=data, files=files)
        assert answer.status_code in (400, 404)
        assert answer.json()["error"]["param"] == "model"
    answer = httpx.post(request.url, json={"model": "a"})
    assert "must be a form" in answer.json()["error"]["message"]


def test_sound_passes_and_half_of_it_does_not_look_whole(router: Router) -> None:
    cut = engine(router, "command", "cut", fault="cut-mid-stream")
    router_of(router, a=engine(router, "command", "a", split=7), cut=cut)
    sound = router.client().audio.speech.create(model="a", voice="x", input="hi").read()
    assert sound == bytes(range(256)) * 5
    with pytest.raises(httpx.RemoteProtocolError):
        post(router, "/v1/audio/speech", "cut")
    metrics = httpx.get(router.url + "/metrics").text
    assert 'model="cut",path="/v1/audio/speech",status="502"' in metrics


def test_one_loaded_model_has_many_names_and_parameters(router: Router) -> None:
    model = {
        **engine(router, "vllm", "a"),
        "aliases": ["gpt-4"],
        "defaults": {"temperature": 0.7},
        "force": {"top_k": 5},
        "strip": ["logit_bias"],
        "variants": {"a:precise": {"force": {"temperature": 0.0}}},
        "context_length": 4096,
        "display_name": "The first",
        "description": "Good at *everything*",
        "tags": ["chat"],
    }
    router_of(router, a=model, b=engine(router, "vllm", "b"))
    asked = {"logit_bias": {}, "temperature": 0.9}
    for name, given, temperature in (
        ("a", {}, 0.7),
        ("gpt-4", asked, 0.9),
        ("a:precise", asked, 0.0),
    ):
        answer = post(router, "/v1/chat/completions", name, **given)
        assert answer.headers["x-llm-router-model"] == "a"
        got = router.requests()[-1]
        assert (got["model"], got["temperature"], got["top_k"]) == ("a", temperature, 5)
        assert "logit_bias" not in got
    assert journal(router, "start")[0]["name"] == "a"
    assert len(journal(router, "start")) == 1
    client = router.client()
    assert [entry.id for entry in client.models.list()] == ["a", "b", "a:precise"]
    first = client.models.retrieve("a").model_dump()
    assert first["aliases"] == ["gpt-4"]
    assert (first["loaded"], first["state"], first["context_length"]) == (True, "loaded", 4096)
    assert (first["name"], first["description"]) == ("The first", "Good at *everything*")
    assert first["tags"] == ["chat"]
    assert first["info"] == {"meta": {"description": first["description"]}}, "Open WebUI's place"
    for name in ("gpt-4", "a:precise"):
        other = client.models.retrieve(name).model_dump()
        assert (other["id"], other["parent"], other["loaded"]) == (name, "a", True)
        assert "name" not in other, "two of one name could not be told apart"
    assert client.models.retrieve("b").model_dump()["state"] == "stopped"


def test_the_list_of_models_says_how_each_one_is(router: Router) -> None:
    broken = engine(router, "vllm", "broken", fault="exit-while-loading")
    router_of(router, a=engine(router, "vllm", "a", load=1), broken=broken)

    def states() -> dict[str, str]:
        entries = httpx.get(router.url + "/v1/models").json()["data"]
        return {entry["id"]: entry["state"] for entry in entries}

    assert states() == {"a": "stopped", "broken": "stopped"}
    post(router, "/v1/completions", "broken")
    assert states() == {"a": "stopped", "broken": "failed"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(router.url + "/v1/completions", json={**BODY, "model": "a"}, timeout=0.3)
    assert states()["a"] == "loading"
    wait_until(lambda: states()["a"] == "loaded", "it is loaded")


def test_an_engines_own_paths_are_reached_as_they_are(router: Router) -> None:
    own = {"upstream_paths": ["PUT /own/path"]}
    models = {"org/a:1": engine(router, "command", "org/a:1") | own}
    router_of(router, b=engine(router, "vllm", "b", flags="dev"), **models)
    for spelled in ("org/a:1", "org%2Fa%3a1"):
        answer = httpx.put(f"{router.url}/upstream/{spelled}/own/path?x=%2e%2e", content=b"\xff\0")
        assert answer.json() == {"path": "/own/path", "query": {"x": ".."}}
        assert answer.headers["x-llm-router-model"] == "org/a:1"
    assert httpx.get(f"{router.url}/upstream/b/version", timeout=20).json()["version"]
    assert httpx.get(f"{router.url}/upstream/b/metrics").headers["content-type"] == (
        "text/plain; version=0.0.4"
    )
    assert httpx.get(f"{router.url}/upstream/c/version").status_code == 404
    body = {**BODY, "model": "b", "stream": True}
    text = httpx.post(f"{router.url}/upstream/b/v1/chat/completions", json=body).text
    assert text.count("data: [DONE]") == 1
    assert "⚡" not in text


@pytest.mark.parametrize(
    "path",
    [
        "/sleep?level=1",
        "/wake_up",
        "/collective_rpc",
        "/v1/load_lora_adapter",
        "/start_profile",
        "",
        "/",
        "//sleep",
        "/version/../sleep",
        "/version/%2e%2e/sleep",
        "/%73leep",
        "/SLEEP",
        "/Version",
        "/version/",
        "/version//",
        "/version%2f..%2fsleep",
        "/version;x",
        "/version%00",
        "/version\\..\\sleep",
        "/./version",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_no_other_path_is_reached_however_it_is_spelled(
    fleet: Router, method: str, path: str
) -> None:
    before = len(asked(fleet))
    # a client library would make the path simpler before it is sent
    with socket.create_connection(("127.0.0.1", fleet.port)) as connection:
        head = f"{method} /upstream/vllm{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split(b" ")[1] in (b"403", b"404"), answer
    assert len(asked(fleet)) == before


def test_another_model_never_stands_in_for_vectors(router: Router) -> None:
    models = {"a": engine(router, "command", "a"), "b": engine(router, "command", "b")}
    router.write(models, scheduler={"fallback": "loaded"})
    router.start()
    post(router, "/v1/embeddings", "a")
    headers = {"X-LLM-Router-Switch": "never"}
    for path, status in (
        ("/v1/messages", 200),
        ("/v1/embeddings", 409),
        ("/tokenize", 409),
        ("/upstream/b/health", 409),
    ):
        body = {**BODY, "model": "b"}
        method = "GET" if path.endswith("health") else "POST"
        answer = httpx.request(method, router.url + path, json=body, headers=headers)
        assert answer.status_code == status


@pytest.mark.engine
def test_the_real_llamacpp_has_what_is_said_of_it(router: Router, tiny_models: Any) -> None:
    model = {"backend": "llamacpp", "model_path": str(tiny_models[0]), "port": free_port()}
    router_of(router, a=model)
    for operation in OPERATIONS:
        if operation.name in ENGINES["llamacpp"].operations:
            answer = send(router, operation.path, "a", form=operation.form)
            # 501: has the path, was not started for it
            assert answer.status_code in (200, 501), (operation.path, answer.text)
            assert "which has no" not in answer.text
    for path in ("/v1/messages", "/v1/responses"):
        text = post(router, path, "a", stream=True).text
        assert "event: error" not in text
    for allowed in ENGINES["llamacpp"].own_paths:
        method, path = allowed.split(" ")
        answer = httpx.request(method, f"{router.url}/upstream/a{path}", json=BODY, timeout=20)
        assert answer.status_code in (200, 400, 501), (allowed, answer.text)
