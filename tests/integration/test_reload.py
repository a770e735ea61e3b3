"""A new configuration under a running router."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import Router, free_port, wait_until

pytestmark = pytest.mark.long

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hi"}]


def ask(router: Router, model: str, **extra: Any) -> httpx.Response:
    body = {"model": model, "messages": HELLO, **extra}
    return httpx.post(router.url + CHAT, json=body, timeout=30)


def reload(router: Router, **body: Any) -> dict[str, Any]:
    return dict(httpx.post(router.url + "/admin/reload", json=body, timeout=20).json())


def names(router: Router) -> list[str]:
    return [entry["id"] for entry in httpx.get(router.url + "/v1/models").json()["data"]]


def test_what_did_not_change_is_not_touched(router: Router) -> None:
    a = router.standin("a", interval=0.1, tokens=15)
    router.write({"a": a})
    router.start()
    ask(router, "a", max_tokens=1)
    engines = router.engine_pids()
    with ThreadPoolExecutor() as pool:
        stream = pool.submit(ask, router, "a", stream=True)
        wait_until(lambda: router.status()["models"]["a"]["in_flight"] == 1, "it streams")
        router.write({"a": {**a, "ttl": 100}, "b": router.standin("b")}, status={"interval": 3})
        dry = reload(router, dry_run=True)
        assert (dry["changed"], dry["added"], names(router)) == (True, ["b"], ["a"])
        changes = reload(router)
        assert changes["added"] == ["b"]
        assert changes["updated"] == ["a"]
        assert changes["config"] == ["status.interval"]
        assert names(router) == ["a", "b"]
        assert '"w14 "' in stream.result().text
    assert router.engine_pids() == engines
    assert reload(router)["changed"] is False
    assert ask(router, "b").status_code == 200


def test_a_removed_model_is_unloaded_when_its_answers_have_ended(router: Router) -> None:
    a = router.standin("a", interval=0.1, tokens=10)
    b = router.standin("b")
    router.write({"a": a, "b": b})
    router.start()
    ask(router, "a", max_tokens=1)
    with ThreadPoolExecutor() as pool:
        stream = pool.submit(ask, router, "a", stream=True)
        wait_until(lambda: router.status()["models"]["a"]["in_flight"] == 1, "it streams")
        router.write({"b": b})
        assert reload(router)["removed"] == ["a"]
        assert ask(router, "a").status_code == 404
        assert '"w9 "' in stream.result().text
    wait_until(lambda: router.engine_pids() == {}, "its engine is stopped", 5)
    assert ask(router, "b").status_code == 200


def test_a_model_that_waits_and_is_removed_is_told_to_its_clients(router: Router) -> None:
    a, b = router.standin("a", load=20), router.standin("b")
    router.write({"a": a, "b": b})
    router.start()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(ask, router, "a")
        wait_until(lambda: bool(router.engine_pids()), "it loads")
        router.write({"b": b})
        reload(router)
        assert waiting.result().status_code == 404
        httpx.post(router.url + "/admin/cancel", json={}, timeout=20)
    assert ask(router, "b").status_code == 200
    assert list(router.engine_pids()) == ["child_b"]


def test_a_changed_engine_is_started_anew_for_the_next_request(router: Router) -> None:
    a = router.standin("a", tokens=3)
    router.write({"a": a})
    router.start()
    assert ask(router, "a").json()["usage"]["completion_tokens"] == 3
    before = router.engine_pids()
    router.write({"a": router.standin("a", tokens=4)})
    assert reload(router)["relaunch"] == ["a"]
    assert ask(router, "a").json()["usage"]["completion_tokens"] == 4
    assert router.engine_pids().keys() == before.keys()
    assert router.engine_pids() != before


def test_mistakes_are_refused_and_the_old_configuration_goes_on(router: Router) -> None:
    a = router.standin("a")
    router.write({"a": a})
    router.start()
    router.write({"a": {**a, "backend": "nonsense"}})
    answer = httpx.post(router.url + "/admin/reload", json={})
    assert answer.status_code == 409
    error = answer.json()["error"]
    assert error["code"] == "config_invalid"
    assert "models.yml:" in error["log_lines"][0]
    assert "nonsense" in error["log_lines"][0]
    assert ask(router, "a").status_code == 200


def test_files_are_watched_and_sighup_works_too(router: Router) -> None:
    a = router.standin("a")
    router.write({"a": a})
    router.start()
    router.write({"a": a, "b": router.standin("b")})
    wait_until(lambda: names(router) == ["a", "b"], "the change is seen", 10)
    (router.dir / "models.yml").write_text("models: {")
    log = router.dir / "router.log"
    wait_until(lambda: "is refused, the old one goes on" in log.read_text(), "it is refused", 10)
    assert names(router) == ["a", "b"]
    assert router.process is not None
    router.write({"a": a})
    router.process.send_signal(signal.SIGHUP)
    wait_until(lambda: names(router) == ["a"], "the change is seen", 10)


def test_what_needs_a_restart_is_said(router: Router) -> None:
    a = router.standin("a")
    router.write({"a": a})
    router.start()
    router.write({"a": a}, listen={"port": free_port()})
    assert reload(router)["restart"] == ["listen.port"]
    assert router.health()["status"] == "healthy"


def test_a_router_with_a_thousand_models_is_there_within_three_seconds(router: Router) -> None:
    """Of its own processor time: other work of the machine is not in it."""
    entry = {"backend": "command", "command": ["sleep", "60"], "port": 9000}
    router.write({f"model-{n}": {**entry, "aliases": [f"alias-{n}"]} for n in range(1000)})
    router.start()
    assert router.process is not None
    fields = Path(f"/proc/{router.process.pid}/stat").read_text().rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    assert (int(fields[11]) + int(fields[12])) / ticks < 3.0
    assert len(router.health()["models"]) == 1000
