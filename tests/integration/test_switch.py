"""Switching between models on child processes: order, sharing, failures, what survives."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import Router, wait_until

CHAT = "/v1/chat/completions"


def ask(router: Router, model: str, **extra: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **extra}
    return httpx.post(router.url + CHAT, json=body, timeout=30)


def events(router: Router) -> list[str]:
    return [line.split(" ", 1)[1] for line in router.events.read_text().splitlines()]


def test_the_first_engine_is_gone_before_the_second_starts(router: Router) -> None:
    router.write({"a": router.standin("a"), "b": router.standin("b")})
    router.start()
    assert ask(router, "a").status_code == 200
    assert router.health()["current_model"] == "a"
    assert ask(router, "b").status_code == 200
    assert events(router) == ["start a", "stop a", "start b"]
    assert list(router.engine_pids()) == ["child_b"]


def test_a_running_stream_finishes_before_the_switch(router: Router) -> None:
    slow = router.standin("a", interval=0.1, tokens=10)
    router.write({"a": slow, "b": router.standin("b")})
    router.start()
    ask(router, "a", max_tokens=1)
    with ThreadPoolExecutor() as pool:
        stream = pool.submit(ask, router, "a", stream=True)
        wait_until(lambda: router.status()["models"]["a"]["in_flight"] == 1, "the stream runs")
        assert ask(router, "b").status_code == 200
        text = stream.result().text
    assert "w9" in text
    assert text.endswith("data: [DONE]\n\n")
    assert "error" not in text


def test_requests_for_one_cold_model_share_one_switch(router: Router) -> None:
    router.write({"a": router.standin("a", load=0.5)})
    router.start()
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: ask(router, "a"), range(12)))
    assert {answer.status_code for answer in answers} == {200}
    assert events(router) == ["start a"]


def test_a_client_that_leaves_does_not_stop_the_switch_of_others(router: Router) -> None:
    router.write({"a": router.standin("a", load=1)})
    router.start()
    with ThreadPoolExecutor() as pool:
        other = pool.submit(ask, router, "a")
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(router.url + CHAT, json={"model": "a", "messages": []}, timeout=0.3)
        assert other.result().status_code == 200
    wait_until(lambda: router.status()["models"]["a"]["in_flight"] == 0, "no lease is left")
    assert events(router) == ["start a"]


def test_a_killed_engine_is_brought_back_by_the_next_request(router: Router) -> None:
    router.write({"a": router.standin("a")})
    router.start()
    ask(router, "a")
    first = router.engine_pids()["child_a"]
    os.kill(first, signal.SIGKILL)
    assert ask(router, "a").status_code == 200
    assert router.engine_pids()["child_a"] != first


def test_a_killed_router_finds_its_engine_again(router: Router) -> None:
    router.write({"a": router.standin("a")})
    router.start()
    ask(router, "a")
    engine = router.engine_pids()
    router.stop(signal.SIGKILL)
    router.start()
    assert router.health()["current_model"] == "a"
    answer = ask(router, "a")
    assert answer.status_code == 200
    assert float(answer.headers["x-llm-router-switch-seconds"]) == 0.0
    assert router.engine_pids() == engine


def test_a_router_killed_while_it_loads_goes_on_loading(router: Router) -> None:
    router.write({"a": router.standin("a", load=2)})
    router.start()
    with ThreadPoolExecutor() as pool:
        pending = pool.submit(ask, router, "a")
        wait_until(lambda: bool(router.engine_pids()), "the engine starts")
        engine = router.engine_pids()
        router.stop(signal.SIGKILL)
        assert isinstance(pending.exception(), httpx.TransportError)
    router.start()
    assert ask(router, "a").status_code == 200
    assert router.engine_pids() == engine
    assert events(router) == ["start a"]


def test_an_orderly_stop_takes_the_engines_along(router: Router) -> None:
    router.write({"a": router.standin("a")})
    router.start()
    ask(router, "a")
    router.stop()
    assert router.engine_pids() == {}
    assert events(router) == ["start a", "stop a"]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("exit-while-loading", "ended while it loaded (exit code 3)"),
        ("no-token", "no first token: 500"),
    ],
)
def test_a_failed_load_is_told_and_the_former_model_comes_back(
    router: Router, fault: str, says: str
) -> None:
    bad = router.standin("bad", load=0.2, fault=fault)
    router.write({"good": router.standin("good"), "bad": bad})
    router.start()
    ask(router, "good")
    answer = ask(router, "bad")
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["code"] == "model_unavailable"
    assert says in error["message"]
    if fault == "exit-while-loading":
        assert error["log_lines"] == ["CUDA out of memory, says the stand-in"]
    wait_until(lambda: router.health()["current_model"] == "good", "the former model is back")
    assert router.health()["status"] == "degraded"
    assert says in router.health()["failures"]["bad"]
    assert list(router.engine_pids()) == ["child_good"]


def test_a_model_that_never_gets_ready_fails_at_its_deadline(router: Router) -> None:
    bad = {**router.standin("bad", fault="never-ready"), "timeout": 0.6}
    router.write({"bad": bad})
    router.start()
    began = time.monotonic()
    answer = ask(router, "bad")
    assert "not done within 0.6 s" in answer.json()["error"]["message"]
    assert time.monotonic() - began < 3
    assert router.engine_pids() == {}


def test_after_three_failures_a_model_is_refused_at_once_until_cleared(router: Router) -> None:
    router.write({"bad": router.standin("bad", load=0.1, fault="exit-while-loading")})
    router.start()
    for _ in range(3):
        assert ask(router, "bad").status_code == 503
    starts = len(events(router))
    assert "3 times in a row" in ask(router, "bad").json()["error"]["message"]
    assert len(events(router)) == starts
    httpx.post(router.url + "/admin/clear", json={"model": "bad"}).raise_for_status()
    ask(router, "bad")
    assert len(events(router)) == starts + 1


def test_an_engine_that_ignores_sigterm_is_killed(router: Router) -> None:
    stubborn = router.standin("a", fault="ignore-term")
    router.write(
        {"a": stubborn, "b": router.standin("b")}, switch={"timeout": 10, "stop_timeout": 0.5}
    )
    router.start()
    ask(router, "a")
    assert ask(router, "b").status_code == 200
    assert list(router.engine_pids()) == ["child_b"]


def test_a_port_that_another_process_holds_is_named(router: Router) -> None:
    import socket

    model = router.standin("a")
    router.write({"a": model}, switch={"timeout": 1, "stop_timeout": 5})
    router.start()
    with socket.create_server(("127.0.0.1", model["port"])):
        message = ask(router, "a").json()["error"]["message"]
    assert f"port {model['port']} is in use by another process" in message or "not done" in message
    assert not router.events.exists()


def test_steady_traffic_does_not_starve_another_model(router: Router) -> None:
    busy = router.standin("a", interval=0.05, tokens=6)
    router.write(
        {"a": busy, "b": router.standin("b")}, scheduler={"max_wait": 0.8, "min_residency": 0}
    )
    router.start()
    ask(router, "a", max_tokens=1)
    enough = threading.Event()

    def traffic() -> None:
        while not enough.is_set():
            ask(router, "a")

    with ThreadPoolExecutor() as pool:
        for _ in range(4):
            pool.submit(traffic)
        wait_until(lambda: router.status()["models"]["a"]["in_flight"] > 1, "traffic flows")
        began = time.monotonic()
        answer = ask(router, "b")
        waited = time.monotonic() - began
        enough.set()
    assert answer.status_code == 200
    assert waited < 3


@pytest.mark.timing
def test_switch_overhead_with_an_engine_that_is_ready_at_once(router: Router) -> None:
    """The issue's bound: 0.25 s from the request to the first byte of the answer, at the median."""
    router.write({"a": router.standin("a"), "b": router.standin("b")})
    router.start()
    ask(router, "a")
    times = []
    for turn in range(9):
        model = "b" if turn % 2 == 0 else "a"
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        began = time.monotonic()
        with httpx.stream(
            "POST", router.url + CHAT, json=body, headers={"x-llm-router-status": "off"}
        ) as response:
            next(response.iter_raw())
            times.append(time.monotonic() - began)
            assert response.headers["x-llm-router-model"] == model
    assert sorted(times)[len(times) // 2] < 0.25, times


def test_models_of_different_groups_run_side_by_side(router: Router) -> None:
    router.write(
        {
            "a": {**router.standin("a"), "group": "gpu0"},
            "b": {**router.standin("b"), "group": "gpu1"},
        }
    )
    router.start()
    ask(router, "a")
    ask(router, "b")
    assert set(router.engine_pids()) == {"child_a", "child_b"}


def test_the_command_line_switches_plans_and_shows(router: Router, tmp_path: Path) -> None:
    router.write({"a": router.standin("a"), "b": router.standin("b")})
    router.start()
    assert "a is loaded" in router.cli("switch", "a").stdout
    assert router.cli("switch", "a").stdout == "a is loaded already\n"
    plan = router.cli("plan", "b").stdout.splitlines()
    assert [line.split(" (")[0] for line in plan] == [
        "Drain a",
        "Stop a",
        "Activate b",
        "Start b",
        "WaitUntilReady b",
        "WarmUp b",
    ]
    assert "a  loaded" in router.cli("status").stdout
    unknown = router.cli("switch", "c")
    assert unknown.returncode == 1
    assert unknown.stderr == "The model 'c' does not exist. Known models: a, b.\n"
