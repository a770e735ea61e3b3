"""Engines that misbehave: what their clients get, and that nobody else feels it.

All behaviours run against one router, beside good streams of another model. Fast ones run one
after the other, so that the longest turn of the router's event loop has a name; slow ones, which
wait for a deadline, run side by side.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.facts import most_rss, quantile
from tests.hostile.behaviours import BEHAVIOURS, IDLE, MAX_ANSWER, Behaviour, plain, whole
from tests.hostile.behaviours import answer as chat_answer
from tests.hostile.outcome import Outcome, request
from tests.integration.conftest import ROOT, Router, free_port, wait_until

ENGINES = 10
"""Each has one behaviour at a time."""
PATIENCE = IDLE + 8.0
"""Seconds in which each request must end."""
MAX_LATE = 0.05
"""Seconds, 99 % of tokens of other models, beyond what the same engine's tokens are late
without the router."""
MAX_HEALTH = 0.05
"""Seconds, the median of health checks: more of them would measure what else runs here."""
MAX_TURN = 0.05
"""Seconds on the processor of the longest turn of the router's event loop."""
MAX_RSS = 200.0
"""MB."""
AFTER = plain("is well again", whole(chat_answer("well")), gets="200, the engine's answer")


@dataclass
class Storm:
    """What came of all behaviours."""

    router: Router
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    after: dict[str, Outcome] = field(default_factory=dict)
    """By behaviour: the next request to the same model."""
    sent: dict[str, int] = field(default_factory=dict)
    seen: dict[str, Any] = field(default_factory=dict)
    rss: float = 0.0
    began: float = 0.0
    """By `time.time`."""
    shown: dict[str, str] = field(default_factory=dict)


def hostile_engine(router: Router, name: str) -> dict[str, Any]:
    """A models.yml entry; each has a device group of its own."""
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name("engine.py")), "--port", port]
    command += ["--name", name, "--record", str(router.dir / f"{name}.jsonl")]
    paths = ["POST /script"]
    entry = {"backend": "command", "port": port, "command": command, "upstream_paths": paths}
    return {**entry, "group": name, "preload": True}


async def one(storm: Storm, behaviour: Behaviour, name: str) -> None:
    port = storm.router.port
    storm.outcomes[behaviour.name] = await request(port, behaviour, name, PATIENCE)
    storm.after[behaviour.name] = await request(port, AFTER, name, PATIENCE)


async def all_of_them(storm: Storm) -> None:
    free: asyncio.Queue[str] = asyncio.Queue()
    for number in range(ENGINES):
        free.put_nowait(f"bad{number}")

    async def next_free(behaviour: Behaviour) -> None:
        name = await free.get()
        await one(storm, behaviour, name)
        free.put_nowait(name)

    await asyncio.gather(*[next_free(behaviour) for behaviour in BEHAVIOURS])


def asked(router: Router) -> list[str]:
    """The scripts that engines were asked for."""
    return [
        line
        for file in router.dir.glob("bad*.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    ]


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storm]:
    router = Router(tmp_path_factory.mktemp("hostile"), module="bench.turns")
    good = {**router.standin("good", interval=0.02, tokens=100), "preload": True}
    models = {f"bad{number}": hostile_engine(router, f"bad{number}") for number in range(ENGINES)}
    limits = {"idle_timeout": IDLE, "max_answer": MAX_ANSWER}
    router.write({"good": good, **models}, requests=limits)
    os.environ["TURNS_BY"] = "cpu"
    router.start()
    found = Storm(router)
    try:
        wait_until(lambda: httpx.get(router.url + "/health").status_code == 200, "all is loaded")
        found.began = time.time()
        watch = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.hostile.watch"),
                *(str(router.port), str(good["port"]), "good"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        asyncio.run(all_of_them(found))
        told, _ = watch.communicate()
        found.seen = json.loads(told)
        assert router.process is not None
        found.rss = most_rss(router.process.pid)
        for path in ("/metrics", "/health", "/admin/status", "/v1/models"):
            found.shown[path] = httpx.get(router.url + path).text
        scripts = asked(router)
        for behaviour in BEHAVIOURS:
            found.sent[behaviour.name] = scripts.count(json.dumps(behaviour.script))
        yield found
    finally:
        del os.environ["TURNS_BY"]
        router.stop()
        for pid in router.engine_pids().values():
            os.killpg(pid, signal.SIGKILL)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda behaviour: behaviour.name)
def test_a_request_ends_with_one_error_or_the_engines_own_bytes(
    storm: Storm, behaviour: Behaviour
) -> None:
    outcome = storm.outcomes[behaviour.name]
    assert outcome.words(behaviour) == behaviour.gets, outcome.body[-600:]
    assert storm.sent[behaviour.name] <= behaviour.sent
    after = storm.after[behaviour.name]
    assert after.words(AFTER) == AFTER.gets, after.body[:600]


def test_streams_of_other_models_are_neither_late_nor_cut(storm: Storm) -> None:
    assert storm.seen["wrong"] == []
    assert storm.seen["answers"] > 0
    through, direct = quantile(storm.seen["through"], 0.99), quantile(storm.seen["direct"], 0.99)
    assert through - direct < MAX_LATE, (through, direct)


def test_health_answers_all_the_while(storm: Storm) -> None:
    assert quantile(storm.seen["health"], 0.5) < MAX_HEALTH


def test_memory_is_bounded(storm: Storm) -> None:
    assert storm.rss < MAX_RSS


def test_logs_on_disk_are_bounded(storm: Storm) -> None:
    def on_disk() -> int:
        logs = (storm.router.dir / "state/children").glob("*.log*")
        return sum(path.stat().st_blocks * 512 for path in logs)

    wait_until(lambda: on_disk() < 30_000_000, "the logs are cut", 5)


def test_what_is_shown_is_printable_and_finite(storm: Storm) -> None:
    log = (storm.router.dir / "router.log").read_bytes().decode("utf-8")
    for where, text in {**storm.shown, "log": log}.items():
        strange = re.findall(r"[^\n\t\x20-\x7e\u00a0-\u200d\u2010-\u2029\u2030-\U0001faff]", text)
        assert not strange, f"{where}: {strange[:5]}"
    for family in text_string_to_metric_families(storm.shown["/metrics"]):
        for sample in family.samples:
            if not sample.name.endswith("_bucket"):
                assert math.isfinite(sample.value), sample
    for path in ("/health", "/admin/status", "/v1/models"):
        json.loads(storm.shown[path], parse_constant=pytest.fail)


def test_no_request_failed_inside_the_router(storm: Storm) -> None:
    log = (storm.router.dir / "router.log").read_text(encoding="utf-8")
    assert "Traceback" not in log, log[log.index("Traceback") - 300 :][:3000]


def test_the_router_starts_again_and_answers(storm: Storm) -> None:
    """Last in this module: it also reads how long the router's turns were."""
    router = storm.router
    assert router.stop() == 0
    turns = json.loads(router.turns.read_text(encoding="utf-8"))
    longest = [turn["cpu"] for turn in turns if turn["at"] > storm.began]
    assert max(longest, default=0.0) < MAX_TURN, turns[:3]
    router.start()
    after = asyncio.run(request(router.port, AFTER, "bad0", 20))
    assert after.words(AFTER) == AFTER.gets
