"""Engines that misbehave: what their clients get, and that nobody else feels it.

All behaviours run against one router, several at a time, beside good streams of another model. The
table of docs/faults.md is what this module sees; `make hostile-table` writes it.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.facts import most_rss, quantile
from tests.hostile.behaviours import AFTER, BEHAVIOURS, IDLE, MAX_ANSWER, Behaviour
from tests.hostile.beside import GOOD, MAX_LATE, good_clients, good_engine, hostile_engine
from tests.hostile.outcome import Outcome, request
from tests.hostile.table import NOTHING, rows, write, written
from tests.integration.conftest import Router, wait_until

ENGINES = 8
"""Each has one behaviour at a time."""
PATIENCE = IDLE + 18.0
"""Seconds in which each request must end."""
MAX_HEALTH = 0.05
"""Seconds, the median of health checks, beyond twice that of the good engine."""
MAX_TURN = 0.05
"""Seconds on the processor of the longest turn of the router's event loop."""
MAX_RSS = 200.0
"""MB."""


@dataclass
class Storm:
    """What came of all behaviours."""

    router: Router
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    after: dict[str, Outcome] = field(default_factory=dict)
    """By behaviour: the next request to the same model."""
    sent: dict[str, int] = field(default_factory=dict)
    times: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By behaviour: when its request began and ended, by `time.time`."""
    turns: list[dict[str, float]] = field(default_factory=list)
    """The longest turns of the router's event loop meanwhile."""
    seen: dict[str, Any] = field(default_factory=dict)
    rss: float = 0.0
    shown: dict[str, str] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    ended: int | None = None
    """The router's exit status."""

    def words(self, behaviour: Behaviour) -> str:
        """What its client got."""
        if behaviour.name not in self.said:
            self.said[behaviour.name] = self.outcomes[behaviour.name].words(behaviour)
        return self.said[behaviour.name]

    def felt(self, behaviour: str) -> str:
        """What streams of other models felt while it ran: how long nobody else was served."""
        begin, end = self.times[behaviour]
        turns = [turn["cpu"] for turn in self.turns if begin <= turn["at"] <= end + 0.1]
        longest = max(turns, default=0.0)
        return NOTHING if longest < MAX_TURN else f"a pause of {longest * 1e3:.0f} ms"


async def one(storm: Storm, behaviour: Behaviour, name: str) -> None:
    port, began = storm.router.port, time.time()
    storm.outcomes[behaviour.name] = await request(port, behaviour, name, PATIENCE)
    storm.times[behaviour.name] = began, time.time()
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
    good = good_engine(router)
    models = {f"bad{number}": hostile_engine(router, f"bad{number}") for number in range(ENGINES)}
    limits = {"idle_timeout": IDLE, "max_answer": MAX_ANSWER}
    router.write({GOOD: good, **models}, requests=limits)
    os.environ["TURNS_BY"] = "cpu"
    router.start()
    found = Storm(router)
    try:
        wait_until(lambda: httpx.get(router.url + "/health").status_code == 200, "all is loaded")
        began = time.time()
        watch = good_clients(router, good["port"])
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
        found.ended = router.stop()
        turns = json.loads(router.turns.read_text(encoding="utf-8"))
        found.turns = [turn for turn in turns if turn["at"] > began]
        yield found
    finally:
        del os.environ["TURNS_BY"]
        router.end()


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda behaviour: behaviour.name)
def test_a_request_ends_with_one_error_or_the_engines_own_bytes(
    storm: Storm, behaviour: Behaviour
) -> None:
    outcome = storm.outcomes[behaviour.name]
    assert storm.words(behaviour) == behaviour.gets, outcome.body[-600:]
    assert storm.sent[behaviour.name] <= behaviour.sent
    after = storm.after[behaviour.name]
    assert after.words(AFTER) == AFTER.gets, after.body[:600]


def test_streams_of_other_models_are_neither_late_nor_cut(storm: Storm) -> None:
    assert storm.seen["wrong"] == []
    assert storm.seen["answers"] > 0
    through, direct = quantile(storm.seen["through"], 0.99), quantile(storm.seen["direct"], 0.99)
    assert through < 2 * direct + MAX_LATE, (through, direct)


def test_health_answers_all_the_while(storm: Storm) -> None:
    health, control = quantile(storm.seen["health"], 0.5), quantile(storm.seen["control"], 0.5)
    assert health < 2 * control + MAX_HEALTH, (health, control)


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


def test_no_turn_of_the_routers_event_loop_is_long(storm: Storm) -> None:
    """On the processor, so it is a bound for others however busy the machine is."""
    assert max(turn["cpu"] for turn in storm.turns) < MAX_TURN, storm.turns[:3]


def test_the_table_in_the_docs_is_what_was_seen(storm: Storm) -> None:
    got = {each.name: storm.words(each) for each in BEHAVIOURS}
    table = rows(got, {each.name: storm.felt(each.name) for each in BEHAVIOURS})
    if os.environ.get("HOSTILE_TABLE") == "write":
        write(table)
    assert written() == table, "docs/faults.md: run `make hostile-table`"


def test_the_router_ends_in_order_starts_again_and_answers(storm: Storm) -> None:
    assert storm.ended == 0
    storm.router.start()
    after = asyncio.run(request(storm.router.port, AFTER, "bad0", 20))
    assert after.words(AFTER) == AFTER.gets
