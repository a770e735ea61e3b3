"""What the router believes and what runs: after each fault the two agree again, by themselves."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from llm_router.api.generation import _may_try_again, _passive
from llm_router.api.reload import Reloader
from llm_router.api.services import Services
from llm_router.config.diff import compare
from llm_router.config.schema import Model
from llm_router.events import StepEnded, SwitchEnded
from llm_router.scheduler.service import Refused
from llm_router.switcher.record import Record
from llm_router.switcher.residency import Sleeper
from llm_router.units.base import UnitError, UnitState

from .test_switcher import GONE, FakeUnits, Patch, load, refusal, router, run, until

SHARED = {"service": "shared.service", "script": "/bin/true", "port": 9500}


def loaded(services: Services, group: str = "default") -> str | None:
    return services.scheduler.core.groups[group].current


def reconfigure(services: Services, **models: dict[str, Any] | None) -> None:
    """Change these models' keys, or remove the model, as a reload does."""
    now = dict(services.settings.models)
    for name, change in models.items():
        model = now.pop(name, None)
        if change is not None and model is not None:
            now[name] = Model.model_validate({**model.model_dump(), **change})
    new = replace(services.settings, models=now)
    Reloader(services)._apply(new, compare(services.settings, new))


async def idle(services: Services) -> None:
    await until(lambda: not services.scheduler.switches)


def test_a_changed_model_whose_engine_cannot_be_stopped_is_not_served(monkeypatch: Patch) -> None:
    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}, "b": {}}, units) as services:
            await load(services, "a")
            units.fails["stop a"] = GONE
            reconfigure(services, a={"args": ["--other"]})
            await idle(services)
            refused = await refusal(services, "a")
            assert refused.refusal.kind == "unavailable"
            assert "the helper cannot be reached" in refused.refusal.message
            assert (await refusal(services, "b")).refusal.kind == "unavailable"
            units.fails.clear()
            units.calls.clear()
            await load(services, "b")
            assert units.calls[0] == "stop a"
            await load(services, "a")

    run(test())


def test_a_changed_model_is_started_again_once_its_engine_can_be_stopped(
    monkeypatch: Patch,
) -> None:
    monkeypatch.setattr("llm_router.scheduler.core.RETRY_STALE", 0.05, raising=False)

    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}}, units) as services:
            await load(services, "a")
            units.fails["stop a"] = GONE
            reconfigure(services, a={"args": ["--other"]})
            await until(lambda: units.calls.count("stop a") > 2)
            units.fails.clear()
            await until(lambda: not units.states)
            await load(services, "a")

    run(test())


def test_a_removed_model_that_cannot_be_stopped_raises_nothing(monkeypatch: Patch) -> None:
    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}, "b": {}}, units) as services:
            await load(services, "a")
            units.fails["stop a"] = GONE
            reconfigure(services, a=None)
            await idle(services)
            assert loaded(services) == "a"
            services.scheduler.lost("a")
            units.crash("a.service", UnitState("failed", 0, "signal"))
            await until(lambda: loaded(services) is None)
            await load(services, "b")

    run(test())


def test_a_sleeper_that_systemd_restarts_does_not_stay_awake_beside_another(
    monkeypatch: Patch,
) -> None:
    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}, "b": {}}, units) as services:
            await load(services, "b")
            units.states["a.service"], units.serves["a.service"] = UnitState("active", 7), "a"
            services.switcher._sleepers.add(Sleeper("a", "a.service", "sleep", 7, 1, 0.0), "x")
            async with services.scheduler.lease("b"):
                units.run("a.service", "a")  # with another pid: awake
                await until(lambda: "a.service" not in units.states)
            assert loaded(services) == "b"
            assert "stop b" not in units.calls

    run(test())


