"""The router's parts joined, on units and engines that do what a test says: no process, no port."""

from __future__ import annotations

import asyncio
import errno
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from typing_extensions import Self

from llm_router.api.reload import Reloader
from llm_router.api.services import Services, running
from llm_router.config.diff import compare
from llm_router.config.load import Settings
from llm_router.config.schema import Config, Model
from llm_router.events import SwitchEnded
from llm_router.scheduler.service import Refused, SwitchFailed
from llm_router.units.base import ManagerUnavailable, UnitError, Units, UnitState

CLIENT = httpx.AsyncClient
GONE = ManagerUnavailable("the helper cannot be reached")


class FakeUnits(Units):
    """Units in memory. ``fails`` has errors by call: ``"stop a"`` raises what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[str, UnitState] = {}
        self.serves: dict[str, str] = {}
        """By unit: the model that its engine says it serves."""
        self.fails: dict[str, Exception] = {}
        self.restart: dict[str, str] = {}
        """By model: why its engine may not load it without a restart."""
        self.silent: set[str] = set()
        """Units whose engine takes a probe's connection and never answers."""
        self.calls: list[str] = []
        self.logs_since: list[float | None] = []
        self.hang = asyncio.Event()
        self.next_pid = 100

    def _call(self, verb: str, model: Model) -> None:
        self.calls.append(f"{verb} {model.name}")
        if f"{verb} {model.name}" in self.fails:
            raise self.fails[f"{verb} {model.name}"]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def activate(self, model: Model) -> bool:
        self._call("activate", model)
        return False

    async def check(self, model: Model) -> str:
        if f"check {model.name}" in self.fails:
            raise self.fails[f"check {model.name}"]
        return self.restart.get(model.name, "")

    async def prewarm(self, model: Model) -> int:
        return 0

    async def start(self, model: Model) -> None:
        self._call("start", model)
        self.run(model.unit, model.name)

    def run(self, unit: str, model: str) -> None:
        self.next_pid += 1
        self.states[unit] = UnitState("active", self.next_pid)
        self.serves[unit] = model
        self._changed(unit, self.states[unit])

    async def stop(self, model: Model, grace: float) -> None:
        self._call("stop", model)
        self.states.pop(model.unit, None)
        self.serves.pop(model.unit, None)

    async def state(self, model: Model) -> UnitState:
        if f"state {model.name}" in self.fails:
            raise self.fails[f"state {model.name}"]
        return self.states.get(model.unit, UnitState("inactive"))

    async def log_tail(
        self, model: Model, lines: int = 20, since: float | None = None
    ) -> list[str]:
        self.logs_since.append(since)
        return ["the last line"]

    async def processes_among(self, model: Model, pids: Collection[int]) -> frozenset[int]:
        return frozenset()

    async def problem(self) -> str | None:
        return None

    def configure(self, models: Mapping[str, Model]) -> None:
        pass

    def crash(self, unit: str, state: UnitState) -> None:
        self.states[unit] = state
        self._changed(unit, state)


def make_settings(models: dict[str, dict[str, Any]], **config: Any) -> Settings:
    made = {
        name: Model(
            name=name, **{"backend": "vllm", "service": f"{name}.service", "port": port, **entry}
        )
        for port, (name, entry) in enumerate(models.items(), 9000)
    }
    here = Path("/nowhere")
    return Settings(Config.model_validate(config), made, (), here, here, here)


@asynccontextmanager
async def router(
    monkeypatch: pytest.MonkeyPatch,
    models: dict[str, dict[str, Any]],
    units: FakeUnits,
    loading: set[str] | None = None,
    **config: Any,
) -> AsyncIterator[Services]:
    """The services; the engines answer for the model that their unit serves."""
    with tempfile.TemporaryDirectory() as state_dir:
        settings = make_settings(models, **{"state_dir": state_dir, **config})
        async with _running(monkeypatch, settings, units, loading) as services:
            yield services


