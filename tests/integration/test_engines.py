"""The router with each engine's contract: stand-ins that have the engines' habits and traps."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from .conftest import Router, wait_until
from .test_switch import ask, events

pytestmark = pytest.mark.contracts

CHAT = "/v1/chat/completions"
ENGINES = ("sglang", "vllm", "tabby", "llamacpp")
ANSWER = "w0 w1 w2 w3 w4 "

CLIENT = {"name": "c", "sha256": hashlib.sha256(b"of-the-client").hexdigest()}

MODELS: dict[str, dict[str, Any]] = {
    "plain": {"load": 0.3, "interval": 0.01},
    "utf8": {"text": "utf8", "tokens": 14, "split": 5},
    "thinking": {"reasoning": 2},
    "slow": {"interval": 0.1, "tokens": 600},
    "other": {"answers_as": "another"},
    **{
        fault: {"fault": fault}
        for fault in (
            "no-token",
            "empty",
            "mute",
            "never-ready",
            "exit-while-loading",
            "no-done",
            "error-mid-stream",
            "cut-mid-stream",
            "half-event",
            "die-mid-stream",
        )
    },
}
"""By name: the stand-in's options. Every test has a model of its own, so failures do not add up."""


def engine(router: Router, backend: str, name: str, **options: Any) -> dict[str, Any]:
    """A model of ``backend`` whose child process is a stand-in of that engine."""
    journal = router.dir / "journal.jsonl"
    made = router.standin(name, engine=backend, journal=journal, **options)
    return {**made, "backend": backend}


@pytest.fixture(scope="module", params=ENGINES)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Router]:
    """One router for all tests of an engine: starting it is what takes the time."""
    router = Router(tmp_path_factory.mktemp(request.param))
    models = {
        name: engine(router, request.param, name, **options) for name, options in MODELS.items()
    }
    models["mute"]["timeout"] = models["never-ready"]["timeout"] = 0.7
    switch = {"timeout": 20, "stop_timeout": 0.5, "on_failure": "stop"}
    router.write(models, switch=switch)
    router.start()
    yield router
    router.end()


@pytest.fixture
def backend(served: Router, request: pytest.FixtureRequest) -> str:
    """Which engine is served."""
    return str(request.node.callspec.params["served"])