def test_of_two_engines_that_run_at_start_the_recorded_one_stays(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    async def test() -> None:
        units = FakeUnits()
        async with router(
            monkeypatch, {"a": {}, "b": {}}, units, state_dir=str(tmp_path)
        ) as services:
            await load(services, "b")
        units.run("a.service", "a")
        async with router(
            monkeypatch, {"a": {}, "b": {}}, units, state_dir=str(tmp_path)
        ) as services:
            await until(lambda: units.states.keys() == {"b.service"})
            assert loaded(services) == "b"

    run(test())


@pytest.mark.parametrize("before", ["a", "b", None])
def test_an_engine_that_is_started_by_hand(monkeypatch: Patch, before: str | None) -> None:
    """It is adopted where nothing is loaded, also the loaded one again; else it is stopped."""

    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}, "b": {}}, units) as services:
            if before is not None:
                await load(services, before)
            if before == "a":
                for word in ("deactivating", "inactive"):
                    units.crash("a.service", UnitState(word))
            units.run("a.service", "a")
            if before == "b":
                await until(lambda: "a.service" not in units.states)
                assert loaded(services) == "b"
            else:
                await until(lambda: loaded(services) == "a")
                assert units.calls.count("start a") == (before == "a")

    run(test())


def test_a_bus_that_comes_up_after_the_router(monkeypatch: Patch) -> None:
    async def test() -> None:
        units = FakeUnits()
        units.run("a.service", "a")
        units.fails["state a"] = units.fails["state b"] = GONE
        async with router(monkeypatch, {"a": {}, "b": {}}, units) as services:
            assert loaded(services) is None
            units.fails.clear()
            units._connected()
            await until(lambda: loaded(services) == "a")
            ticket = await _passive(services, "a", 0.0)
            assert ticket is not None
            ticket.close()
            assert units.calls == []

    run(test())


def test_a_shared_unit_that_loads_is_the_model_of_the_record(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    async def test() -> None:
        units, models = FakeUnits(), {"a": SHARED, "b": SHARED}
        async with router(monkeypatch, models, units, state_dir=str(tmp_path)) as services:
            await load(services, "b")
        loading = {"b"}
        async with router(monkeypatch, models, units, loading, state_dir=str(tmp_path)) as services:
            await until(lambda: bool(services.scheduler.switches))
            assert services.scheduler.switches["default"].target == "b"
            loading.clear()
            await until(lambda: loaded(services) == "b")

    run(test())


def test_a_shared_unit_that_is_restarted_by_hand_is_what_it_was_before(monkeypatch: Patch) -> None:
    async def test() -> None:
        units, models, loading = FakeUnits(), {"a": SHARED, "b": SHARED}, set[str]()
        async with router(monkeypatch, models, units, loading) as services:
            await load(services, "b")
            loading.add("b")
            for word in ("deactivating", "inactive"):
                units.crash("shared.service", UnitState(word))
                await until(lambda: loaded(services) is None)
            await until(lambda: not services.reconciler._steps)
            units.run("shared.service", "b")
            await until(lambda: bool(services.scheduler.switches))
            assert services.scheduler.switches["default"].target == "b"
            loading.clear()
            await until(lambda: loaded(services) == "b")

    run(test())


def test_a_shared_unit_that_somebody_gave_another_model_is_adopted_once(
    monkeypatch: Patch,
) -> None:
    """The process that the model had before says nothing about its new one."""

    async def test() -> None:
        units, models, loading = FakeUnits(), {"a": SHARED, "b": SHARED}, set[str]()
        async with router(monkeypatch, models, units, loading) as services:
            ended: list[SwitchEnded] = []
            await load(services, "b")
            await load(services, "a")
            services.events.subscribe(
                lambda event: ended.append(event) if isinstance(event, SwitchEnded) else None
            )
            loading.add("b")
            units.run("shared.service", "b")
            await until(lambda: bool(services.scheduler.switches))
            loading.clear()
            await until(lambda: loaded(services) == "b")
            await until(lambda: not services.reconciler._steps)
            assert loaded(services) == "b"
            assert len(ended) == 1

    run(test())


def test_one_odd_answer_stops_no_idle_engine(monkeypatch: Patch) -> None:
    async def test() -> None:
        units, loading = FakeUnits(), set[str]()
        async with router(monkeypatch, {"a": {}}, units, loading) as services:
            await load(services, "a")
            await until(lambda: not services.reconciler._steps)
            loading.add("a")
            services.reconciler.look("default")
            await until(lambda: bool(services.reconciler.unsettled))
            loading.clear()
            await until(lambda: not services.reconciler.unsettled)
            assert loaded(services) == "a"
            assert "stop a" not in units.calls
            loading.add("a")
            services.reconciler.look("default")
            await until(lambda: "stop a" in units.calls)

    run(test())


def test_a_request_for_a_model_that_is_removed_meanwhile_is_no_fault(monkeypatch: Patch) -> None:
    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}, "b": {}}, units) as services:
            await load(services, "a")
            model = services.models["a"]
            reconfigure(services, a=None)
            await until(lambda: "a" not in services.scheduler.core.models)
            await services.reconciler.see(model)

    run(test())