@asynccontextmanager
async def _running(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, units: FakeUnits, loading: set[str] | None
) -> AsyncIterator[Services]:

    async def engine(request: httpx.Request) -> httpx.Response:
        by_port = {model.base_url: model.unit for model in settings.models.values()}
        unit = by_port[f"{request.url.scheme}://{request.url.host}:{request.url.port}"]
        serving = units.serves.get(unit)
        if serving is None or units.states.get(unit, UnitState("inactive")).active != "active":
            raise httpx.ConnectError("nobody listens", request=request)
        if unit in units.silent:
            await asyncio.sleep(3600)
        if loading is not None and serving in loading:
            return httpx.Response(503)
        if request.url.path == "/v1/completions":
            return httpx.Response(200, json={"choices": [{"text": "x"}]})
        return httpx.Response(200, json={"id": serving, "data": [{"id": serving}]})

    def client(**_: Any) -> httpx.AsyncClient:
        return CLIENT(transport=httpx.MockTransport(engine))

    monkeypatch.setattr("httpx.AsyncClient", client)
    async with running(settings, units) as services:
        yield services


async def load(services: Services, model: str) -> None:
    async with services.scheduler.lease(model):
        pass


async def refusal(services: Services, model: str) -> Refused:
    with pytest.raises(Refused) as caught:
        await load(services, model)
    return caught.value


async def until(fact: Callable[[], bool]) -> None:
    with anyio.fail_after(5):
        while not fact():
            await anyio.sleep(0.001)


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(20):
            await test

    asyncio.run(bounded())


Patch = pytest.MonkeyPatch


def test_what_cannot_be_planned_touches_nothing(monkeypatch: Patch) -> None:
    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}, "b": {}}, units) as services:
            await load(services, "a")
            units.fails["state b"] = GONE
            refused = await refusal(services, "b")
            assert refused.refusal.kind == "unavailable"
            core = services.scheduler.core
            assert core.failures == {}
            assert core.group_of("a").current == "a"
            assert "stop a" not in units.calls
            units.fails.clear()
            await load(services, "b")

    run(test())


def test_an_engine_that_could_not_be_stopped_goes_on_serving(monkeypatch: Patch) -> None:
    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}, "b": {}}, units) as services:
            await load(services, "a")
            units.fails["stop a"] = GONE
            assert (await refusal(services, "b")).refusal.kind == "unavailable"
            assert services.scheduler.core.group_of("a").current == "a"
            assert services.scheduler.core.failures == {}
            assert "start b" not in units.calls

    run(test())


def test_a_helper_that_is_gone_in_the_middle_is_no_models_failure(monkeypatch: Patch) -> None:
    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}, "b": {}}, units) as services:
            await load(services, "a")
            units.fails |= {"activate b": GONE, "start b": GONE, "start a": GONE}
            refused = await refusal(services, "b")
            assert "Activate of 'b' failed: the helper" in refused.refusal.message
            await until(lambda: not services.scheduler.switches)
            assert services.scheduler.core.failures == {}
            assert services.scheduler.core.group_of("a").current is None
            units.fails.clear()
            await load(services, "a")

    run(test())


def test_a_bus_that_is_away_while_a_model_loads_is_waited_for(monkeypatch: Patch) -> None:
    async def test() -> None:
        units = FakeUnits()
        loading = {"a"}
        async with router(monkeypatch, {"a": {}}, units, loading) as services:
            services.scheduler.load_in_background("a")
            await until(lambda: bool(services.scheduler.switches))
            switch = services.scheduler.switches["default"]
            await until(lambda: switch.step == "WaitUntilReady")
            units.fails["state a"] = GONE
            await anyio.sleep(0.05)
            assert not switch.ended.is_set()
            units.fails.clear()
            loading.clear()
            await load(services, "a")

    run(test())


def test_of_models_that_share_a_unit_the_one_that_answers_is_adopted(monkeypatch: Patch) -> None:
    shared = {"service": "shared.service", "script": "/bin/true", "port": 9500}

    async def test() -> None:
        units = FakeUnits()
        units.run("shared.service", "b")
        loading = {"b"}
        async with router(monkeypatch, {"a": shared, "b": shared}, units, loading) as services:
            await until(lambda: bool(services.scheduler.switches))
            loading.clear()
            await until(lambda: services.scheduler.core.group_of("b").current == "b")
            assert units.calls == []
            assert services.scheduler.core.failures == {}
            await load(services, "a")
            assert units.calls == ["stop b", "activate a", "start a"]

    run(test())