def stream(router: Router, model: str, path: str = CHAT, **extra: Any) -> list[Any]:
    """A stream's data without the router's own lines; ``[DONE]`` as text."""
    body = {"model": model, "messages": [], "prompt": "x", "stream": True, **extra}
    headers = {"x-llm-router-status": "off"}
    answer = httpx.post(router.url + path, json=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    # not iter_lines, which also breaks lines at characters that JSON may contain
    lines = re.split(r"\r?\n", answer.content.decode())
    events = [line[6:] for line in lines if line.startswith("data: ")]
    return [event if event == "[DONE]" else json.loads(event) for event in events]


def text_of(chunks: list[Any], key: str = "content") -> str:
    choices = [choice for chunk in chunks if chunk != "[DONE]" for choice in chunk["choices"]]
    return "".join(choice["delta"].get(key) or "" for choice in choices)


def failure(router: Router, model: str) -> str:
    """Why the model could not be loaded; its engine is gone then."""
    answer = ask(router, model)
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["code"] == "model_unavailable"
    assert f"child_{model}" not in router.engine_pids()
    return str(error["message"])


def test_it_loads_and_answers_streamed_and_whole(served: Router) -> None:
    whole = ask(served, "plain")
    assert whole.status_code == 200
    assert whole.json()["choices"][0]["message"]["content"] == ANSWER
    chunks = stream(served, "plain")
    assert text_of(chunks) == ANSWER
    assert chunks[-1] == "[DONE]"
    assert chunks.count("[DONE]") == 1
    assert events(served).count("start plain") == 1


def test_its_context_is_known_once_it_was_ready(served: Router) -> None:
    assert ask(served, "plain").status_code == 200

    def context(name: str) -> object:
        return httpx.get(f"{served.url}/v1/models/{name}").json().get("context_length")

    assert (context("plain"), context("never-ready")) == (4096, None)
    served.stop()
    served.start()
    assert context("plain") == 4096


def test_characters_survive_the_worst_borders(served: Router) -> None:
    whole = ask(served, "utf8").json()["choices"][0]["message"]["content"]
    assert text_of(stream(served, "utf8")) == whole
    assert "日本語" in whole


def test_usage_reaches_who_asked_for_it(served: Router) -> None:
    chunks = stream(served, "plain", stream_options={"include_usage": True})
    assert len([chunk for chunk in chunks[:-1] if chunk.get("usage")]) == 1
    usage = chunks[-2]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (3, 5)


def test_usage_does_not_reach_who_did_not_ask(served: Router) -> None:
    chunks = stream(served, "plain")
    assert not [chunk for chunk in chunks[:-1] if chunk.get("usage")]
    # llama.cpp's timings, which come with the usage, are a chunk of their own behind it
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]]
    assert [reason for reason in reasons if reason is not None] == ["stop"]


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_usage_that_vllm_tells_unasked_goes_no_further(router: Router, path: str) -> None:
    # as the role's unit starts it
    flags = "force-usage,request-metrics"
    router.write({"plain": engine(router, "vllm", "plain", flags=flags)})
    router.start()
    chunks = stream(router, "plain", path)
    assert chunks[-1] == "[DONE]"
    assert not [chunk for chunk in chunks[:-1] if "usage" in chunk or not chunk["choices"]]
    asked = stream(router, "plain", path, stream_options={"include_usage": True})
    assert asked[-2]["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_usage_comes_in_a_chunk_of_its_own(served: Router, path: str) -> None:
    chunks = stream(served, "plain", path, stream_options={"include_usage": True})
    assert chunks[-2]["usage"]["completion_tokens"] == 5
    assert chunks[-2]["choices"] == []


def test_a_stream_begins_with_its_role_and_has_reasoning_under_both_names(served: Router) -> None:
    chunks = stream(served, "thinking")
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert text_of(chunks, "reasoning") == text_of(chunks, "reasoning_content") == "w0 w1 "
    assert text_of(chunks) == "w2 w3 w4 "


def test_a_stream_that_lacks_its_done_gets_it(served: Router) -> None:
    chunks = stream(served, "no-done")
    assert text_of(chunks) == ANSWER
    assert chunks.count("[DONE]") == 1
    assert not [chunk for chunk in chunks[:-1] if "error" in chunk]


def test_an_engines_own_error_is_told_once_and_the_stream_ends(served: Router) -> None:
    chunks = stream(served, "error-mid-stream")
    assert len([chunk for chunk in chunks[:-1] if "error" in chunk]) == 1
    assert chunks[-1] == "[DONE]"
    assert chunks.count("[DONE]") == 1


@pytest.mark.parametrize("fault", ["cut-mid-stream", "half-event", "die-mid-stream"])
def test_a_cut_stream_ends_with_an_error_and_done(served: Router, fault: str) -> None:
    chunks = stream(served, fault)
    assert "stopped in the middle of its answer" in chunks[-2]["error"]["message"]
    assert chunks[-1] == "[DONE]"


def test_an_engine_learns_that_its_client_has_left(served: Router) -> None:
    ask(served, "slow", max_tokens=1)
    body = {"model": "slow", "messages": [], "stream": True}
    with httpx.stream("POST", served.url + CHAT, json=body, timeout=30) as response:
        next(response.iter_raw())

    def noticed() -> bool:
        lines = map(json.loads, (served.dir / "journal.jsonl").read_text().splitlines())
        return any(line["what"] == "aborted" and line["name"] == "slow" for line in lines)

    wait_until(noticed, "the engine notices", 3)


def test_a_wrong_model_is_told_by_its_name(served: Router) -> None:
    assert "is up but it serves another, not 'other'" in failure(served, "other")


def test_one_that_never_gets_ready_fails_at_its_deadline(served: Router) -> None:
    message = failure(served, "never-ready")
    assert "WaitUntilReady of 'never-ready' failed: not done within 0.7 s" in message


@pytest.mark.parametrize("fault", ["no-token", "empty"])
def test_health_without_a_token_is_caught_by_the_warm_up(served: Router, fault: str) -> None:
    assert f"WarmUp of '{fault}' failed: no first token" in failure(served, fault)


def test_one_that_never_answers_a_generation_fails_at_its_deadline(
    served: Router, backend: str
) -> None:
    """SGLang's /health generates, and so tells it first."""
    step = "WaitUntilReady" if backend == "sglang" else "WarmUp"
    assert f"{step} of 'mute' failed: not done within" in failure(served, "mute")


def test_an_end_while_it_loads_is_told_with_its_last_words(served: Router) -> None:
    error = ask(served, "exit-while-loading").json()["error"]
    assert "ended while it loaded (exit code 1)" in error["message"]
    assert error["log_lines"][-1] == "CUDA out of memory, says the stand-in"


def test_each_engine_is_gone_before_the_next_starts(router: Router) -> None:
    router.write({name: engine(router, name, name) for name in ENGINES})
    router.start()
    for name in ENGINES:
        assert ask(router, name).status_code == 200
    steps = [f"{what} {name}" for name in ENGINES for what in ("start", "stop")]
    assert events(router) == steps[:-1]


def test_a_vllm_that_ignores_sigterm_while_it_loads_is_killed(router: Router) -> None:
    # SIGTERM comes after the imports, which are the first third, and before the end
    model = {**engine(router, "vllm", "a", load=2), "timeout": 1.0}
    router.write({"a": model}, switch={"timeout": 20, "stop_timeout": 0.3})
    router.start()
    assert "not done within 1 s" in ask(router, "a").json()["error"]["message"]
    assert router.engine_pids() == {}
    assert "killing it" in (router.dir / "router.log").read_text()


@pytest.mark.parametrize("backend", ENGINES)
def test_an_engine_is_shown_its_own_key_and_never_its_clients(router: Router, backend: str) -> None:
    key_file = router.dir / "engine_key"
    key_file.write_text("of-the-engine\n")
    keyed = engine(router, backend, "keyed", api_key="of-the-engine")
    free = engine(router, backend, "free")
    router.write({"keyed": {**keyed, "api_key_file": str(key_file)}, "free": free})
    (router.dir / "keys.yml").write_text(json.dumps({"keys": [CLIENT]}))
    router.start()
    headers = {"Authorization": "Bearer of-the-client", "x-api-key": "of-the-client"}
    own_path = {"tabby": "/v1/models", "llamacpp": "/props"}.get(backend, "/v1/models")
    for model in ("keyed", "free"):
        asked = {"model": model, "messages": [{"role": "user", "content": "x"}]}
        chat = httpx.post(router.url + CHAT, json=asked, headers=headers, timeout=30)
        assert chat.json()["choices"][0]["message"]["content"] == ANSWER
        passed = httpx.get(f"{router.url}/upstream/{model}{own_path}", headers=headers, timeout=30)
        assert passed.status_code == 200
    journal = (router.dir / "journal.jsonl").read_text()
    assert "of-the-client" not in journal
    requests = [line for line in map(json.loads, journal.splitlines()) if line["what"] == "request"]
    for request in requests:
        wanted = "Bearer of-the-engine" if request["name"] == "keyed" else None
        assert request["headers"].get("authorization") == wanted, request["path"]
    assert {r["path"] for r in requests if r["name"] == "keyed"} >= {CHAT, own_path}


@pytest.mark.parametrize("backend", ENGINES)
def test_a_key_that_the_engine_refuses_is_told_at_once(router: Router, backend: str) -> None:
    model = engine(router, backend, "a", api_key="another")
    router.write({"a": {**model, "api_key_file": str(router.dir / "none")}})
    router.start()
    message = ask(router, "a").json()["error"]["message"]
    assert f"401); it was shown no key, as there is none in {router.dir}/none" in message or (
        # llama.cpp lets anybody see its models: only the warm-up is refused
        backend == "llamacpp" and "no first token: 401" in message
    )
    assert router.engine_pids() == {}
    (router.dir / "none").write_text("another")  # and seen without a restart
    assert ask(router, "a").status_code == 200
