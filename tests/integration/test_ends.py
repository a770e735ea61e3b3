"""How requests end when it is not by their engine's last word: cut, stopped, stalled, cancelled."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from .conftest import Router, wait_until

pytestmark = pytest.mark.long

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hi"}]


def ask(router: Router, model: str, **extra: Any) -> httpx.Response:
    body = {"model": model, "messages": HELLO, **extra}
    return httpx.post(router.url + CHAT, json=body, timeout=30)


def in_flight(router: Router, model: str) -> int:
    return int(router.status()["models"][model]["in_flight"])


def last_error(stream: str) -> dict[str, Any]:
    """The error with which a stream ended; it has one, and then ``[DONE]``, and nothing else."""
    events = [line.removeprefix("data: ") for line in stream.splitlines() if line]
    assert events[-1] == "[DONE]"
    assert events.count("[DONE]") == 1
    return dict(json.loads(events[-2])["error"])


def endless_and_other(router: Router, **scheduler: Any) -> None:
    endless = router.standin("a", interval=0.05, tokens=400)
    router.write({"a": endless, "b": router.standin("b")}, scheduler={"max_wait": 0, **scheduler})
    router.start()
    ask(router, "a", max_tokens=1)


def test_answers_that_outlast_the_drain_are_cut_with_an_error(router: Router) -> None:
    endless_and_other(router, drain_timeout=0.5)
    with ThreadPoolExecutor() as pool:
        stream = pool.submit(ask, router, "a", stream=True)
        wait_until(lambda: in_flight(router, "a") == 1, "it streams")
        began = time.monotonic()
        assert ask(router, "b").status_code == 200
        assert time.monotonic() - began < 5
        assert last_error(stream.result().text)["code"] == "answer_cut"
    assert router.status()["models"]["a"]["in_flight"] == 0


def test_answers_may_be_left_to_finish(router: Router) -> None:
    slow = router.standin("a", interval=0.1, tokens=15)
    router.write(
        {"a": slow, "b": router.standin("b")},
        scheduler={"max_wait": 0, "drain_timeout": 0.2, "after_drain_timeout": "finish"},
    )
    router.start()
    ask(router, "a", max_tokens=1)
    with ThreadPoolExecutor() as pool:
        stream = pool.submit(ask, router, "a", stream=True)
        wait_until(lambda: in_flight(router, "a") == 1, "it streams")
        assert ask(router, "b").status_code == 200
        assert '"w14 "' in stream.result().text
        assert '"error"' not in stream.result().text


def test_a_client_that_takes_nothing_loses_its_lease_and_holds_up_nobody(router: Router) -> None:
    flood = router.standin("a", tokens=200_000)
    router.write(
        {"a": flood, "b": router.standin("b")},
        requests={"client_timeout": 1},
        scheduler={"drain_timeout": 60, "max_wait": 0},
    )
    router.start()
    ask(router, "a", max_tokens=1)
    body = json.dumps({"model": "a", "messages": HELLO, "stream": True}).encode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", router.port))
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        wait_until(lambda: in_flight(router, "a") == 1, "it has its lease")
        # other people's answers go on meanwhile
        assert ask(router, "a", max_tokens=3).status_code == 200
        began = time.monotonic()
        assert ask(router, "b").status_code == 200
        assert time.monotonic() - began < 15


def test_a_router_that_stops_tells_who_waits(router: Router) -> None:
    router.write({"a": router.standin("a", load=20)})
    router.start()
    with ThreadPoolExecutor() as pool:
        whole = pool.submit(ask, router, "a")
        stream = pool.submit(ask, router, "a", stream=True)
        wait_until(lambda: router.status()["models"]["a"]["waiting"] == 2, "two wait")
        began = time.monotonic()
        router.stop()
        assert time.monotonic() - began < 8
        assert whole.result().status_code == 503
        assert whole.result().json()["error"]["code"] == "router_stopping"
        assert whole.result().headers["retry-after"] == "5"
        assert last_error(stream.result().text)["code"] == "router_stopping"


def test_a_router_that_stops_lets_answers_end_for_a_time_and_then_ends_them(
    router: Router,
) -> None:
    router.write(
        {"a": router.standin("a", interval=0.05, tokens=400)}, requests={"shutdown_timeout": 0.5}
    )
    router.start()
    ask(router, "a", max_tokens=1)
    with ThreadPoolExecutor() as pool:
        stream = pool.submit(ask, router, "a", stream=True)
        short = pool.submit(ask, router, "a", stream=True, max_tokens=4)
        wait_until(lambda: in_flight(router, "a") == 2, "both stream")
        router.stop()
        assert last_error(stream.result().text)["code"] == "router_stopping"
        assert '"w3 "' in short.result().text
        assert '"error"' not in short.result().text


def test_an_engine_that_falls_silent_is_a_timeout_and_is_not_restarted(router: Router) -> None:
    router.write({"a": router.standin("a", first=0)}, requests={"idle_timeout": 0.5})
    router.start()
    ask(router, "a")
    (pid,) = router.engine_pids().values()
    os.kill(pid, signal.SIGSTOP)
    try:
        answer = ask(router, "a")
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "engine_timeout"
        assert router.engine_pids() == {"child_a": pid}
    finally:
        os.kill(pid, signal.SIGCONT)
    assert ask(router, "a").status_code == 200


def test_a_router_that_was_stopped_for_a_time_believes_no_engine_silent(router: Router) -> None:
    """As by `docker pause`, or a laptop's suspend: what engines sent lies in the sockets."""
    tokens = 150
    router.write(
        {"a": router.standin("a", interval=0.02, tokens=tokens)}, requests={"idle_timeout": 0.4}
    )
    router.start()
    ask(router, "a", max_tokens=1)
    assert router.process is not None
    with ThreadPoolExecutor() as pool:
        streams = [pool.submit(ask, router, "a", stream=True) for _ in range(4)]
        wait_until(lambda: in_flight(router, "a") == 4, "all stream")
        router.process.send_signal(signal.SIGSTOP)
        time.sleep(1.0)  # longer than the idle time
        router.process.send_signal(signal.SIGCONT)
        for stream in streams:
            text = stream.result().text
            assert '"error"' not in text, text[-500:]
            assert text.count('"content"') >= tokens


