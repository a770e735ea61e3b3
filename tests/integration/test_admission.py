"""Who may cause a switch, how long one waits, and what an operator can do about it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from .conftest import Router, wait_until

pytestmark = pytest.mark.long

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hi"}]
TITLE = [{"role": "user", "content": "### Task:\nName this chat."}]


def ask(router: Router, model: str, *, never: bool = False, **extra: Any) -> httpx.Response:
    headers = {"X-LLM-Router-Switch": "never"} if never else {}
    body = {"model": model, "messages": HELLO, **extra}
    return httpx.post(router.url + CHAT, json=body, headers=headers, timeout=30)


def two(router: Router, **config: Any) -> None:
    router.write({"a": router.standin("a"), "b": router.standin("b", load=0.5)}, **config)
    router.start()
    ask(router, "a")


def test_a_background_request_never_swaps_the_model_behind_a_persons_back(router: Router) -> None:
    two(router, background={"patience": 0.2})
    answer = ask(router, "b", messages=TITLE)
    assert answer.status_code == 200
    assert answer.headers["x-llm-router-model"] == "a"
    assert router.health()["current_model"] == "a"


def test_a_title_that_comes_before_its_chat_is_answered_by_the_chats_model(router: Router) -> None:
    two(router, background={"patience": 5.0})
    with ThreadPoolExecutor() as pool:
        title = pool.submit(ask, router, "b", messages=TITLE)

        def waits() -> bool:
            return bool(router.status()["models"]["b"]["waiting"] == 1)

        wait_until(waits, "the title waits")
        assert router.status()["switches"] == []
        assert ask(router, "b").status_code == 200
        assert title.result().headers["x-llm-router-model"] == "b"


def test_with_nothing_loaded_a_background_request_is_refused(router: Router) -> None:
    router.write({"a": router.standin("a")}, background={"patience": 0.1})
    router.start()
    answer = ask(router, "a", messages=TITLE)
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "switch_not_allowed"
    assert not router.events.exists()


def test_a_header_forbids_the_switch(router: Router) -> None:
    two(router)
    refused = ask(router, "b", never=True)
    assert refused.status_code == 409
    assert "Loaded now: a." in refused.json()["error"]["message"]
    assert ask(router, "a", never=True).status_code == 200
    strange = {"X-LLM-Router-Switch": "perhaps"}
    body = {"model": "a", "messages": HELLO}
    assert httpx.post(router.url + CHAT, json=body, headers=strange).status_code == 400


def test_the_fallback_answers_where_it_is_allowed(router: Router) -> None:
    two(router, scheduler={"fallback": "loaded"})
    answer = ask(router, "b", never=True)
    assert answer.status_code == 200
    assert answer.headers["x-llm-router-model"] == "a"


def test_a_full_queue_says_when_to_come_back(router: Router) -> None:
    router.write({"a": router.standin("a", load=1)}, scheduler={"max_queue": 2})
    router.start()
    with ThreadPoolExecutor() as pool:
        first = [pool.submit(ask, router, "a") for _ in range(2)]
        wait_until(lambda: router.status()["models"]["a"]["waiting"] == 2, "two wait")
        full = ask(router, "a")
        assert full.status_code == 429
        assert full.headers["retry-after"] == "10"
        assert full.json()["error"]["code"] == "queue_full"
        assert {item.result().status_code for item in first} == {200}


def test_silent_streams_are_kept_alive_with_comments(router: Router) -> None:
    router.write({"a": router.standin("a", load=0.7)}, requests={"keepalive": 0.2})
    router.start()
    headers = {"X-LLM-Router-Status": "off"}
    body = {"model": "a", "messages": HELLO, "stream": True}
    raw = httpx.post(router.url + CHAT, json=body, headers=headers, timeout=30).text
    assert raw.startswith(": waiting\n\n")
    assert raw.replace(": waiting\n\n", "").startswith('data: {"id": "standin-1"')
    assert raw.endswith("data: [DONE]\n\n")


def test_whole_answers_are_kept_alive_with_spaces_where_that_is_wanted(router: Router) -> None:
    router.write(
        {
            "a": router.standin("a", load=0.7),
            "bad": router.standin("bad", load=0.7, fault="no-token"),
        },
        requests={"json_keepalive": 0.2},
    )
    router.start()
    answer = ask(router, "a")
    assert answer.text.startswith("  ")
    assert answer.json()["choices"][0]["message"]["content"].startswith("w0")
    assert ask(router, "bad").json()["error"]["code"] == "model_unavailable"


def test_an_idle_model_is_unloaded_and_comes_back_when_asked_for(router: Router) -> None:
    router.write({"a": {**router.standin("a"), "ttl": 0.5}})
    router.start()
    ask(router, "a")
    wait_until(lambda: router.health()["current_model"] is None, "it is unloaded", 5)
    wait_until(lambda: router.engine_pids() == {}, "its engine is gone", 5)
    assert ask(router, "a").status_code == 200


def test_a_preloaded_model_is_there_before_anyone_asks(router: Router) -> None:
    router.write({"a": router.standin("a"), "b": {**router.standin("b"), "preload": True}})
    router.start()
    wait_until(lambda: router.health()["current_model"] == "b", "it is preloaded", 10)


def test_an_operator_unloads(router: Router) -> None:
    two(router)
    plan = httpx.get(router.url + "/admin/plan", params={"group": "default"}, timeout=20).json()
    answer = httpx.post(router.url + "/admin/unload", json={}, timeout=20).json()
    taken = [step["step"] for step in answer.pop("steps")]
    assert taken == [step["step"] for step in plan["steps"]] == ["Drain", "Stop"]
    assert answer.pop("seconds") > 0
    assert answer == {"changed": True, "group": "default", "previous": "a"}
    assert router.engine_pids() == {}
    plan = httpx.get(router.url + "/admin/plan", timeout=20).json()
    assert (plan["changed"], plan["steps"]) == (False, [])
    again = httpx.post(router.url + "/admin/unload", json={}).json()
    assert (again.pop("steps"), again.pop("seconds") >= 0) == ([], True)
    assert again["changed"] is False
    assert httpx.post(router.url + "/admin/unload", json={"group": "x"}).status_code == 404


def test_an_operator_sees_and_cancels_requests(router: Router) -> None:
    slow = router.standin("a", interval=0.1, tokens=600)
    router.write({"a": slow, "b": router.standin("b")})
    router.start()
    ask(router, "a", max_tokens=1)
    with ThreadPoolExecutor() as pool:
        stream = pool.submit(ask, router, "a", stream=True)
        wait_until(lambda: states(router) == ["answering"], "one is answered")
        waiting = pool.submit(ask, router, "b")
        wait_until(lambda: states(router) == ["answering", "waiting"], "another waits")
        by_model = {entry["model"]: entry for entry in requests_of(router)}
        assert by_model["b"]["state"] == "waiting"
        httpx.delete(f"{router.url}/admin/requests/{by_model['b']['id']}").raise_for_status()
        assert waiting.result().status_code == 503
        assert waiting.result().json()["error"]["code"] == "request_cancelled"
        began = time.monotonic()
        httpx.delete(f"{router.url}/admin/requests/{by_model['a']['id']}").raise_for_status()
        text = stream.result().text
    assert time.monotonic() - began < 5
    assert '"code": "request_cancelled"' in text
    assert text.endswith("data: [DONE]\n\n")
    assert requests_of(router) == []
    assert httpx.delete(f"{router.url}/admin/requests/999").status_code == 404


def requests_of(router: Router) -> list[dict[str, Any]]:
    return list(httpx.get(router.url + "/admin/requests").json()["requests"])


def states(router: Router) -> list[str]:
    return [entry["state"] for entry in requests_of(router)]


def test_an_operator_follows_what_happens_and_learns_how_long_it_takes(router: Router) -> None:
    router.write({"a": router.standin("a"), "b": router.standin("b", load=0.3)})
    router.start()
    with httpx.stream("GET", router.url + "/admin/events", timeout=20) as response:
        lines = response.iter_lines()
        assert next(lines) == ": following"
        plan = httpx.get(router.url + "/admin/plan", params={"model": "a"}).json()
        assert plan["expected_seconds"] is None
        for model in ("b", "a", "b"):
            ask(router, model)
        ended = 0
        while ended < 3:
            ended += next(lines) == "event: SwitchEnded"
        for model in ("a", "b"):
            plan = httpx.get(router.url + "/admin/plan", params={"model": model}).json()
            assert (plan["expected_seconds"] or 0) < 5
        assert router.cli("plan", "a").stdout.count("as a rule") == 5
        began = time.monotonic()
        router.stop()
        assert "event: RouterStopping" in list(lines)
        assert time.monotonic() - began < 10