def test_an_engine_that_is_started_is_in_doubt_no_more(monkeypatch: Patch) -> None:
    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}}, units, set()) as services:
            sleepers = services.switcher._sleepers
            unit = services.models["a"].unit
            sleepers.unsure(unit)  # as a router leaves it that ends in the middle of a call
            await load(services, "a")
            assert not sleepers.is_unsure(unit)

    run(test())


def test_an_engine_that_was_given_up_is_in_doubt_no_more(monkeypatch: Patch) -> None:
    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}}, units, {"a"}) as services:
            ticket = services.scheduler.request("a")
            switch = services.scheduler.switches["default"]
            await until(lambda: switch.step == "WaitUntilReady")
            sleepers = services.switcher._sleepers
            sleepers.unsure(services.models["a"].unit)
            switch.scope.cancel()
            with pytest.raises(Refused):
                await ticket.wait()
            assert not sleepers.is_unsure(services.models["a"].unit)

    run(test())


def test_an_operator_cancels_a_switch_and_the_former_model_comes_back(monkeypatch: Patch) -> None:
    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}, "b": {}}, units, {"b"}) as services:
            await load(services, "a")
            ticket = services.scheduler.request("b")
            switch = services.scheduler.switches["default"]
            await until(lambda: switch.step == "WaitUntilReady")
            switch.scope.cancel()
            with pytest.raises(Refused, match="an operator cancelled the switch"):
                await ticket.wait()
            await until(lambda: services.scheduler.core.group_of("a").current == "a")
            assert services.scheduler.core.failures == {}
            assert "b.service" not in units.states

    run(test())


@pytest.mark.parametrize(
    "state", [UnitState("activating", 0, "exit-code"), UnitState("active", 4711)]
)
def test_an_engine_that_systemd_starts_anew_is_waited_for(
    monkeypatch: Patch, state: UnitState
) -> None:
    async def test() -> None:
        units = FakeUnits()
        loading: set[str] = set()
        async with router(monkeypatch, {"a": {}}, units, loading) as services:
            await load(services, "a")
            loading.add("a")
            units.crash("a.service", state)
            assert services.scheduler.core.group_of("a").current is None
            ticket = services.scheduler.request("a")
            await anyio.sleep(0.02)
            assert not ticket.is_settled()
            units.crash("a.service", UnitState("active", 4711))
            loading.clear()
            await ticket.wait()
            assert units.calls.count("start a") == 1

    run(test())


def test_an_unload_that_fails_says_so(monkeypatch: Patch) -> None:
    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}}, units) as services:
            await load(services, "a")
            units.fails["stop a"] = GONE
            with pytest.raises(SwitchFailed, match="the helper cannot be reached"):
                await services.scheduler.unload("default")
            assert services.scheduler.core.group_of("a").current == "a"

    run(test())


