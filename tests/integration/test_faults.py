"""Faults of docs/faults.md that no other file has: what the client sees, and that it recovers."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from .conftest import Router, wait_until
from .test_ends import HELLO, in_flight, last_error
from .test_switch import CHAT, ask, events

pytestmark = pytest.mark.long


def test_an_engine_that_answers_500_to_a_generation_is_told_as_it_is(router: Router) -> None:
    """Once it is loaded: its /health is 200 still, and nobody restarts it."""
    router.write({"a": {**router.standin("a", fault="no-token"), "warm_up": False}})
    router.start()
    answer = ask(router, "a")
    assert answer.status_code == 500
    assert answer.json()["error"]["message"]
    stream = httpx.post(
        router.url + CHAT, json={"model": "a", "messages": HELLO, "stream": True}, timeout=30
    )
    assert stream.status_code == 500 or last_error(stream.text)["code"] == "engine_error"
    assert in_flight(router, "a") == 0
    assert events(router) == ["start a"]


def test_an_engine_that_dies_in_mid_stream_ends_it_with_an_error_and_the_next_request_starts_it(
    router: Router,
) -> None:
    router.write({"a": router.standin("a", interval=0.05, tokens=100)})
    router.start()
    ask(router, "a", max_tokens=1)
    (pid,) = router.engine_pids().values()
    with ThreadPoolExecutor() as pool:
        stream = pool.submit(ask, router, "a", stream=True)
        wait_until(lambda: in_flight(router, "a") == 1, "it streams")
        wait_until(lambda: len(router.requests()) == 2, "the engine has it")
        os.kill(pid, signal.SIGKILL)
        assert last_error(stream.result().text)["code"] == "engine_failed"
    assert ask(router, "a", max_tokens=1).status_code == 200


def test_an_engine_that_ends_while_idle_is_seen_at_once_and_brought_back(router: Router) -> None:
    router.write({"a": router.standin("a", fault="die-idle", die_after=0.3)})
    router.start()
    ask(router, "a")
    wait_until(lambda: router.health()["current_model"] is None, "its end is seen")
    assert "the engine of a is gone" in (router.dir / "router.log").read_text()
    assert ask(router, "a").status_code == 200


def test_a_program_that_cannot_be_started_is_named(router: Router) -> None:
    broken = {**router.standin("broken"), "command": ["/nonexistent/engine"]}
    router.write({"good": router.standin("good"), "broken": broken})
    router.start()
    ask(router, "good")
    error = ask(router, "broken").json()["error"]
    assert error["code"] == "model_unavailable"
    assert "/nonexistent/engine cannot be started" in error["message"]
    wait_until(lambda: router.health()["current_model"] == "good", "the former model is back")


def test_a_client_that_leaves_in_mid_stream_gives_its_lease_back(router: Router) -> None:
    endless = router.standin("a", interval=0.05, tokens=10_000)
    router.write({"a": endless, "b": router.standin("b")})
    router.start()
    ask(router, "a", max_tokens=1)
    body = {"model": "a", "messages": HELLO, "stream": True}
    with httpx.stream("POST", router.url + CHAT, json=body, timeout=30) as response:
        chunks = response.iter_raw()
        next(chunks)
        assert in_flight(router, "a") == 1
    wait_until(lambda: in_flight(router, "a") == 0, "its lease is free")
    assert ask(router, "b").status_code == 200


def test_a_client_that_leaves_while_it_waits_causes_no_switch(router: Router) -> None:
    slow = router.standin("a", interval=0.05, tokens=10_000)
    router.write({"a": slow, "b": router.standin("b")})
    router.start()
    ask(router, "a", max_tokens=1)
    body = {"model": "a", "messages": HELLO, "stream": True}
    with httpx.stream("POST", router.url + CHAT, json=body, timeout=30) as response:
        chunks = response.iter_raw()
        next(chunks)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(router.url + CHAT, json={"model": "b", "messages": HELLO}, timeout=0.3)
        wait_until(lambda: router.status()["models"]["b"]["waiting"] == 0, "its place is free")
        assert in_flight(router, "a") == 1
    wait_until(lambda: in_flight(router, "a") == 0, "the stream is gone")
    assert router.health()["current_model"] == "a"
    assert events(router) == ["start a"]


def test_a_configuration_that_is_reloaded_in_the_middle_of_a_switch_does_not_end_it(
    router: Router,
) -> None:
    a, b = router.standin("a"), router.standin("b", load=1)
    router.write({"a": a, "b": b})
    router.start()
    ask(router, "a")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(ask, router, "b")
        wait_until(lambda: "child_b" in router.engine_pids(), "b loads")
        router.write({"a": a, "b": b, "c": router.standin("c")})
        # it may have seen the file by itself before
        httpx.post(router.url + "/admin/reload", json={}, timeout=20).raise_for_status()
        assert waiting.result().status_code == 200
    assert events(router) == ["start a", "stop a", "start b"]
    assert ask(router, "c").status_code == 200


def test_an_engine_that_dies_while_others_wait_makes_way_for_them(router: Router) -> None:
    endless = router.standin("a", interval=0.05, tokens=4000)
    router.write({"a": endless, "b": router.standin("b")})
    router.start()
    ask(router, "a", max_tokens=1)
    (pid,) = router.engine_pids().values()
    with ThreadPoolExecutor() as pool:
        stream = pool.submit(ask, router, "a", stream=True)
        wait_until(lambda: in_flight(router, "a") == 1, "it streams")
        waiting = pool.submit(ask, router, "b")
        wait_until(lambda: router.status()["models"]["b"]["waiting"] == 1, "another waits")
        os.kill(pid, signal.SIGKILL)
        assert waiting.result().status_code == 200
        assert last_error(stream.result().text)["code"] == "engine_failed"
