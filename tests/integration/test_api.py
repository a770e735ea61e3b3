"""The OpenAI surface, seen by the unmodified `openai` client."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
import yaml

from .conftest import Router, wait_until

HELLO: Any = [{"role": "user", "content": "hi"}]
SWITCHING = "🔄 Switching to a..."
READY = re.compile(r"✅ Model ready! \(\d+s\)")
ANSWER = "w0 w1 w2 w3 w4 "
IN_THE_TEXT: Any = {"extra_headers": {"X-LLM-Router-Status": "content"}}


def stream(client: openai.OpenAI, model: str = "a", **extra: Any) -> list[Any]:
    return list(client.chat.completions.create(model=model, messages=HELLO, stream=True, **extra))


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


@pytest.fixture
def standin(router: Router) -> Router:
    router.write({"a": router.standin("a", interval=0.02), "b": router.standin("b")})
    router.start()
    return router


def test_the_client_lists_streams_and_does_not_stream(standin: Router) -> None:
    client = standin.client()
    assert [model.id for model in client.models.list()] == ["a", "b"]
    assert client.models.retrieve("b").owned_by == "command"
    chunks = stream(client, **IN_THE_TEXT)
    lines = text_of(chunks).split("\n")
    assert lines[0] == SWITCHING
    assert READY.fullmatch(lines[1])
    assert lines[2:4] == ["", ANSWER]
    assert lines[-1].startswith("⚡ ")
    assert "tok/s (~5 tokens in 0." in lines[-1]
    for chunk in chunks:
        assert chunk.id
        assert chunk.object == "chat.completion.chunk"
        assert chunk.created
        assert chunk.model == "a"
    answer = client.chat.completions.create(model="b", messages=HELLO)
    assert answer.choices[0].message.content == ANSWER
    assert answer.usage is not None
    assert answer.usage.model_extra is not None
    assert answer.usage.model_extra["tokens_per_second_with_prompt"] > 0
    assert client.completions.create(model="b", prompt="x").choices[0].text.startswith("w0")


def test_a_loaded_model_answers_without_status_lines_but_with_a_footer(standin: Router) -> None:
    client = standin.client()
    stream(client)
    lines = text_of(stream(client, **IN_THE_TEXT)).split("\n")
    assert lines[0] == ANSWER
    assert lines[-1].startswith("⚡ ")


def test_the_footer_comes_before_done_and_done_comes_once(standin: Router) -> None:
    body = {"model": "a", "messages": HELLO, "stream": True}
    headers = IN_THE_TEXT["extra_headers"]
    raw = httpx.post(standin.url + "/v1/chat/completions", json=body, headers=headers).text
    events = raw.split("\n\n")
    assert events[-1] == ""
    assert events[-2] == "data: [DONE]"
    assert "⚡" in events[-3]
    assert raw.count("[DONE]") == 1


def test_a_client_that_requests_no_style_gets_the_models_text_alone(standin: Router) -> None:
    client = standin.client()
    chunks: list[Any] = []
    for model in ("b", "a", "a"):  # a switch, another one, a loaded model
        chunks = stream(client, model)
        assert text_of(chunks) == ANSWER
        assert all(not getattr(c.choices[0].delta, "reasoning_content", None) for c in chunks)
    assert chunks[-1].usage.model_extra["tokens_per_second"] > 0


def test_a_models_own_style_and_the_configured_one_put_lines_into_the_text(router: Router) -> None:
    router.write(
        {"a": router.standin("a"), "b": {**router.standin("b"), "status": "auto"}},
        status={"style": "content"},
    )
    router.start()
    assert text_of(stream(router.client())).startswith(SWITCHING)
    assert text_of(stream(router.client(), "b")) == ANSWER


def test_unknown_models_are_refused_in_openai_shape(standin: Router) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        standin.client().chat.completions.create(model="c", messages=HELLO)
    assert caught.value.code == "model_not_found"
    assert "Known models: a, b." in str(caught.value)
    with pytest.raises(openai.NotFoundError):
        standin.client().models.retrieve("c")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "`model` must be text"),
        (b"[" * 100000, "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b'{"model": 7}', "`model` must be text"),
    ],
)
def test_a_bad_request_says_what_is_wrong(standin: Router, content: bytes, says: str) -> None:
    answer = httpx.post(standin.url + "/v1/chat/completions", content=content)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_strange_text_passes_and_is_told_back(standin: Router) -> None:
    lone = '{"model": "\\ud800", "messages": []}'
    answer = httpx.post(standin.url + "/v1/chat/completions", content=lone)
    assert answer.json()["error"]["code"] == "model_not_found"
    lone = '{"model": "a", "messages": [{"role": "user", "content": "\\ud800 \\ud83d\\ude00"}]}'
    assert httpx.post(standin.url + "/v1/chat/completions", content=lone).status_code == 200
    assert standin.requests()[-1]["messages"][0]["content"] == "\ud800 \N{GRINNING FACE}"


def test_an_unknown_path_and_method_have_openai_shape(standin: Router) -> None:
    assert httpx.get(standin.url + "/v2/x").json()["error"]["code"] == "not_found"
    assert "error" in httpx.get(standin.url + "/v1/chat/completions").json()


@pytest.mark.parametrize(
    "extra",
    [
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {"response_format": {"type": "json_object"}},
        {"logprobs": True},
        {"n": 2},
    ],
)
@pytest.mark.parametrize("header", [None, "content"])
def test_structured_answers_keep_their_text(
    standin: Router, extra: dict[str, Any], header: str | None
) -> None:
    headers = {"X-LLM-Router-Status": header} if header else {}
    chunks = stream(standin.client(), extra_headers=headers, **extra)
    assert text_of(chunks) == ANSWER
    told = [chunk.model_extra["event"]["data"] for chunk in chunks if "event" in chunk.model_extra]
    assert told[0] == {"description": "🔄 Switching to a...", "done": False}
    assert READY.fullmatch(told[-1]["description"])
    assert told[-1]["done"] is True
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.model_extra["tokens_per_second"] > 0


def test_the_header_chooses_the_style(standin: Router) -> None:
    client = standin.client()
    chunks = stream(client, extra_headers={"X-LLM-Router-Status": "reasoning"})
    assert text_of(chunks) == ANSWER
    thought = "".join(
        getattr(chunk.choices[0].delta, "reasoning_content", None) or "" for chunk in chunks
    )
    first, last = thought.splitlines()
    assert first == SWITCHING
    assert READY.fullmatch(last)
    quiet = stream(client, "b", extra_headers={"X-LLM-Router-Status": "off"})
    assert text_of(quiet) == ANSWER
    assert all(not chunk.model_extra for chunk in quiet)
    assert all(chunk.usage is None for chunk in quiet)
    with pytest.raises(openai.BadRequestError, match="use auto, content"):
        stream(client, extra_headers={"X-LLM-Router-Status": "loud"})


def test_usage_reaches_who_asked_and_nobody_else(standin: Router) -> None:
    client = standin.client()
    assert all(chunk.usage is None for chunk in stream(client, **IN_THE_TEXT))
    usage: Any = {"include_usage": True}
    asked = stream(client, stream_options=usage, **IN_THE_TEXT)
    assert [chunk.usage.completion_tokens for chunk in asked if chunk.usage] == [5]
    assert asked[-1].choices[0].delta.content.startswith("\n\n⚡")
    assert next(c for c in asked if c.usage).usage.model_extra["tokens_per_second"] > 0


def test_the_engine_never_reads_the_routers_own_lines(standin: Router) -> None:
    client = standin.client()
    said = text_of(stream(client, **IN_THE_TEXT))
    assert "🔄" in said
    assert "⚡" in said
    history: Any = [*HELLO, {"role": "assistant", "content": said}, *HELLO]
    client.chat.completions.create(model="a", messages=history)
    got = standin.requests()[-1]
    assert got["messages"][1] == {"role": "assistant", "content": ANSWER}
    assert got["model"] == "a"


@pytest.mark.long
def test_the_wait_is_counted_down(router: Router) -> None:
    model = {**router.standin("a", load=1.2), "timeout": 9}
    router.write({"a": model}, status={"interval": 0.5})
    router.start()
    expected = 0.0
    for number, until in enumerate(("9", "~1", "~1", "~1")):
        began = time.monotonic()
        lines = text_of(stream(router.client(), **IN_THE_TEXT)).split("\n")
        took = time.monotonic() - began
        assert lines[0] == "🔄 Switching to a..."
        assert any(re.fullmatch(rf"⏳ Loading model\.\.\. \ds / {until}s", line) for line in lines)
        assert any(READY.fullmatch(line) for line in lines)
        if number == 3:
            assert expected == pytest.approx(took, rel=0.2)
        httpx.post(router.url + "/admin/unload", json={}).raise_for_status()
        if number == 1:  # what was learned outlives the router
            router.stop()
            router.start()
        plan = httpx.get(router.url + "/admin/plan", params={"model": "a"}).json()
        expected = plan["expected_seconds"]


def test_a_load_that_fails_after_the_200_ends_the_stream_in_order(router: Router) -> None:
    router.write({"a": router.standin("a", load=0.2, fault="exit-while-loading")})
    router.start()
    body = {"model": "a", "messages": HELLO, "stream": True}
    raw = httpx.post(router.url + "/v1/chat/completions", json=body).text
    assert raw.endswith("data: [DONE]\n\n")
    assert '"code": "model_unavailable"' in raw
    with pytest.raises(openai.APIError, match="could not be loaded"):
        stream(router.client())


def test_an_engine_that_dies_in_its_answer_ends_the_stream_in_order(router: Router) -> None:
    router.write({"a": router.standin("a", fault="die-mid-stream", interval=0.01)})
    router.start()
    body = {"model": "a", "messages": HELLO, "stream": True}
    raw = httpx.post(router.url + "/v1/chat/completions", json=body, timeout=30).text
    assert "w1" in raw
    assert "stopped in the middle of its answer" in raw
    assert raw.endswith("data: [DONE]\n\n")
    wait_until(lambda: router.health()["current_model"] is None, "the loss is noticed")


def test_a_client_that_hangs_up_ends_the_generation(router: Router) -> None:
    router.write({"a": router.standin("a", interval=0.1, tokens=600)})
    router.start()
    body = {"model": "a", "messages": HELLO, "stream": True}
    with httpx.stream("POST", router.url + "/v1/chat/completions", json=body) as response:
        pieces = response.iter_raw()
        next(pieces)
        wait_until(lambda: router.status()["models"]["a"]["in_flight"] == 1, "it streams")
    wait_until(lambda: router.status()["models"]["a"]["in_flight"] == 0, "the lease ends", 3)


def test_keys_open_what_their_scopes_say(router: Router) -> None:
    def entry(name: str, *scopes: str) -> dict[str, Any]:
        return {
            "name": name,
            "sha256": hashlib.sha256(name.encode()).hexdigest(),
            "scopes": [*scopes],
        }

    router.write({"a": router.standin("a"), "b": router.standin("b")})
    keys = [entry("user", "use"), entry("owner", "use", "switch"), entry("root", "use", "admin")]
    (router.dir / "keys.yml").write_text(yaml.safe_dump({"keys": keys}))
    router.start()
    with pytest.raises(openai.AuthenticationError):
        router.client(api_key="wrong").models.list()
    with pytest.raises(openai.ConflictError, match="may not cause a switch"):
        stream(router.client(api_key="user"))
    stream(router.client(api_key="owner"))
    stream(router.client(api_key="user"))
    admin = router.url + "/admin/status"
    assert httpx.get(admin, headers={"authorization": "Bearer owner"}).status_code == 403
    assert httpx.get(admin, headers={"authorization": "Bearer root"}).status_code == 200
    assert httpx.get(router.url + "/metrics").status_code == 401
    assert httpx.get(router.url + "/health").status_code == 200
    assert router.cli("status").returncode == 0
    log = (router.dir / "router.log").read_text()
    assert "Bearer" not in log


def test_a_key_may_have_models_of_its_own_and_a_number_of_requests(router: Router) -> None:
    def entry(name: str, **extra: Any) -> dict[str, Any]:
        return {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), **extra}

    router.write({"a": router.standin("a", load=1), "b": router.standin("b")})
    keys = [entry("some", models=["a"], max_requests=2), entry("all")]
    (router.dir / "keys.yml").write_text(yaml.safe_dump({"keys": keys}))
    router.start()
    client = router.client(api_key="some")
    assert [model.id for model in client.models.list()] == ["a"]
    with pytest.raises(openai.PermissionDeniedError, match="may not use the model 'b'"):
        stream(client, "b")
    with ThreadPoolExecutor() as pool:
        two = [pool.submit(stream, client) for _ in range(2)]

        # by the admin socket, as no key may; a command would take as long as the load to begin
        socket = httpx.HTTPTransport(uds=str(router.dir / "admin.sock"))
        with httpx.Client(transport=socket, base_url="http://router", timeout=20) as local:
            wait_until(
                lambda: local.get("/admin/status").json()["models"]["a"]["waiting"] == 2,
                "two wait",
            )
        with pytest.raises(openai.RateLimitError, match="has 2 requests under way"):
            stream(client)
        assert all(text_of(one.result()) for one in two)
    stream(client)
    assert len(router.client(api_key="all").models.list().data) == 2


def test_health_has_its_four_keys(standin: Router) -> None:
    assert standin.health() == {
        "status": "healthy",
        "current_model": None,
        "backends": {"command": False},
        "models": ["a", "b"],
    }
    stream(standin.client())
    assert standin.health()["backends"] == {"command": True}


def test_metrics_tell_what_happened(standin: Router) -> None:
    stream(standin.client())
    stream(standin.client(), "b")
    text = httpx.get(standin.url + "/metrics").text
    assert 'llm_router_switches_total{model="b",outcome="ok",reason="request"} 1.0' in text
    assert 'llm_router_model_loaded{group="default",model="b"} 1.0' in text
    assert 'llm_router_generated_tokens_total{model="a"} 5.0' in text
    assert 'llm_router_prompt_tokens_total{model="a"} 3.0' in text
    assert 'llm_router_model_state{model="b",state="loaded"} 1.0' in text
    assert 'llm_router_switch_step_seconds_count{outcome="ok",step="WarmUp"} 2.0' in text


@pytest.mark.promtool
def test_metrics_are_as_prometheus_wants_them(standin: Router) -> None:
    cache = os.environ["ROUNDHOUSE_CACHE"]
    stream(standin.client())
    stream(standin.client(), "b")
    standin.client().chat.completions.create(model="b", messages=HELLO)
    text = httpx.get(standin.url + "/metrics").content
    check = [f"{cache}/promtool", "check", "metrics"]
    said = subprocess.run(check, input=text, capture_output=True, check=False)
    assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")


def test_an_open_port_is_said_once_at_start(standin: Router) -> None:
    log = (standin.dir / "router.log").read_text()
    assert log.count("no API key is configured") == 1


@pytest.mark.engine
def test_two_real_llamacpp_models_answer_in_turn(router: Router, tiny_models: Any) -> None:
    from .conftest import free_port

    router.write(
        {
            path.stem: {"backend": "llamacpp", "model_path": str(path), "port": free_port()}
            for path in tiny_models
        }
    )
    router.start()
    for name in ("a", "b", "a"):
        chunks = stream(router.client(), name, max_tokens=8, **IN_THE_TEXT)
        assert text_of(chunks).startswith(f"🔄 Switching to {name}...")
        assert list(router.engine_pids()) == [f"child_{name}"]
    answer = router.client().chat.completions.create(model="a", messages=HELLO, max_tokens=8)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert router.client().models.retrieve("a").model_dump()["context_length"] == 4096