def test_what_a_shared_unit_served_before_is_forgotten(monkeypatch: Patch, tmp_path: Path) -> None:
    async def test() -> None:
        units = FakeUnits()
        models: dict[str, Any] = {"a": SHARED, "b": SHARED}
        async with router(monkeypatch, models, units, state_dir=str(tmp_path)) as services:
            for name in ("a", "b"):
                services.switcher._record.add(services.models[name])
        units.run("shared.service", "b")
        models["a"] = {**SHARED, "args": ["--changed"]}
        async with router(monkeypatch, models, units, state_dir=str(tmp_path)) as services:
            await until(lambda: loaded(services) == "b")
        assert units.calls == []
        assert list(Record(tmp_path / "started.json").models) == ["b"]

    run(test())


def test_the_record_of_a_unit_at_rest_is_dropped(monkeypatch: Patch, tmp_path: Path) -> None:
    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}}, units, state_dir=str(tmp_path)) as services:
            await load(services, "a")
            units.crash("a.service", UnitState("inactive"))
            reconfigure(services, a={"args": ["--other"]})
            await until(lambda: not services.switcher._record.models)
        units.run("a.service", "a")  # as it is configured now, by hand
        changed = {"a": {"args": ["--other"]}}
        async with router(monkeypatch, changed, units, state_dir=str(tmp_path)) as services:
            await until(lambda: loaded(services) == "a")
        assert "stop a" not in units.calls

    run(test())


def test_a_slow_probe_after_a_dropped_connection_loses_no_engine(monkeypatch: Patch) -> None:
    monkeypatch.setattr("llm_router.switcher.executor.PROBE_WITHIN", 0.05)
    monkeypatch.setattr("llm_router.engines.base.Probe.timeout", 0.05)

    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}}, units) as services:
            await load(services, "a")
            other = services.scheduler.request("a")
            await other.wait()
            units.silent.add("a.service")
            with anyio.fail_after(8):
                assert await _may_try_again(services, services.models["a"])
            assert loaded(services) == "a"
            assert "stop a" not in units.calls
            other.close()

    run(test())


def test_an_engine_that_serves_another_model_is_lost(monkeypatch: Patch) -> None:
    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": SHARED, "b": SHARED}, units) as services:
            await load(services, "a")
            units.serves["shared.service"] = "b"  # another model was loaded by hand
            assert await _may_try_again(services, services.models["a"])
            await until(lambda: loaded(services) == "b")

    run(test())


def test_an_engine_that_ends_as_its_switch_ends_is_not_loaded(monkeypatch: Patch) -> None:
    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}}, units) as services:

            def end(event: Any) -> None:
                if isinstance(event, StepEnded) and event.step == "WarmUp":
                    units.crash("a.service", UnitState("failed", 0, "signal"))

            services.events.subscribe(end)
            refused = await refusal(services, "a")
            assert "ended" in refused.refusal.message
            assert loaded(services) is None

    run(test())


def test_an_engine_that_ends_just_after_it_was_looked_at_is_not_loaded(
    monkeypatch: Patch,
) -> None:
    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}}, units) as services:
            services.events.subscribe(
                lambda event: (
                    units.crash("a.service", UnitState("failed", 0, "signal"))
                    if type(event).__name__ == "SwitchEnded"
                    else None
                )
            )
            await load(services, "a")
            await until(lambda: loaded(services) is None)

    run(test())


