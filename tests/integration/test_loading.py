"""Loads that are slower than their timeout, or hang; memory that must be free before them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from .conftest import Router, wait_until
from .with_memory import write_gpus

GIB = 2**30
CHAT = "/v1/chat/completions"
SLOW = {"timeout": 1.2, "stall_timeout": 2.5, "max_timeout": 20, "stop_timeout": 0.5}


def ask(router: Router, model: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    return httpx.post(router.url + CHAT, json=body, timeout=60)


@pytest.mark.long
def test_a_slow_load_that_goes_on_is_waited_for_and_shown(router: Router) -> None:
    slow = router.standin("slow", engine="vllm", load=4, shards=16)
    router.write({"slow": {**slow, "backend": "vllm"}}, switch=SLOW, status={"interval": 0.5})
    router.start()
    body = {"model": "slow", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    told, shown = "", []
    with httpx.stream("POST", router.url + CHAT, json=body, timeout=60) as response:
        for line in response.iter_lines():
            told += line
            if "%)" in line:
                # none any more, if the line that was read is the last before it was ready
                for switch in router.status()["switches"]:
                    shown += [step.get("progress") for step in switch["steps"]]
    assert "Model ready!" in told
    percents = [int(part.rpartition("(")[2]) for part in told.split("%)")[:-1]]
    assert len(set(percents)) > 1
    assert percents == sorted(percents)
    assert any(part for part in shown if part is not None)


COMPILES = {"timeout": 3, "stall_timeout": 5, "max_timeout": 60, "stop_timeout": 0.5}


def told_in(router: Router, style: str, seen: Callable[[], None]) -> str:
    """All that the client of a stream reads; ``seen`` is called for each line about kernels."""
    body = {"model": "slow", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    told, headers = "", {"x-llm-router-status": style}
    with httpx.stream("POST", router.url + CHAT, json=body, headers=headers, timeout=600) as reply:
        for line in reply.iter_lines():
            told += line
            if "compiling" in line:
                seen()
    return told


@pytest.mark.long
def test_a_first_load_that_compiles_is_waited_for_and_says_why(router: Router) -> None:
    seconds = float(os.environ.get("ROUNDHOUSE_COMPILE_SECONDS", "6"))
    kernels = router.dir / "kernels"
    entry = router.standin("slow", engine="sglang", compile=str(seconds), kernels=kernels)
    router.write(
        {"slow": {**entry, "backend": "sglang"}, "b": router.standin("b")},
        switch={**COMPILES, "timeout": min(180, seconds / 2), "first_timeout": 60 + seconds},
        status={"interval": 0.5},
    )
    router.start()
    why = "compiling kernels (first start)"
    health: set[str | None] = set()
    shown: set[str | None] = set()
    plain: list[str] = []

    def look() -> None:
        health.add(httpx.get(router.url + "/health").json().get("loading", {}).get("slow"))
        health.add(httpx.get(router.url + "/health", params={"model": "slow"}).json().get("doing"))
        switches = router.status()["switches"]
        shown.update(step.get("doing") for one in switches for step in one["steps"])
        plain.extend([] if plain else [router.cli("status").stdout])

    began = time.monotonic()
    with ThreadPoolExecutor() as pool:
        styles = ("content", "event", "reasoning", "off")
        looks = (look, *[lambda: None] * 3)
        answers = list(pool.map(told_in, [router] * 4, styles, looks))
    assert time.monotonic() - began > seconds
    assert [why in told for told in answers] == [True, True, True, False]
    assert all("[DONE]" in told and '"error"' not in told for told in answers)
    # after the last line the model may be ready
    assert why in health
    assert why in shown
    assert f"WaitUntilReady, {why}" in plain[0]
    # what it has compiled is there: its next start takes no longer than any other
    assert ask(router, "b").status_code == 200
    began = time.monotonic()
    assert ask(router, "slow").status_code == 200
    assert time.monotonic() - began < seconds
    assert "loading" not in httpx.get(router.url + "/health").json()


def test_a_release_loads_each_model_once_before_anybody_waits_for_it(router: Router) -> None:
    program, folder = sys.executable, router.dir / "engines"
    for release in ("1", "2"):
        (folder / release).mkdir(parents=True)
        (folder / release / "python").symlink_to(program)
    (folder / "current").symlink_to("1")
    entry = router.standin("slow")
    entry["command"] = [str(folder / "current/python"), *entry["command"][1:]]
    router.write({"slow": entry, "b": router.standin("b")}, switch=COMPILES)
    router.start()
    assert ask(router, "b").status_code == 200

    def first_load(**more: bool) -> bool:
        url, body = router.url + "/admin/first-load", {"model": "slow", **more}
        answer = httpx.post(url, json=body, timeout=60).raise_for_status().json()
        assert answer["model"] == "slow"
        return bool(answer["changed"])

    def loaded() -> str:
        return str(router.status()["groups"]["default"]["loaded"])

    assert first_load(dry_run=True)
    assert loaded() == "b"
    assert first_load()
    assert loaded() == "slow"
    assert not first_load()
    assert ask(router, "b").status_code == 200
    assert not first_load()
    # known to the next router, too, and gone with the next release
    router.stop()
    router.start()
    assert not first_load()
    (folder / "new").symlink_to("2")
    (folder / "new").rename(folder / "current")
    assert first_load()
    assert not first_load()


@pytest.mark.timing
def test_after_three_switches_the_next_ones_time_is_known(router: Router) -> None:
    """Within a fifth, of a load that takes a while: what a countdown says is what it takes."""
    router.write({"slow": router.standin("slow", load=1.5), "b": router.standin("b")})
    router.start()

    def seconds(model: str) -> float:
        answer = httpx.post(router.url + "/admin/switch", json={"model": model}, timeout=60)
        return float(answer.raise_for_status().json()["seconds"])

    seconds("b")
    for _ in range(3):
        seconds("slow")
        seconds("b")
    plan = httpx.get(router.url + "/admin/plan", params={"model": "slow"}).json()
    took = seconds("slow")
    assert abs(plan["expected_seconds"] - took) < 0.2 * took


@pytest.mark.long
def test_a_load_that_stands_still_ends_and_says_where(router: Router) -> None:
    stuck = router.standin("stuck", engine="vllm", load=4, shards=10, fault="stuck-load")
    router.write({"stuck": {**stuck, "backend": "vllm"}}, switch=SLOW)
    router.start()
    began = time.monotonic()
    answer = ask(router, "stuck")
    assert "it came no further than weights 50% (5/10)" in answer.json()["error"]["message"]
    assert time.monotonic() - began < 8
    assert router.engine_pids() == {}


@pytest.fixture
def gpus(router: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The router has one GPU with 80 GiB, of which one is used."""
    path = tmp_path / "gpus.json"
    write_gpus(path, 80 * GIB, 79 * GIB, {})
    monkeypatch.setenv("GPUS", str(path))
    router.module = "tests.integration.with_memory"
    return path