def test_an_unload_during_a_switch_is_refused_and_a_switch_can_be_cancelled(
    router: Router,
) -> None:
    router.write({"a": router.standin("a"), "b": router.standin("b", load=20)})
    router.start()
    ask(router, "a")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(ask, router, "b")
        wait_until(lambda: "child_b" in router.engine_pids(), "b loads")
        assert router.health()["current_model"] is None
        refused = httpx.post(router.url + "/admin/unload", json={})
        assert refused.status_code == 409
        assert refused.json()["error"]["code"] == "switch_running"
        cancelled = httpx.post(router.url + "/admin/cancel", json={}, timeout=20).json()
        assert cancelled == {"changed": True, "group": "default"}
        assert waiting.result().status_code == 503
        assert "an operator cancelled the switch" in waiting.result().json()["error"]["message"]
    wait_until(lambda: router.health()["current_model"] == "a", "the former model is back")
    assert router.health()["status"] == "healthy"
    assert httpx.post(router.url + "/admin/cancel", json={}).json()["changed"] is False


def test_a_pinned_model_stays_and_who_cannot_wait_is_told_how_long(router: Router) -> None:
    router.write({"a": router.standin("a"), "b": router.standin("b")}, scheduler={"max_wait": 1})
    router.start()
    pin = {"model": "a", "seconds": 100}
    assert httpx.post(router.url + "/admin/pin", json=pin, timeout=20).json() == pin
    refused = ask(router, "b")
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "model_pinned"
    assert 90 < int(refused.headers["retry-after"]) <= 100
    assert router.status()["groups"]["default"]["pinned"]["model"] == "a"
    httpx.post(router.url + "/admin/pin", json={"model": "a", "seconds": 0}).raise_for_status()
    assert ask(router, "b").status_code == 200


def test_a_request_may_say_how_long_its_model_stays(router: Router) -> None:
    router.write({"a": router.standin("a")})
    router.start()
    assert ask(router, "a", keep_alive="10m").status_code == 200
    assert "keep_alive" not in router.requests()[-1]
    assert ask(router, "a", keep_alive=0).status_code == 200
    wait_until(lambda: router.engine_pids() == {}, "it is unloaded", 5)
    assert ask(router, "a", keep_alive="soon").status_code == 400


def test_a_head_that_does_not_come_costs_no_connection_for_long(router: Router) -> None:
    router.write(
        {"a": router.standin("a")}, requests={"header_timeout": 0.5, "client_timeout": 0.7}
    )
    router.start()
    for beginning in (b"", b"POST /v1/chat/completions HTTP/1.1\r\nhost: "):
        with socket.create_connection(("127.0.0.1", router.port), timeout=10) as client:
            client.sendall(beginning)
            began = time.monotonic()
            assert client.recv(1) == b""
            assert 0.4 < time.monotonic() - began < 5
    # the next head on a connection has the same bound, and a whole one is not hurried
    with socket.create_connection(("127.0.0.1", router.port), timeout=10) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"]}"):
            answer += client.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200")
        client.sendall(b"GET /health")
        assert client.recv(1) == b""
    assert ask(router, "a", stream=True, max_tokens=3).status_code == 200
    with socket.create_connection(("127.0.0.1", router.port), timeout=10) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{"
        )
        assert b"408" in client.recv(65536).splitlines()[0]


def test_a_router_that_is_told_to_stop_cleans_up_and_ends_well(router: Router) -> None:
    router.write({"a": router.standin("a")})
    for number in (signal.SIGTERM, signal.SIGINT):
        router.start()
        assert (router.dir / "admin.sock").is_socket()
        assert router.stop(number) == 0
        assert not (router.dir / "admin.sock").exists()