def test_a_model_that_moves_to_another_group_is_not_two_groups_work(monkeypatch: Patch) -> None:
    async def test() -> None:
        units = FakeUnits()
        models = {"a": {"group": "g"}, "b": {"group": "h"}}
        async with router(monkeypatch, models, units) as services:
            holder = services.scheduler.request("a")
            await holder.wait()
            reconfigure(services, a={"group": "h"})
            ticket = services.scheduler.request("a")
            await anyio.sleep(0.02)
            assert list(services.scheduler.switches) == ["g"]
            assert not ticket.is_settled()
            holder.close()
            with anyio.fail_after(5):
                await ticket.wait()
            ticket.close()
            assert units.calls == [
                *("activate a", "start a"),
                *("stop a", "activate a", "start a"),
            ]
            assert loaded(services, "g") is None

    run(test())


def test_a_request_that_may_not_switch_ends_when_its_load_is_abandoned(monkeypatch: Patch) -> None:
    async def test() -> None:
        units = FakeUnits()
        units.run("a.service", "a")
        async with router(monkeypatch, {"a": {}}, units, {"a"}) as services:
            await until(lambda: bool(services.scheduler.switches))
            ticket = await _passive(services, "a", 0.0)
            assert ticket is not None
            services.scheduler.switches["default"].scope.cancel()
            with anyio.fail_after(5), pytest.raises(Refused):
                await ticket.wait()

    run(test())


def test_a_hung_engine_does_not_keep_the_router_from_starting(monkeypatch: Patch) -> None:
    monkeypatch.setattr("llm_router.runtime.reconcile.READY_WITHIN", 0.1)
    monkeypatch.setattr("llm_router.switcher.executor.PROBE_WITHIN", 5.0)

    async def test() -> None:
        units = FakeUnits()
        models = {"a": {"group": "g"}, "b": {"group": "h"}}
        units.run("a.service", "a")
        units.run("b.service", "b")
        units.silent.add("a.service")
        began = anyio.current_time()
        async with router(monkeypatch, models, units) as services:
            assert anyio.current_time() - began < 3
            await until(lambda: loaded(services, "h") == "b")
            assert services.reconciler.unknown() == ["g"]
            # who asks before it is known what runs there waits, and is not refused
            asking = asyncio.ensure_future(_passive(services, "a", 0.0))
            units.silent.clear()
            ticket = await asking
            assert ticket is not None
            ticket.close()
            assert units.calls == []

    run(test())


def test_an_engine_that_no_switch_wants_and_nobody_can_stop_is_told(monkeypatch: Patch) -> None:
    async def test() -> None:
        units = FakeUnits()
        async with router(monkeypatch, {"a": {}, "b": {}}, units) as services:
            await load(services, "a")
            units.fails["stop b"] = UnitError("no such right")
            units.run("b.service", "b")
            await until(lambda: "default" in services.reconciler.unsettled)
            assert "no such right" in services.reconciler.unsettled["default"]
            assert loaded(services) == "a"
            units.fails.clear()
            await until(lambda: "b.service" not in units.states)
            await until(lambda: not services.reconciler.unsettled)

    run(test())


def test_a_sick_engine_is_not_restarted_again_and_again(
    monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests that make it sick must not keep it from serving the others."""

    async def test() -> None:
        units = FakeUnits()
        tabby = {"a": {"backend": "tabby", "model_path": "/m/a"}}
        async with router(monkeypatch, tabby, units) as services:

            async def sickness(_: Model) -> str:
                return "its /health says 'x'"

            monkeypatch.setattr(services.switcher, "sickness", sickness)
            model = services.models["a"]

            def starts() -> int:
                return units.calls.count("start a")

            await load(services, "a")
            for _ in range(2):
                services.reconciler.generation_failed(model)
            services.reconciler.generation_succeeded(model)
            for _ in range(2):
                services.reconciler.generation_failed(model)
            assert not services.reconciler._examined
            async with services.scheduler.lease("a"):
                services.reconciler.generation_failed(model)
                await until(lambda: bool(services.scheduler.switches))
                assert "stop a" not in units.calls  # its answers may end
            await until(lambda: starts() == 2 and loaded(services) == "a")
            for _ in range(3):
                services.reconciler.generation_failed(model)
            await until(lambda: "stays as it is" in caplog.text)
            assert (starts(), loaded(services)) == (2, "a")

    run(test())