@pytest.mark.long
def test_the_next_engine_starts_when_the_memory_is_free_and_not_before(
    router: Router, gpus: Path
) -> None:
    router.write({"a": router.standin("a"), "b": router.standin("b")})
    router.start()
    assert ask(router, "a").status_code == 200
    pid = router.engine_pids()["child_a"]
    write_gpus(gpus, 80 * GIB, 9 * GIB, {pid: 70 * GIB})
    plan = httpx.get(router.url + "/admin/plan", params={"model": "b"}).json()["steps"]
    assert [step["step"] for step in plan][:4] == ["Drain", "Stop", "WaitForMemory", "Activate"]
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(ask, router, "b")
        wait_until(lambda: "child_a" not in router.engine_pids(), "a is stopped")
        time.sleep(0.5)
        assert "b" not in router.events.read_text(encoding="utf-8").split()
        write_gpus(gpus, 80 * GIB, 79 * GIB, {})
        freed = time.monotonic()
        assert answer.result(10).status_code == 200
        assert time.monotonic() - freed < 1


@pytest.mark.long
def test_memory_that_does_not_come_back_is_told_counted_and_not_waited_for_twice(
    router: Router, gpus: Path
) -> None:
    router.write(
        {"a": router.standin("a"), "b": router.standin("b")},
        switch={"timeout": 20, "stop_timeout": 5, "memory_timeout": 0.5, "on_failure": "stop"},
    )
    router.start()
    assert ask(router, "a").status_code == 200
    pid = router.engine_pids()["child_a"]
    write_gpus(gpus, 80 * GIB, 9 * GIB, {pid: 70 * GIB})
    answer = ask(router, "b")
    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    error = answer.json()["error"]["message"]
    assert f"process {pid} " in error
    assert "WaitForMemory of 'a' failed: GPU 0 has 9.7 GB free of the 84.8 GB" in error
    metrics = httpx.get(router.url + "/metrics").text
    assert 'llm_router_gpu_memory_not_released_total{model="a"} 1.0' in metrics
    assert router.status()["models"]["b"].get("failures", 0) == 0
    assert ask(router, "b").status_code == 200


@pytest.mark.long
def test_a_sleeper_that_keeps_its_memory_is_stopped(router: Router, gpus: Path) -> None:
    folder = router.dir / "weights"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    a = router.standin("a", engine="vllm", flags="dev")
    a |= {"backend": "vllm", "residency": "sleep", "model_path": str(folder)}
    router.write(
        {"a": a, "b": router.standin("b")},
        switch={"timeout": 20, "stop_timeout": 5, "memory_timeout": 0.5},
    )
    router.start()
    assert ask(router, "a").status_code == 200
    write_gpus(gpus, 80 * GIB, 9 * GIB, {router.engine_pids()["child_a"]: 70 * GIB})
    with ThreadPoolExecutor() as pool:
        url = router.url + "/admin/switch"
        answer = pool.submit(lambda: httpx.post(url, json={"model": "b"}, timeout=60))
        wait_until(lambda: "child_a" not in router.engine_pids(), "a is stopped")
        write_gpus(gpus, 80 * GIB, 79 * GIB, {})
        steps = [step["step"] for step in answer.result(20).json()["steps"]]
    assert steps[:6] == ["Drain", "Sleep", "WaitForMemory", "Stop", "WaitForMemory", "Activate"]
