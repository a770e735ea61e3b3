"""How long a load may take: its timeout, what it took before, and how far it says it has got."""

from __future__ import annotations

import time

import anyio
import pytest

from llm_router.config.schema import Model
from llm_router.events import Event, LoadProgress, StepEnded
from llm_router.switcher import following
from llm_router.units.base import UnitError
from tests.unit.test_switcher import FakeUnits, load, refusal, router, run, until

# Twenty times what lies between two words of an engine here: a busy machine ends no load.
LIMITS = {"timeout": 1.0, "stall_timeout": 1.0, "max_timeout": 20.0, "on_failure": "stop"}


class Telling(FakeUnits):
    """Their log has a bar: ``shard`` of ``shards``."""

    def __init__(self) -> None:
        super().__init__()
        self.shard, self.shards = 0, 10
        self.asked: list[float | None] = []
        self.broken = False

    async def log_tail(
        self, model: Model, lines: int = 20, since: float | None = None
    ) -> list[str]:
        self.asked.append(since)
        if self.broken:
            raise UnitError("no log")
        percent = 100 * self.shard // self.shards
        bar = f"{percent}% Completed | {self.shard}/{self.shards} [00:01<00:01]"
        return ["", f"Loading safetensors checkpoint shards: {bar}"]


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "EVERY", 0.02)


def test_a_load_that_goes_on_is_not_ended_at_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        units, loading, heard = Telling(), {"a"}, list[Event]()
        units.shards = 100
        async with router(monkeypatch, {"a": {}}, units, loading, switch=LIMITS) as services:
            services.events.subscribe(heard.append)
            services.scheduler.load_in_background("a")
            began, wall = time.monotonic(), time.time()
            await until(lambda: bool(services.scheduler.switches))
            switch = services.scheduler.switches["default"]
            for shard in range(1, 31):
                units.shard = shard
                await anyio.sleep(0.05)
                await until(lambda: switch.progress == units.shard / 100)
            # its timeout is over, and what the first word bought is too
            assert time.monotonic() - began > 1.4
            steps = services.progress.steps("default")
            assert [step["progress"] for step in steps if step["state"] == "running"] == [0.3]
            loading.clear()
            await load(services, "a")
            assert units.asked[0] is not None
            assert abs(units.asked[0] - wall) < 1
        parts = [event.part for event in heard if isinstance(event, LoadProgress)]
        assert parts[-30:] == [shard / 100 for shard in range(1, 31)]

    run(test())


def test_a_load_that_stands_still_ends_and_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        units = Telling()
        async with router(monkeypatch, {"a": {}}, units, {"a"}, switch=LIMITS) as services:
            units.shard = 4
            message = (await refusal(services, "a")).refusal.message
            assert "it came no further than weights 40% (4/10)" in message

    run(test())


def test_no_load_takes_longer_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def keep_telling(units: Telling) -> None:
        while True:
            units.shard = (units.shard + 1) % 10
            await anyio.sleep(0.05)

    async def test() -> None:
        units = Telling()
        limits = {**LIMITS, "max_timeout": 1.5}
        async with router(monkeypatch, {"a": {}}, units, {"a"}, switch=limits) as services:
            began = time.monotonic()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(keep_telling, units)
                message = (await refusal(services, "a")).refusal.message
                tasks.cancel_scope.cancel()
            assert "not done within 1.5 s (switch.max_timeout)" in message
            assert 1.4 < time.monotonic() - began < 10

    run(test())


def test_a_log_that_cannot_be_read_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        units, loading = Telling(), {"a"}
        units.broken = True
        async with router(monkeypatch, {"a": {}}, units, loading) as services:
            services.scheduler.load_in_background("a")
            await until(lambda: len(units.asked) > 2)
            loading.clear()
            await load(services, "a")

    run(test())


def test_what_a_load_took_before_is_allowed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        models = {"a": {"timeout": 40.0}, "b": {}}
        limits = {"timeout": 100.0, "max_timeout": 500.0}
        async with router(monkeypatch, models, FakeUnits(), switch=limits) as services:
            time_of = {
                name: lambda name=name: services.switcher.load_timeout(services.models[name])
                for name in models
            }
            assert (time_of["a"](), time_of["b"]()) == (40, 100)
            for step, seconds in (("Start", 1.0), ("WaitUntilReady", 30.0), ("WarmUp", 2.0)):
                services.learned.listen(StepEnded("default", step, "a", seconds))
                services.learned.listen(StepEnded("default", step, "b", seconds))
            assert (time_of["a"](), time_of["b"]()) == (66, 100)
            services.learned.listen(StepEnded("default", "WaitUntilReady", "a", 900.0))
            assert time_of["a"]() == 500
            plan = await services.switcher.plan_for("a", None)
            assert {step.deadline for step in plan if step.name != "Activate"} == {500.0}

    run(test())