def test_an_engine_that_is_configured_otherwise_now_is_stopped_as_it_was_started(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    async def test() -> None:
        units = FakeUnits()
        state = str(tmp_path)
        gone = {"a": {"service": "old.service"}, "b": {}}
        async with router(monkeypatch, gone, units, state_dir=state) as services:
            await load(services, "a")
        async with router(monkeypatch, {"b": {}}, units, state_dir=state) as services:
            await until(lambda: "old.service" not in units.states)
            await load(services, "b")
        changed = {"b": {"args": ["--other"]}}
        async with router(monkeypatch, changed, units, state_dir=state) as services:
            await until(lambda: "b.service" not in units.states)
            await load(services, "b")
        units.calls.clear()
        live = {"b": {"args": ["--other"], "ttl": 100.0}}
        async with router(monkeypatch, live, units, state_dir=state) as services:
            assert services.scheduler.core.group_of("b").current == "b"
        assert units.calls == []

    run(test())


def test_a_model_may_leave_the_configuration_while_another_takes_its_place(
    monkeypatch: Patch,
) -> None:
    async def test() -> None:
        units, heard = FakeUnits(), list[Any]()
        units.fails["start b"] = UnitError("the job of b.service ended as 'failed'")
        async with router(monkeypatch, {"a": {}, "b": {}}, units) as services:
            services.events.subscribe(heard.append)
            holder = services.scheduler.request("a")
            await holder.wait()
            waiting = services.scheduler.request("b")
            core = services.scheduler.core
            core._limits = replace(core._limits, max_wait=0)
            services.scheduler._apply(core.tick(services.clock()))
            await until(lambda: any(getattr(event, "step", "") == "Drain" for event in heard))
            without = replace(services.settings, models={"b": services.settings.models["b"]})
            Reloader(services)._apply(without, compare(services.settings, without))
            holder.close()
            with pytest.raises(Refused) as refused:
                await asyncio.wait_for(waiting.wait(), 10)
            assert "the job of b.service ended as 'failed'" in refused.value.refusal.message
            ended = [e for e in heard if isinstance(e, SwitchEnded) and e.model == "b"]
            assert [event.previous for event in ended] == ["a"]
        assert "stop b" in units.calls

    run(test())


def test_a_fault_of_the_routers_own_ends_a_switch_like_any_other(monkeypatch: Patch) -> None:
    async def test() -> None:
        units, heard = FakeUnits(), list[Any]()
        units.fails["start b"] = KeyError("a fault")
        async with router(monkeypatch, {"a": {}, "b": {}}, units) as services:
            services.events.subscribe(heard.append)
            await load(services, "a")
            refused = await refusal(services, "b")
            assert "internal error: KeyError('a fault')" in refused.refusal.message
            assert [e.model for e in heard if isinstance(e, SwitchEnded) and e.error] == ["b"]
            await until(lambda: services.state_of("a") == "loaded")
        assert "stop b" in units.calls

    run(test())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("activate b", "/etc/llamacpp/b.env cannot be written: No space left on device"),
        ("activate b", "/etc/llamacpp/b.env cannot be written: Permission denied"),
        ("start b", "the job of b.service ended as 'failed'"),
    ],
)
def test_what_cannot_be_activated_or_started_is_told_and_the_former_model_comes_back(
    monkeypatch: Patch, call: str, says: str
) -> None:
    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}, "b": {}}, units) as services:
            await load(services, "a")
            units.fails[call] = UnitError(says)
            began = time.time()
            refused = await refusal(services, "b")
            assert says in refused.refusal.message
            assert refused.refusal.log_lines == ("the last line",)
            # none of an earlier start
            assert units.logs_since[-1] is not None
            assert began <= units.logs_since[-1] <= time.time()
            core = services.scheduler.core
            await until(lambda: core.group_of("a").current == "a")
            assert core.failures["b"].count == 1
            assert units.states.keys() == {"a.service"}
            units.fails.clear()
            await load(services, "b")
            assert core.failures == {}

    run(test())


BROKEN = UnitError("/etc/tabbyapi/config.yml:9: is not YAML")


@pytest.mark.parametrize(("error", "failures"), [(BROKEN, 1), (GONE, 0)])
def test_files_that_cannot_be_written_cost_no_other_model_its_engine(
    monkeypatch: Patch, error: UnitError, failures: int
) -> None:
    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}, "b": {}}, units) as services:
            await load(services, "a")
            units.fails |= {"check b": error, "activate b": error}
            refused = await refusal(services, "b")
            assert "Activate of 'b' would fail" in refused.refusal.message
            assert str(error) in refused.refusal.message
            core = services.scheduler.core
            assert core.group_of("a").current == "a"
            assert units.calls == ["activate a", "start a"]
            await load(services, "a")
            assert sum(failed.count for failed in core.failures.values()) == failures
            units.fails.clear()
            await load(services, "b")
            assert core.failures == {}

    run(test())


