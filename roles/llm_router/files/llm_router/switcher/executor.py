"""Runs plans: every step has a deadline, an event when it begins and one when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx

from llm_router.background import in_background, report_failure
from llm_router.config.diff import launch_id, needs_relaunch
from llm_router.config.load import Settings
from llm_router.config.schema import Model, ResidencyWish
from llm_router.engine_keys import EngineKeys
from llm_router.engines import ProbeAnswer, Readiness, engine_for
from llm_router.engines.base import Probe, last_part
from llm_router.engines.loading import Bar
from llm_router.engines.memory import memory_need
from llm_router.engines.residency import Call
from llm_router.engines.values import count, cut_text
from llm_router.events import (
    EventStream,
    LoadActivity,
    LoadProgress,
    StepEnded,
    StepStarted,
    SwitchEnded,
    SwitchStarted,
)
from llm_router.json_codec import from_json
from llm_router.runtime.assess import Seen
from llm_router.scheduler.core import Reason
from llm_router.scheduler.service import RunningSwitch, SwitchFailed
from llm_router.switcher import following
from llm_router.switcher.engine_client import AnswerRefused, EngineClient
from llm_router.switcher.following import follow_compilers, follow_load
from llm_router.switcher.learned import Learned
from llm_router.switcher.plan import (
    Activate,
    Drain,
    GiveUp,
    Observed,
    Start,
    Step,
    Stop,
    TakeBack,
    WaitForMemory,
    WaitUntilReady,
    WarmUp,
    make_plan,
    make_unload_plan,
    with_restart,
)
from llm_router.switcher.record import Record
from llm_router.switcher.residency import Release, Sleeper, choose
from llm_router.switcher.settling import GpuMemory, NotReleased
from llm_router.switcher.sleepers import Sleepers
from llm_router.units.base import ManagerUnavailable, UnitError, Units, UnitState
from llm_router.units.host_faults import is_host_fault
from llm_router.units.ports import PortGuard, PortHeld
from llm_router.weights import host_memory, weights_size

log = logging.getLogger(__name__)

LOADING = (Start, WaitUntilReady, WarmUp)
"""Steps that have one deadline together."""
FIRST_POLL, LONGEST_POLL = 0.005, 0.1
PROBE_WITHIN = 5.0
"""Seconds that an engine has to say what it serves when nobody waits for it to become ready."""
PORT_CLOSES_WITHIN = 10.0
LOG_WITHIN = 10.0
CUT_WITHIN = 2.0
"""Seconds that answers which are cut have to say so to their clients."""
STOP_MARGIN = 15.0
"""Beyond a unit's stop timeout: the time that killing by force may take."""


class _StepError(Exception):
    """A step did not do what it should; the message is for a person.

    ``blame``: whether that is the target's fault. ``wrong``: another model answered in its place.
    """

    def __init__(self, message: str, *, blame: bool = True, wrong: bool = False) -> None:
        super().__init__(message)
        self.blame = blame
        self.wrong = wrong


@dataclass
class _Run:
    """What the steps of one run share: the deadline of Start to WarmUp, and what was done."""

    began: float = field(default_factory=time.time)
    """In seconds since 1970."""
    step: Step | None = None
    load_from: float = 0.0
    load_until: float | None = None
    load_scope: anyio.CancelScope | None = None
    """Of the step of the load that runs now."""
    engine_since: float | None = None
    """When its engine was started, in seconds since 1970; None: not by this run."""
    bar: Bar | None = None
    """The last that its engine said of its load."""
    advanced: float = 0.0
    """When it said that."""
    said: str = ""
    """What its engine last answered to a probe, and why it is not ready."""
    release: str | None = None
    """Of its engine, once that was asked."""
    compiled: float | None = None
    """When a compiler was last seen in its unit."""
    first: bool = False
    """Whether it compiles for the first load of the model by its release."""
    asleep: str | None = None
    """The model that fell asleep on the way."""
    gone: dict[str, Model] = field(default_factory=dict)
    """Models whose engines this run has stopped, as these were started."""
    previous_touched: bool = False
    target_touched: bool = False
    main_pid: int = 0
    exits: int | None = None
    """How often the target's engine had ended, by systemd's count, when this run began to wait for
    it; a start begins at 0."""
    context_length: int | None = None
    ended: list[StepEnded] = field(default_factory=list)