@pytest.mark.parametrize("reason", ["", "cache_mode is not in use_as_default"])
def test_an_engine_that_would_load_with_other_settings_is_restarted(
    monkeypatch: Patch, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    entry = {"backend": "tabby", "service": "tabbyapi.service", "residency": "unload", "port": 9500}

    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": entry, "b": entry}, units) as services:
            await load(services, "a")
            units.restart["b"] = reason
            if not reason:  # loaded over the API, and these engines do not know how
                await refusal(services, "b")
                assert "activate b" in units.calls[:4]
                assert "stop a" not in units.calls
                return
            await load(services, "b")
            assert units.calls == ["activate a", "start a", "stop a", "activate b", "start b"]
            assert f"tabbyapi.service is restarted for 'b': {reason}" in caplog.text

    run(test())


def test_where_nothing_is_stopped_the_files_are_not_read_twice(monkeypatch: Patch) -> None:
    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}}, units) as services:
            units.fails["check a"] = BROKEN
            await load(services, "a")

    run(test())


def test_weights_are_read_while_the_model_before_still_answers(monkeypatch: Patch) -> None:
    class Reading(FakeUnits):
        ended = 0

        async def prewarm(self, model: Model) -> int:
            self.calls.append(f"prewarm {model.name}")
            try:
                await self.hang.wait()
            finally:
                self.ended += 1
            return 1

    async def test() -> None:
        units = Reading()
        async with router(monkeypatch, {"a": {}, "b": {}, "c": {}}, units) as services:
            units.hang.set()
            await load(services, "a")
            units.hang.clear()
            units.calls.clear()
            async with services.scheduler.lease("a"):
                first = services.scheduler.request("b")
                others = [services.scheduler.request(model) for model in ("b", "c", "a")]
                await until(lambda: bool(units.calls))
                # one at a time, once, and for no switch yet
                assert units.calls == ["prewarm b"]
                assert services.scheduler.switches == {}
            others[-1].close()
            await first.wait()
            assert units.calls == ["prewarm b", "stop a", "activate b", "start b"]
            await until(lambda: units.ended == 2)
            for ticket in (first, *others):
                ticket.close()

    run(test())


@pytest.mark.parametrize("restarting", [("activating", 0), ("active", 4712)])
def test_a_crash_loop_of_a_start_is_told_at_the_first_exit(
    monkeypatch: Patch, restarting: tuple[Any, int]
) -> None:
    """systemd waits to restart it, or has done so between two looks."""

    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}}, units, {"a"}) as services:
            ticket = services.scheduler.request("a")
            switch = services.scheduler.switches["default"]
            await until(lambda: switch.step == "WaitUntilReady")
            units.crash("a.service", UnitState(*restarting, "exit-code", 3, 1))
            with anyio.fail_after(5), pytest.raises(Refused) as caught:
                await ticket.wait()
            assert "a.service ended while it loaded (exit-code, status 3)" in str(
                caught.value.refusal.message
            )
            assert caught.value.refusal.log_lines == ("the last line",)
            assert services.scheduler.core.failures["a"].count == 1
            assert units.calls[-1] == "stop a"

    run(test())


def test_a_crash_loop_that_was_found_running_is_stopped(monkeypatch: Patch) -> None:
    async def test() -> None:
        units = FakeUnits()
        units.run("a.service", "a")
        units.states["a.service"] = UnitState("active", 4711, exits=20)
        async with router(monkeypatch, {"a": {}}, units, {"a"}) as services:
            await until(lambda: bool(services.scheduler.switches))
            switch = services.scheduler.switches["default"]
            await until(lambda: switch.step == "WaitUntilReady")
            await anyio.sleep(0.05)
            assert not switch.ended.is_set(), "what it did before is not this switch's"
            units.crash("a.service", UnitState("active", 4712, exits=21))
            with anyio.fail_after(5):
                await switch.ended.wait()
            assert units.calls == ["stop a"]

    run(test())


def test_a_host_that_cannot_spawn_is_no_models_failure(monkeypatch: Patch) -> None:
    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}}, units) as services:
            failed = UnitError("/usr/bin/a cannot be started: Resource temporarily unavailable")
            failed.__cause__ = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            units.fails["start a"] = failed
            assert (await refusal(services, "a")).refusal.kind == "unavailable"
            assert services.scheduler.core.failures == {}

    run(test())