class Switcher:
    """Turns "serve this model" into a plan and runs it, on units and engines that it is given."""

    def __init__(
        self,
        settings: Settings,
        units: Units,
        events: EventStream,
        client: httpx.AsyncClient,
        keys: EngineKeys | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        memory: GpuMemory | None = None,
        learned: Learned | None = None,
        ports: PortGuard | None = None,
    ) -> None:
        self._settings = settings
        self._memory = memory or GpuMemory(None, units, events)
        self._learned = learned
        self._record = Record(Path(settings.config.state_dir) / "started.json")
        self._before: dict[str, Model] = {}
        """Models as they were when their engine was started, where they are configured otherwise
        now: that is how they are stopped."""
        self._compare(self._record.models)
        self._units = units
        self._events = events
        self._engines = EngineClient(client)
        self._keys = keys or EngineKeys()
        self._ports = ports or PortGuard(units)
        self._clock = clock
        self._sleepers = Sleepers(Path(settings.config.state_dir) / "asleep.json")
        self._ahead: dict[str, tuple[str, asyncio.Task[None]]] = {}
        """By group: the model whose weights are read while another one answers."""
        self._doubtful: set[str] = set()
        """Units whose load failed and which could not be stopped then."""
        self._turns: dict[str, asyncio.Lock] = {}
        """By group: held while its units are started and stopped."""
        self._falling_asleep: dict[str, int] = {}
        """By group: the memory that the running switch's model will keep."""

    def configure(self, settings: Settings) -> None:
        """Go by ``settings`` from now on; what runs is stopped as it was started."""
        before = self._settings.models
        self._settings = settings
        self._compare(before)

    def _compare(self, started: Mapping[str, Model]) -> None:
        for name, model in started.items():
            if needs_relaunch(model, self._models.get(name)):
                self._before.setdefault(name, model)

    @property
    def _models(self) -> dict[str, Model]:
        return self._settings.models

    def asleep(self) -> set[str]:
        """The models that gave up their device while their engine stays."""
        return self._sleepers.names()

    def has_slept(self, name: str) -> bool:
        """Whether the model slept since the boot, as it is configured now."""
        return self._sleepers.has_slept(name, launch_id(self._models[name]))

    async def would_sleep(self, name: str) -> bool:
        """Whether the model would be put to sleep if it had to go, and nobody for it."""
        release = await self._release(self._models[name].group, name, None)
        return release is not None and release.policy == "sleep" and not release.stopped

    def unit_changed(self, unit: str, state: UnitState) -> None:
        """A sleeper whose engine ended, or was started anew, sleeps no more."""
        if state.active != "active":
            self._sleepers.forget(unit)
        else:
            self._sleepers.find(unit, state.main_pid)

    def unit_of(self, name: str) -> str | None:
        """The unit that runs a model which is loaded; None where it is known no more."""
        model = self._before.get(name) or self._models.get(name)
        return model.unit if model is not None else None

    def _as_started(self, name: str, run: _Run | None = None) -> Model:
        """The model as its engine was started; one that this run has stopped may be gone from the
        configuration since. Raises KeyError."""
        gone = run.gone if run is not None else {}
        return self._before.get(name) or self._models.get(name) or gone[name]

    async def plan_for(self, name: str, loaded: str | None) -> tuple[Step, ...]:
        """What `run` would do now. Empty when ``name`` is loaded. Raises `UnitError`."""
        if name == loaded:
            return ()
        return await self._plan(self._models[name], loaded, trust_loading=False)

    async def unload_plan_for(self, group: str, loaded: str | None) -> tuple[Step, ...]:
        """What unloading ``group`` would do now. Empty when nothing is loaded. Raises
        `UnitError`."""
        return await self._unload_plan(group, loaded, "operator") if loaded is not None else ()

    async def run(self, switch: RunningSwitch) -> None:
        """Make ``switch.target`` the loaded model of its group, or none if it is None.

        Raises `SwitchFailed`; then the target's unit is stopped, or was never touched.
        """
        target = self._models[switch.target] if switch.target is not None else None
        name = target.name if target is not None else None
        started = self._clock()
        self._events.publish(
            SwitchStarted(switch.group, name, switch.previous, switch.reason, switch.number)
        )
        error: SwitchFailed | None = None
        run = _Run()
        try:
            async with self._turn(switch.group):
                await self._run(switch, target, run)
        except SwitchFailed as failed:
            error = failed
        except Exception as unexpected:
            log.exception("a switch of %s failed inside the router", switch.group)
            error = SwitchFailed(f"internal error: {unexpected!r}", blame=False)
        seconds = self._clock() - started
        message = str(error) if error else None
        self._events.publish(
            SwitchEnded(
                switch.group,
                name,
                switch.previous,
                seconds,
                switch.reason,
                message,
                tuple(run.ended),
                run.main_pid,
                run.context_length,
                switch.number,
            )
        )
        if error is not None:
            raise error

    async def found(self, model: Model) -> None:
        """``model`` serves, and no switch has loaded it; should it end, its memory is owed."""
        self._record.add(model)
        self._before.pop(model.name, None)
        await self._memory.loaded(model)

    async def observe(
        self,
        group: str,
        own: str | None = None,
        foreign: Collection[str] = (),
        *,
        unasked: str | None = None,
    ) -> list[Seen]:
        """What runs in the units of ``group`` now, and what it says of itself, all units side by
        side. What is known of units at rest is forgotten. Raises `UnitError`.

        ``own``: the unit of what is loaded, which may be configured for another group now;
        ``foreign``: units that other groups use still. ``unasked``: a unit whose engine is not
        asked what it serves.
        """
        by_unit: dict[str, list[Model]] = {}
        for model in self._models.values():
            if model.group == group and model.unit not in foreign:
                by_unit.setdefault(model.unit, []).append(model)
        former = [*self._before.values(), *self._record.models.values()]
        for model in former:
            elsewhere = model.unit in foreign or self._is_elsewhere(model)
            if model.group == group and (model.unit == own or not elsewhere):
                by_unit.setdefault(model.unit, [])
        started = {model.unit: model for model in former}
        seen: list[Seen | None] = [None] * len(by_unit)

        async def look(place: int, unit: str, models: list[Model]) -> None:
            seen[place] = await self._see(unit, models, started.get(unit), unit != unasked)

        errors: list[UnitError] = []

        async def guarded(place: int, unit: str, models: list[Model]) -> None:
            try:
                await look(place, unit, models)
            except UnitError as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            for place, (unit, models) in enumerate(by_unit.items()):
                tasks.start_soon(guarded, place, unit, models)
        if errors:
            raise errors[0]
        return [one for one in seen if one is not None]

    def _is_elsewhere(self, model: Model) -> bool:
        """Whether the unit that ``model`` was started in belongs to another group now."""
        owners = {other.group for other in self._models.values() if other.unit == model.unit}
        return bool(owners) and model.group not in owners

    async def _see(
        self, unit: str, models: list[Model], started: Model | None, ask: bool
    ) -> Seen | None:
        """None: the unit is at rest."""
        anyone = started or models[0]
        state = await self._units.state(anyone)
        self.unit_changed(unit, state)
        if not state.running:
            self._record.at_rest(unit)
            self._doubtful.discard(unit)
            for name in [name for name, one in self._before.items() if one.unit == unit]:
                del self._before[name]
            return None
        recorded = self._record.of(unit)
        outdated = recorded is not None and needs_relaunch(
            recorded, self._models.get(recorded.name)
        )
        if not models and recorded is None:
            outdated = True  # nobody has configured it, and the router has started it
        # what somebody else started anew is most likely what it was before
        last, names = self._record.last(unit), [one.name for one in models]
        model = recorded or anyone
        asleep = self._sleepers.find(unit, state.main_pid) is not None and not outdated
        unsure = self._sleepers.is_unsure(unit)
        answers: dict[str, Readiness] = {}
        if ask and state.active == "active" and not (outdated or asleep or unsure):
            answers = {one.name: Readiness("loading", silent=True) for one in models}
            with anyio.move_on_after(PROBE_WITHIN):
                answers = await self._probe_all(models)
        return Seen(
            unit,
            model.name if outdated else None,
            state,
            answers,
            recorded=None if outdated or last not in names else last,
            place=self._record.place(unit),
            asleep=asleep,
            unwanted=outdated or unsure,
            doubtful=unit in self._doubtful,
        )

    async def see_one(self, model: Model) -> tuple[UnitState, Readiness]:
        """The unit of ``model``, and what its engine says, within a few seconds. Raises
        `UnitError`."""
        state = await self._units.state(model)
        readiness = Readiness("loading", silent=True)
        if state.active == "active":
            with anyio.move_on_after(PROBE_WITHIN):
                readiness = await self._probe(model)
        return state, readiness

    async def sickness(self, model: Model) -> str | None:
        """What the engine of ``model`` itself says of failures that only a restart ends; None where
        it says nothing. Raises `UnitError`."""
        probe = engine_for(model).sickness
        if probe is None:
            return None
        with anyio.move_on_after(PROBE_WITHIN):
            answer = await self._fetch(model, probe)
            readiness = answer if isinstance(answer, Readiness) else probe.judge(answer, model)
            return readiness.detail if readiness.verdict == "wrong" else None
        return None

    def is_busy(self, group: str) -> bool:
        """Whether a switch of ``group`` runs, or a unit of it is being stopped."""
        return self._turn(group).locked()

    def _turn(self, group: str) -> asyncio.Lock:
        return self._turns.setdefault(group, asyncio.Lock())

    async def put_away(self, group: str, unit: str, loaded: str | None) -> None:
        """Stop a unit that must not run beside what is loaded in ``group``; a switch that begins
        meanwhile waits. Raises `UnitError`, TimeoutError."""
        models = [*self._record.models.values(), *self._before.values(), *self._models.values()]
        model = next((model for model in models if model.unit == unit), None)
        if model is None:
            return
        timeout = self._settings.config.switch.stop_timeout
        async with self._turn(group):
            with anyio.fail_after(timeout + STOP_MARGIN):
                await self._stop(model, timeout)
            for name in [name for name, one in self._before.items() if one.unit == unit]:
                del self._before[name]
            if loaded in self._models:
                await self._memory.loaded(self._models[loaded])

    async def _run(self, switch: RunningSwitch, target: Model | None, run: _Run) -> None:
        try:
            if target is None:
                plan = await self._unload_plan(
                    switch.group, switch.previous, switch.reason, switch.residency
                )
            else:
                adopt = switch.reason == "adopt"
                plan = await self._plan(target, switch.previous, trust_loading=adopt)
        except UnitError as error:
            raise SwitchFailed(str(error), blame=False, loaded=switch.previous) from error
        if target is not None and switch.reason == "adopt":
            await self._see_who_serves(switch.group, target)
        try:
            with switch.scope, self._reading_ahead(target, plan):
                switch.plan = plan
                plan = switch.plan = await self._checked(switch, target, plan, run)
                for step in plan:
                    if isinstance(step, GiveUp):
                        self._falling_asleep[switch.group] = step.how.memory
                    await self._step(switch, target, step, run)
                if target is not None:
                    self._record.add(target)
                    await self._memory.loaded(target)
                    # last: what ends after this is seen by the step that follows every switch
                    run.main_pid = await self._still_there(target)
                    if self._learned is not None and run.release is not None:
                        self._learned.loaded_by(target.name, run.release)
                return
        except _StepError as error:
            raise await self._give_up(switch, target, run, error) from error
        finally:
            self._falling_asleep.pop(switch.group, None)
        raise await self._give_up(
            switch, target, run, _StepError("an operator cancelled the switch", blame=False)
        )

    async def _checked(
        self, switch: RunningSwitch, target: Model | None, plan: tuple[Step, ...], run: _Run
    ) -> tuple[Step, ...]:
        """The plan, or one with a restart where the engine cannot load the model as it should.

        A model whose files cannot be written costs no other model its engine: they are worked out
        before anything is drained or stopped. Raises `_StepError`.
        """
        step = next((step for step in plan if isinstance(step, Activate)), None)
        loads = any(isinstance(step, TakeBack) for step in plan)
        if target is None or step is None or (step is plan[0] and not loads):
            return plan  # where activation is the first step, it says itself what is in the way
        started = self._clock()
        try:
            with anyio.fail_after(step.deadline):
                reason = await self._units.check(target)
        except (UnitError, TimeoutError) as error:
            said = str(error) or f"its files were not read within {step.deadline:g} s"
            seconds = self._clock() - started
            ended = StepEnded(
                switch.group, step.name, step.model, seconds, said, switch.number, target.unit
            )
            run.ended.append(ended)
            self._events.publish(ended)
            raise _StepError(
                f"Activate of '{target.name}' would fail, so nothing was stopped for it: {said}",
                blame=not _is_hosts(error),
            ) from error
        if not loads or not reason:
            return plan
        log.warning("%s is restarted for '%s': %s", target.unit, target.name, reason)
        units = {each.model: self._as_started(each.model, run).unit for each in plan}
        load_time = self.load_timeout(target)
        return with_restart(target, plan, units, self._settings.config.switch, load_time)

    async def _give_up(
        self, switch: RunningSwitch, target: Model | None, run: _Run, error: _StepError
    ) -> SwitchFailed:
        """Bring everything to a known state: the target stopped, if it was touched at all.

        The answer says what the log of the unit at fault said, and what can serve now.
        """
        reason = str(error)
        lines: list[str] = []
        if run.step is not None:
            reason = f"{run.step.name} of '{run.step.model}' failed: {reason}"
        if target is not None and error.wrong and switch.reason == "adopt":
            await self._see_who_serves(switch.group, target)
        if error.blame and run.step is not None:
            failed_model = self._as_started(run.step.model, run)
            # of one that was found loading, nobody knows when it was started
            since = None if switch.reason == "adopt" else run.engine_since or run.began
            lines = await self._log_of(failed_model, since)
        if target is not None and run.target_touched:
            timeout = self._settings.config.switch.stop_timeout
            try:
                with anyio.fail_after(timeout + STOP_MARGIN):
                    await self._stop(target, timeout)
            except (UnitError, TimeoutError) as failed:
                self._doubtful.add(target.unit)
                reason = f"{reason}; and its unit could not be stopped: {failed}"
        left = await self._left(switch, run)
        return SwitchFailed(reason, lines, blame=error.blame, loaded=left)

    async def _stop(self, model: Model, grace: float) -> None:
        """Stop the unit of ``model`` and forget what was known of its engine."""
        await self._memory.going(model)
        await self._units.stop(model, grace)
        self._memory.gone(model.group)
        self._record.at_rest(model.unit)
        self._sleepers.forget(model.unit)
        self._doubtful.discard(model.unit)

    async def _log_of(self, model: Model, since: float | None) -> list[str]:
        """The unit's last lines, none of an earlier start."""
        try:
            with anyio.fail_after(LOG_WITHIN):
                lines = await self._units.log_tail(model, 20, since)
                return [cut_text(line) for line in lines]
        except (UnitError, TimeoutError) as error:
            log.warning("no log of '%s': %s", model.name, error)
            return []

    async def _left(self, switch: RunningSwitch, run: _Run) -> str | None:
        """The former model, if it can answer still."""
        if switch.previous is None or not run.previous_touched:
            return switch.previous
        model = self._as_started(switch.previous, run)
        try:
            if (await self._units.state(model)).active != "active":
                return None
        except UnitError:
            return None
        return model.name if (await self._probe(model)).verdict == "ready" else None

    async def _see_who_serves(self, group: str, expected: Model) -> None:
        """What was found running while it loaded may be another of the models that share a unit.

        Raises `SwitchFailed`, with that one as loaded; `UnitError` leaves the question open.
        """
        with contextlib.suppress(UnitError):
            for seen in await self.observe(group):
                others = [name for name, one in seen.answers.items() if one.verdict == "ready"]
                if seen.unit == expected.unit and others and expected.name not in others:
                    message = f"'{expected.name}' was expected, and '{others[0]}' is running"
                    raise SwitchFailed(message, blame=False, loaded=others[0])

    async def _still_there(self, model: Model) -> int:
        """The main process of an engine that was just found ready; 0 when nobody can say."""
        try:
            state = await self._units.state(model)
        except UnitError:
            return 0
        if not state.running:
            result = f" ({state.result})" if state.result else ""
            raise _StepError(f"{model.unit} ended just after it was ready{result}")
        return state.main_pid

    async def _step(
        self, switch: RunningSwitch, target: Model | None, step: Step, run: _Run
    ) -> None:
        """One step; where an engine did not fall asleep, or not wake up, it is restarted."""
        try:
            await self._timed(switch, target, step, run)
            return
        except _StepError as error:
            kept = run.asleep if isinstance(step, WaitForMemory) else step.model
            if kept is None or not isinstance(step, (GiveUp, TakeBack, WaitForMemory)):
                raise
            log.warning("%s of '%s' failed, and it is stopped: %s", step.name, kept, error)
        limits = self._settings.config.switch
        instead: list[Step] = [Stop(kept, limits.stop_timeout)]
        if isinstance(step, WaitForMemory):
            instead.append(step)
        if isinstance(step, TakeBack) and target is not None:
            run.load_until = None  # a start has all the time that it would have had
            instead.append(Activate(step.model, limits.stop_timeout))
            instead.append(Start(step.model, self.load_timeout(target)))
        for other in instead:
            await self._timed(switch, target, other, run)

    async def _timed(
        self, switch: RunningSwitch, target: Model | None, step: Step, run: _Run
    ) -> None:
        run.step, switch.step = step, step.name
        if switch.drained_at is None and not isinstance(step, Drain):
            switch.drained_at = self._clock()
        if isinstance(step, (Stop, GiveUp)) and step.model == switch.previous:
            run.previous_touched = True
            switch.stopping()
        acts = not isinstance(step, WaitForMemory)
        run.target_touched |= target is not None and step.model == target.name and acts
        unit = self._as_started(step.model, run).unit
        self._events.publish(StepStarted(switch.group, step.name, step.model))
        started = self._clock()
        error: _StepError | None = None
        try:
            with anyio.fail_after(self._time_for(step, run)) as scope:
                run.load_scope = scope
                await self._perform(switch, target, step, run)
        except TimeoutError:
            error = _StepError(self._late(step, run), blame=_blames(step))
        except NotReleased as failed:
            error = _StepError(str(failed), blame=False)
        except UnitError as failed:
            error = _StepError(str(failed), blame=_blames(step) and not _is_hosts(failed))
        except _StepError as failed:
            error = failed
        except Exception as unexpected:
            # what is left of the plan is given up like after any other failure
            log.exception("%s of '%s' failed inside the router", step.name, step.model)
            error = _StepError(f"internal error: {unexpected!r}", blame=False)
        message = str(error) if error is not None else None
        seconds = self._clock() - started
        ended = StepEnded(
            switch.group, step.name, step.model, seconds, message, switch.number, unit
        )
        run.ended.append(ended)
        self._events.publish(ended)
        if error is not None:
            raise error

    def _time_for(self, step: Step, run: _Run) -> float | None:
        if isinstance(step, Drain):
            return None
        if isinstance(step, (Stop, WaitForMemory)):
            return step.deadline + STOP_MARGIN
        if not isinstance(step, (*LOADING, TakeBack)):
            return step.deadline
        if run.load_until is None or isinstance(step, TakeBack):
            run.load_from = self._clock()
            run.load_until = run.load_from + step.deadline
        return max(0.0, run.load_until - self._clock())

    def load_timeout(self, model: Model) -> float:
        """How long a load of ``model`` may take, in seconds, without a word of how far it has got.

        Never less than what is configured: from a cold page cache it takes ten times as long as
        from a warm one. But twice what it took before, where that is more.
        """
        limits = self._settings.config.switch
        configured = model.timeout or limits.timeout
        longest = self._learned.longest_load(model.name) if self._learned is not None else 0.0
        return max(configured, min(2 * longest, limits.max_timeout))

    def _advanced(self, switch: RunningSwitch, run: _Run, bar: Bar) -> None:
        """The engine goes on loading: that buys it time, up to a limit."""
        run.bar, run.advanced, switch.progress = bar, self._clock(), bar.part
        if bar.part is not None and switch.target is not None:
            self._events.publish(LoadProgress(switch.group, switch.target, bar.part))
        self._give_time(switch, run)

    def _compiles(self, switch: RunningSwitch, run: _Run, target: Model, compiling: bool) -> None:
        """A compiler runs in the engine's unit: the load goes on, and says why it takes so long."""
        doing = ""
        if compiling:
            if run.compiled is None and self._learned is not None:
                run.first = self._learned.is_first(target.name, run.release or "")
            run.compiled = self._clock()
            self._give_time(switch, run)
            doing = "compiling kernels (first start)" if run.first else "compiling kernels"
        self._does(switch, doing)

    def _does(self, switch: RunningSwitch, doing: str) -> None:
        if doing == switch.doing or switch.target is None:
            return
        switch.doing = doing
        self._events.publish(LoadActivity(switch.group, switch.target, doing))
        if doing:
            log.info("%s is %s; its load may go on for that", switch.target, doing)

    def _give_time(self, switch: RunningSwitch, run: _Run) -> None:
        now, limits = self._clock(), self._settings.config.switch
        if run.load_until is None or run.load_scope is None or run.load_scope.cancel_called:
            return
        until = min(now + limits.stall_timeout, run.load_from + self._longest(run)[0])
        if until > run.load_until:
            run.load_until, switch.limit = until, self._longest(run)[0]
            run.load_scope.deadline = anyio.current_time() + until - now

    def _longest(self, run: _Run) -> tuple[float, str]:
        """Seconds that the load may take in all, and the key that says so."""
        limits = self._settings.config.switch
        if run.first and limits.first_timeout > limits.max_timeout:
            return limits.first_timeout, "switch.first_timeout"
        return limits.max_timeout, "switch.max_timeout"

    def _late(self, step: Step, run: _Run) -> str:
        loads = isinstance(step, (*LOADING, TakeBack))
        if not loads or (run.bar is None and run.compiled is None):
            last = run.said if isinstance(step, WaitUntilReady) else ""
            return f"not done within {step.deadline:g} s{last and f'; its last answer: {last}'}"
        now = self._clock()
        took, (longest, key) = now - run.load_from, self._longest(run)
        if took >= longest:
            return f"not done within {longest:g} s ({key})"
        if run.bar is None or (run.compiled or 0.0) > run.advanced:
            quiet = now - (run.compiled or now)
            return (
                f"not done within {took:.0f} s; it compiled kernels, and no compiler has run for "
                f"the last {quiet:.0f} s"
            )
        what = "weights" if run.bar.weights else "CUDA graphs"
        return (
            f"not done within {took:.0f} s, and it came no further than {what} "
            f"{run.bar.percent}% ({run.bar.count})"
        )

    async def _perform(
        self, switch: RunningSwitch, target: Model | None, step: Step, run: _Run
    ) -> None:
        if isinstance(step, Drain):
            await _drain(switch, step)
        elif isinstance(step, Stop):
            model = run.gone[step.model] = self._as_started(step.model, run)
            await self._stop(model, step.deadline)
            self._before.pop(step.model, None)
        elif isinstance(step, GiveUp):
            await self._give_up_device(switch, step, run)
            run.asleep = step.model
        elif target is None:
            raise TypeError(f"a step without a model: {step!r}")
        elif isinstance(step, WaitForMemory):
            need = memory_need(target, engine_for(target).memory_option)
            await self._memory.wait(switch.group, step.model, step.deadline, need)
        elif isinstance(step, Activate):
            await self._units.activate(target)
        elif isinstance(step, TakeBack):
            await self._take_back_device(switch, target, step, run)
            run.load_until = None  # what comes after it has a load's whole time
        elif isinstance(step, Start):
            await self._port_closed(target)
            self._sleepers.forget(target.unit)  # what is started now is awake, whatever was before
            self._record.add(target)
            self._doubtful.discard(target.unit)
            run.engine_since = time.time()
            await self._units.start(target)
            run.exits = 0
        elif isinstance(step, WaitUntilReady):
            async with self._following(switch, target, run):
                run.context_length = await self._wait_until_ready(target, run)
            switch.progress = None
        elif isinstance(step, WarmUp):
            # some kernels are compiled for the first token
            async with self._following_compilers(switch, target, run):
                await self._warm_up(target, run)
        else:
            raise TypeError(f"no such step: {step!r}")

    @contextlib.asynccontextmanager
    async def _following(
        self, switch: RunningSwitch, target: Model, run: _Run
    ) -> AsyncIterator[None]:
        """Meanwhile, what the engine's log says of the load, and what runs in its unit."""

        def advanced(bar: Bar) -> None:
            self._advanced(switch, run, bar)

        async with self._following_compilers(switch, target, run):
            if not engine_for(target).draws_bars:
                yield
                return
            follow = partial(follow_load, self._units, target, run.engine_since, advanced)
            async with in_background("load_progress", follow, self._events):
                yield

    @contextlib.asynccontextmanager
    async def _following_compilers(
        self, switch: RunningSwitch, target: Model, run: _Run
    ) -> AsyncIterator[None]:
        async def follow() -> None:
            await anyio.sleep(following.EVERY)  # most loads are done by then
            if run.release is None:
                with contextlib.suppress(UnitError):
                    run.release = await self._units.release(target)
            compiles = partial(self._compiles, switch, run, target)
            await follow_compilers(self._units, target, compiles)

        async with in_background("load_progress", follow, self._events):
            yield
        self._does(switch, "")

    @contextlib.contextmanager
    def _reading_ahead(self, target: Model | None, plan: Sequence[Step]) -> Iterator[None]:
        """What a start will read is read while others are waited for."""
        starts = any(isinstance(step, Start) for step in plan)
        if target is None or not starts or not self._settings.config.switch.prewarm:
            yield
            return
        model, reading = self._ahead.pop(target.group, ("", None))
        if reading is None or model != target.name or reading.done():
            if reading is not None:
                reading.cancel()
            reading = asyncio.create_task(self._read_ahead(target))
        try:
            yield
        finally:
            reading.cancel()

    def expect(self, name: str) -> None:
        """A switch to this model comes when the answers of another have ended: until then there is
        time to read its weights."""
        model = self._models.get(name)
        if model is None:
            return
        asked, reading = self._ahead.get(model.group, ("", None))
        if asked == name or (reading is not None and not reading.done()):
            return
        if self._settings.config.switch.prewarm and name not in self._sleepers.names():
            self._ahead[model.group] = name, asyncio.create_task(self._read_ahead(model))

    async def _read_ahead(self, model: Model) -> None:
        began = self._clock()
        try:
            size = await self._units.prewarm(model)
        except UnitError as error:
            log.debug("the weights of %s are not read ahead: %s", model.name, error)
            return
        except Exception as error:  # noqa: BLE001 - `report_failure` logs it
            report_failure("read_ahead", self._events, error, f"{model.name} loads without it")
            return
        if size:
            seconds = self._clock() - began
            log.info("read %.1f GB of %s ahead in %.2f s", size / 1e9, model.name, seconds)

    async def _give_up_device(self, switch: RunningSwitch, step: GiveUp, run: _Run) -> None:
        """Never while it is busy: some engines end when they are asked that."""
        if not switch.drained.is_set():
            raise _StepError("answers run still", blame=False)
        model = self._as_started(step.model)
        state = await self._units.state(model)
        await self._memory.going(model, stays=True)
        self._sleepers.unsure(model.unit)
        for call in engine_for(model).residencies[step.how.policy].out:
            await self._call(switch, model, call, run)
        self._memory.gone(model.group)
        memory, pid = step.how.memory, state.main_pid
        sleeper = Sleeper(model.name, model.unit, step.how.policy, pid, memory, time.time())
        self._sleepers.add(sleeper, launch_id(model))

    async def _take_back_device(
        self, switch: RunningSwitch, model: Model, step: TakeBack, run: _Run
    ) -> None:
        state = await self._units.state(model)
        if self._sleepers.find(model.unit, state.main_pid) is None:
            raise _StepError("it does not sleep any more")
        self._sleepers.unsure(model.unit)
        self._record.add(model)
        for call in engine_for(model).residencies[step.policy].back:
            await self._call(switch, model, call, run)
        switch.progress = None
        self._sleepers.forget(model.unit)

    async def _call(self, switch: RunningSwitch, model: Model, call: Call, run: _Run) -> None:
        """One of the calls by which an engine gives up its device or takes it back."""
        await self._ports.check(model)
        try:
            async with self._engines.stream(
                "POST",
                model.base_url,
                call.path,
                self._keys.headers(model, self._settings.config),
                call.body(model),
            ) as answer:
                if answer.status != 200:
                    text = _shown(await answer.whole())
                    raise _StepError(f"{call.path} answers {answer.status}: {text}")
                async for line in answer.lines():
                    self._follow(switch, call, line, run)
        except AnswerRefused as error:
            raise _StepError(f"{call.path}: the engine {error}") from error
        except httpx.HTTPError as error:
            await self._still_running(model, run)
            raise _StepError(f"no answer to {call.path}: {type(error).__name__}") from error

    def _follow(self, switch: RunningSwitch, call: Call, line: bytes, run: _Run) -> None:
        """One line of the answer to a call: TabbyAPI tells in events how far its load has got."""
        if not line.startswith(b"data:"):
            return
        event = _parsed(line[5:])
        if not isinstance(event, dict):
            return
        if event.get("error"):
            raise _StepError(f"{call.path}: {_shown(line[5:])}")
        done, of = count(event.get("module")), count(event.get("modules"))
        if done is None or not of:
            return
        if event.get("model_type") == "model":
            self._advanced(switch, run, Bar(True, min(100, 100 * done // of), f"{done}/{of}"))

    async def _plan(
        self, target: Model, loaded: str | None, *, trust_loading: bool
    ) -> tuple[Step, ...]:
        observed = await self._observe(target.group, target, loaded)
        config = self._settings.config
        return make_plan(
            target,
            observed,
            config.switch,
            config.scheduler,
            loaded=loaded,
            release=await self._release(target.group, loaded, target.name),
            trust_loading=trust_loading,
            memory=self._memory.state_of(target.group),
            load_time=self.load_timeout(target),
        )

    async def _unload_plan(
        self,
        group: str,
        loaded: str | None,
        reason: Reason,
        residency: ResidencyWish | None = None,
    ) -> tuple[Step, ...]:
        observed = await self._observe(group, None, loaded)
        config = self._settings.config
        # who asks for the device, or took a model away, wants nothing of it left there
        idle = reason == "idle"
        release = await self._release(group, loaded, None, residency) if idle else None
        return make_unload_plan(
            observed, config.switch, config.scheduler, loaded=loaded, release=release
        )

    async def _release(
        self,
        group: str,
        loaded: str | None,
        target: str | None,
        residency: ResidencyWish | None = None,
    ) -> Release | None:
        """How the loaded model of a group goes, or by ``residency`` in place of its own. Others of
        its group may be stopped to make room for it, but not the target, which is about to wake
        up."""
        if loaded not in self._models or loaded in self._before:
            return None
        model = self._models[loaded]
        if residency is not None:
            model = model.model_copy(update={"residency": residency})
        weights = await anyio.to_thread.run_sync(weights_size, model.model_path)
        sleepers = self._sleepers.all()
        own = [
            sleeper
            for sleeper in sleepers
            if sleeper.model != target
            and sleeper.model in self._models
            and self._models[sleeper.model].group == group
        ]
        budget = int(host_memory() * self._settings.config.switch.sleep_memory)
        kept = sum(sleeper.memory for sleeper in sleepers)
        others = sum(memory for name, memory in self._falling_asleep.items() if name != group)
        return choose(model, weights, own, budget - kept - others)

    async def _observe(
        self, group: str, target: Model | None, loaded: str | None
    ) -> list[Observed]:
        """Every unit of ``group`` that runs, by the model that it most likely runs."""
        by_unit: dict[str, Model] = {}
        for model in (*self._before.values(), *self._models.values()):
            if model.group == group:
                by_unit.setdefault(model.unit, model)
        if target is not None:
            by_unit[target.unit] = target
        if loaded in self._before or loaded in self._models:
            by_unit[self._as_started(loaded).unit] = self._as_started(loaded)
        observed: list[Observed] = []
        for model in by_unit.values():
            state = await self._units.state(model)
            if state.running:
                observed.append(await self._look_at(model, state, target))
            elif self._before.get(model.name) is model:
                del self._before[model.name]
        return observed

    async def _look_at(self, model: Model, state: UnitState, target: Model | None) -> Observed:
        # one that was started as something else is not asked what it serves, nor woken
        known = model.name not in self._before and not self._sleepers.is_unsure(model.unit)
        sleeper = self._sleepers.find(model.unit, state.main_pid) if known else None
        if sleeper is not None:
            return Observed(self._models.get(sleeper.model, model), state, sleeper=sleeper)
        readiness = await self._probe(model) if known and model is target else None
        return Observed(model, state, readiness)

    async def _port_closed(self, model: Model) -> None:
        """Nothing may listen where the engine will: TabbyAPI would take the next port, silently."""
        port = int(model.base_url.rpartition(":")[2])
        delay = FIRST_POLL
        with anyio.move_on_after(PORT_CLOSES_WITHIN):
            while True:
                try:
                    stream = await anyio.connect_tcp("127.0.0.1", port)
                except OSError:
                    return
                await stream.aclose()
                await anyio.sleep(delay)
                delay = min(delay * 2, LONGEST_POLL)
        raise _StepError(
            f"port {port} is in use by another process; find it with `ss -ltnp 'sport = :{port}'`"
        )

    async def _wait_until_ready(self, model: Model, run: _Run) -> int | None:
        """Returns the length of its context, if its engine says that."""
        delay = FIRST_POLL
        # whatever name its engine has, it is this model's: this run has started it
        started = run.engine_since is not None
        while (readiness := await self._probe(model, started=started)).verdict != "ready":
            run.said = readiness.detail
            await self._still_running(model, run)
            if readiness.verdict == "refused":
                raise _StepError(
                    f"the engine on {model.base_url} {readiness.detail}; "
                    f"{self._keys.shown(model, self._settings.config)}"
                )
            if readiness.verdict == "held":
                raise _StepError(readiness.detail)
            if readiness.verdict == "wrong":
                raise _StepError(
                    f"the engine on {model.base_url} is up but {readiness.detail}, not "
                    f"'{model.upstream_name}'; set the engine's name for it as `model_name`",
                    wrong=True,
                )
            await anyio.sleep(delay)
            delay = min(delay * 2, LONGEST_POLL)
        return readiness.context_length

    async def _still_running(self, model: Model, run: _Run) -> None:
        """Raises `_StepError` if the engine ended, even where systemd restarts it: the next try
        would fail like this one, and the caller waits."""
        try:
            state = await self._units.state(model)
        except ManagerUnavailable:
            return  # asked again until the deadline
        how = f" ({state.end})" if state.end else ""
        if not state.running:
            raise _StepError(f"{model.unit} ended while it loaded{how}")
        if run.exits is None:  # one that was found running; its past is not this run's
            run.exits = state.exits
        if state.exits > run.exits:
            raise _StepError(
                f"{model.unit} ended while it loaded{how}, and systemd restarts it again and "
                f"again; see `journalctl -u {model.unit}`"
            )

    async def _probe(self, model: Model, *, started: bool = False) -> Readiness:
        """All probes of the model's engine; the first that is not ready speaks for them."""
        return (await self._probe_all([model], started=started))[model.name]

    async def _probe_all(
        self, models: Sequence[Model], *, started: bool = False
    ) -> dict[str, Readiness]:
        """What one engine says of each of the models that it may serve: every question is asked
        once. ``started``: it was started as the model, and as no other."""
        answers: dict[str, ProbeAnswer | Readiness] = {}
        return {model.name: await self._judge(model, answers, started) for model in models}

    async def _judge(
        self, model: Model, answers: dict[str, ProbeAnswer | Readiness], started: bool
    ) -> Readiness:
        context_length = None
        named = self._learned.named(model) if self._learned is not None else model
        nameless = model.takes_its_name and (
            started or (named is model and self._is_alone(model, self._record.of(model.unit)))
        )
        for probe in engine_for(model).probes:
            url = model.base_url + probe.path
            if url not in answers:
                answers[url] = await self._fetch(model, probe)
            answer = answers[url]
            readiness = answer if isinstance(answer, Readiness) else probe.judge(answer, named)
            if nameless and len(readiness.serves) == 1 and isinstance(answer, ProbeAnswer):
                named = model.model_copy(update={"model_name": readiness.serves[0]})
                readiness = probe.judge(answer, named)
            if readiness.verdict != "ready":
                return readiness
            context_length = context_length or readiness.context_length
        if not started and self._has_namesake(named):
            return Readiness("wrong", f"it calls several models '{named.upstream_name}'")
        if nameless and self._learned is not None:
            self._learned.serves(model.name, named.upstream_name)
        return Readiness("ready", context_length=context_length)

    def _has_namesake(self, model: Model) -> bool:
        """Whether the answer of ``model`` may be another model's, of which TabbyAPI says no more
        than the last part of its folder; the record of what was started tells them apart."""
        if not engine_for(model).names_itself or self._record.last(model.unit) == model.name:
            return False
        own = last_part(model.upstream_name)
        return any(
            other.name != model.name
            and other.unit == model.unit
            and last_part(other.upstream_name) == own
            for other in self._models.values()
        )

    def _is_alone(self, model: Model, recorded: Model | None) -> bool:
        """Whether what runs in the unit of ``model`` can be no other model."""
        if recorded is not None:
            return recorded.name == model.name
        return not any(
            other.unit == model.unit and other.name != model.name for other in self._models.values()
        )

    async def _fetch(self, model: Model, probe: Probe) -> ProbeAnswer | Readiness:
        """The answer to one probe, or what its absence means."""
        try:
            if await self._ports.check(model) == frozenset():
                return Readiness(
                    "loading", "nothing listens on its port", silent=True, port_closed=True
                )
        except PortHeld as error:
            return Readiness("held", str(error))
        except UnitError as error:
            if not isinstance(error, ManagerUnavailable) and not is_host_fault(error):
                raise
            return Readiness("loading", str(error), silent=True)  # asked again until the deadline
        key = self._keys.headers(model, self._settings.config)
        try:
            with anyio.fail_after(probe.timeout):
                answer = await self._engines.ask("GET", model.base_url, probe.path, key)
        except AnswerRefused as error:
            return Readiness("loading", f"{probe.path}: {error}")
        except httpx.ConnectError as error:
            return Readiness(
                "loading",
                f"{probe.path}: {type(error).__name__}",
                silent=True,
                port_closed=not is_host_fault(error),
            )
        except (httpx.HTTPError, TimeoutError) as error:
            return Readiness("loading", f"{probe.path}: {type(error).__name__}", silent=True)
        if answer.status in (401, 403):
            return Readiness("refused", f"refuses the router's key ({answer.status})")
        return ProbeAnswer(answer.status, _parsed(answer.body))

    async def _warm_up(self, model: Model, run: _Run) -> None:
        named = self._learned.named(model) if self._learned is not None else model
        call = engine_for(model).warm_up(named)
        await self._ports.check(model)
        key = self._keys.headers(model, self._settings.config)
        try:
            answer = await self._engines.ask(
                "POST", model.base_url, call.path, key, dict(call.body)
            )
        except AnswerRefused as error:
            raise _StepError(f"no first token: the engine {error}") from error
        except httpx.HTTPError as error:
            await self._still_running(model, run)
            raise _StepError(f"no answer to a first token: {type(error).__name__}") from error
        if answer.status != 200 or not call.generated(_parsed(answer.body)):
            said = _shown(answer.body) or "with an empty body"
            raise _StepError(f"no first token: {answer.status} {said}")


async def _drain(switch: RunningSwitch, step: Drain) -> None:
    """Past the deadline the answers are cut; who does not end even then is left to the stop."""
    with anyio.move_on_after(step.deadline if step.cut else None):
        await switch.drained.wait()
        return
    log.warning("answers of '%s' run for %g s still: cutting them", step.model, step.deadline)
    switch.cut()
    with anyio.move_on_after(CUT_WITHIN):
        await switch.drained.wait()


def _blames(step: Step) -> bool:
    """Whether what goes wrong in it is the target's fault: another model's going is not."""
    return not isinstance(step, (Drain, Stop, WaitForMemory))


def _is_hosts(error: Exception) -> bool:
    """Whether no model is at fault: units cannot be managed at all, or a disk is full."""
    return isinstance(error, (ManagerUnavailable, TimeoutError)) or is_host_fault(error)


def _parsed(body: bytes) -> Any:
    try:
        return from_json(body)
    except ValueError:
        return None


def _shown(body: bytes) -> str:
    """An engine's own words, for an error."""
    return cut_text(body.decode("utf-8", "replace").strip())
