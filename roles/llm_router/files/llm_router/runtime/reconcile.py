"""One step per device group: observe what runs, compare it with what is noted, act.

The step runs at start, after every change of a unit, after every switch, when the service manager
can be reached again, and now and then without any reason. So nothing depends on an event that was
missed. It never acts while a switch of its group runs: the end of the switch asks for it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import anyio

from llm_router.background import keep_running, report_failure, run_once
from llm_router.config.schema import Model
from llm_router.engines import engine_for
from llm_router.events import EventStream, ModelLost
from llm_router.runtime.assess import Belief, Verdict, assess, is_lost
from llm_router.scheduler.service import Scheduler
from llm_router.switcher.executor import Switcher
from llm_router.switcher.learned import Learned
from llm_router.units.base import UnitError, Units, UnitState

log = logging.getLogger(__name__)

LOOK_EVERY = 15.0
"""Seconds between two steps that nothing has asked for."""
LOOK_AGAIN = 1.0
"""Seconds until a step that could not do its work is tried again."""
READY_WITHIN = 1.0
"""Seconds that the start of the router waits for the first steps."""

FAILURES = 3
"""Generations that must fail in a row before an engine is asked whether it is sick: a restart costs
minutes, and one failure may be its request's."""
RESTART_INTERVAL = 600.0
"""Seconds between two restarts of a sick engine: requests that make it sick repeatedly must not
keep it from serving the others."""


class Reconciler:
    """Keeps the scheduler's notes and the host's units in agreement."""

    def __init__(
        self,
        scheduler: Scheduler,
        switcher: Switcher,
        units: Units,
        events: EventStream,
        learned: Learned,
        models: Callable[[], dict[str, Model]],
        first: Callable[[str], None],
    ) -> None:
        self._scheduler = scheduler
        self._switcher = switcher
        self._units = units
        self._events = events
        self._learned = learned
        self._models = models
        self._first = first
        """Told of each group once its first step has ended."""
        self.main_pids: dict[str, int] = {}
        """By model: the main process of its unit when it was found or made ready."""
        self.unsettled: dict[str, str] = {}
        """By group: why what runs there is not what should run there."""
        self._suspects: dict[str, str] = {}
        """By group: the loaded model whose engine runs and did not serve when it was last asked."""
        self._known: dict[str, asyncio.Event] = {}
        self._wanted: set[str] = set()
        self._asked: set[str] = set()
        self._steps: dict[str, asyncio.Task[None]] = {}
        self._later: dict[str, asyncio.TimerHandle] = {}
        self._failures: dict[str, tuple[int, int]] = {}
        """By model: how many generations have failed in a row, and since which change of its
        group."""
        self._examined: dict[str, asyncio.Task[None]] = {}
        """By model: the question to an engine whose generations fail."""
        self._restarted: dict[str, float] = {}
        """By model: when its engine was restarted for its failures."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Make the first steps and go on; returns control when all are made, or after a second."""
        undo = [
            self._units.subscribe(self._unit_changed),
            self._units.on_connected(self.look_everywhere),
        ]
        self.look_everywhere()
        timer = asyncio.create_task(keep_running("reconcile", self._now_and_then, self._events))
        with anyio.move_on_after(READY_WITHIN):
            for name in list(self._scheduler.core.groups):
                await self.known(name)
        try:
            yield
        finally:
            # engines that end with the router are not lost
            for end in undo:
                end()
            for later in self._later.values():
                later.cancel()
            tasks = [timer, *self._steps.values(), *self._examined.values()]
            for task in tasks:
                task.cancel()
            for task in tasks:
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def unknown(self) -> list[str]:
        """The groups of which nobody knows yet what runs there."""
        groups = self._scheduler.core.groups
        return [name for name, group in groups.items() if group.unknown]

    async def known(self, group: str) -> None:
        """Wait for the first step of ``group``, which has a deadline."""
        if self._scheduler.core.groups[group].unknown:
            await self._known.setdefault(group, asyncio.Event()).wait()

    def look_everywhere(self) -> None:
        """Ask for a step of every group."""
        for name in list(self._scheduler.core.groups):
            self.look(name)

    def look(self, group: str) -> None:
        """Ask for a step of ``group``. One runs at a time; of those asked for meanwhile, one."""
        self._wanted.add(group)
        later = self._later.pop(group, None)
        if later is not None:
            later.cancel()
        if group not in self._steps:
            self._steps[group] = asyncio.get_running_loop().create_task(self._work(group))

    def switch_ended(self, group: str) -> None:
        """A switch of ``group`` has ended: its engine was asked just now, so the step that follows
        asks only the others."""
        self._asked.add(group)
        self.look(group)

    async def see(self, model: Model) -> None:
        """Whether the engine of a loaded model still is what it was, after a connection to it that
        brought nothing. Raises `UnitError`."""
        if model.name not in self._models():
            return
        before = self._scheduler.core.group_of(model.name).changes
        state, readiness = await self._switcher.see_one(model)
        group = self._scheduler.core.groups.get(model.group)
        if group is None or group.changes != before or group.loaded != model.name:
            return
        # the request that asks is one of those that hold it
        belief = self._belief(model.group, besides=1)
        reason, broken = is_lost(belief, state, readiness)
        if reason is None or (broken and not readiness.port_closed):
            self.look(model.group)
            return
        self._lose(model.group, model.name, reason)
        serves_no_more = readiness.verdict == "wrong" or readiness.empty
        if not broken and state.running and not serves_no_more:
            self._scheduler.adopt(model.group, model.name)
        else:
            self._scheduler.lost(model.name)
        self.look(model.group)

    async def still_serves(self, model: Model) -> bool:
        """Whether a loaded model's engine, which runs, still has it."""
        try:
            await self.see(model)
        except UnitError:
            return True
        group = self._scheduler.core.groups.get(model.group)
        return group is not None and group.loaded == model.name

    def generation_succeeded(self, model: Model) -> None:
        """``model`` has answered: earlier failures were not its engine's."""
        self._failures.pop(model.name, None)

    def generation_failed(self, model: Model) -> None:
        """``model`` has answered with a fault of its engine. After some of them in a row the engine
        is asked whether it is sick; one that says so is restarted."""
        group = self._scheduler.core.groups.get(model.group)
        if engine_for(model).sickness is None or group is None or group.loaded != model.name:
            return
        since, count = self._failures.get(model.name, (group.changes, 0))
        count = count + 1 if since == group.changes else 1
        self._failures[model.name] = group.changes, count
        if count >= FAILURES and model.name not in self._examined:
            examine = partial(self._examine, model, count)
            work = run_once("reconcile", examine, self._events)
            examining = asyncio.get_running_loop().create_task(work)
            self._examined[model.name] = examining
            examining.add_done_callback(lambda _: self._examined.pop(model.name, None))

    async def _examine(self, model: Model, count: int) -> None:
        """Restart a sick engine, but never twice within a few minutes."""
        group = self._scheduler.core.groups[model.group]
        before = group.changes
        try:
            problem = await self._switcher.sickness(model)
        except UnitError as error:
            log.warning("the health of %s cannot be asked: %s", model.name, error)
            return
        if problem is None or group.changes != before or group.loaded != model.name:
            return
        if model.name not in self._models():
            return
        now, last = asyncio.get_running_loop().time(), self._restarted.get(model.name)
        what = f"{count} generations in a row failed and {problem}"
        if last is not None and now - last < RESTART_INTERVAL:
            log.error(
                "%s: %s; it was restarted for that %.0f s ago and stays as it is: restart %s",
                model.name,
                what,
                now - last,
                model.unit,
            )
            return
        self._restarted[model.name] = now
        log.error("%s: %s; its engine is restarted when its answers have ended", model.name, what)
        self._scheduler.restart(model.name)

    def _unit_changed(self, unit: str, state: UnitState) -> None:
        """What is certain is acted on at once; the step does the rest."""
        self._switcher.unit_changed(unit, state)
        groups = {model.group for model in self._models().values() if model.unit == unit}
        for name, group in self._scheduler.core.groups.items():
            loaded = group.loaded
            if loaded is not None and not group.switching:
                if unit == self._switcher.unit_of(loaded):
                    reason, _ = is_lost(self._belief(name), state, None)
                    if reason is not None:
                        self._lose(name, loaded, reason)
                        model = self._models().get(loaded)
                        restarts = state.active in ("activating", "active")
                        if restarts and model is not None and model.group == name:
                            self._scheduler.adopt(name, loaded)
                        else:
                            self._scheduler.lost(loaded)
            if name in groups or unit == group.loaded_unit:
                self.look(name)

    def _belief(self, name: str, *, besides: int = 0) -> Belief:
        group = self._scheduler.core.groups[name]
        loaded = group.loaded
        if loaded is None:
            return Belief()
        return Belief(
            loaded,
            self._switcher.unit_of(loaded) or group.loaded_unit,
            self.main_pids.get(loaded, 0),
            max(0, group.in_flight(loaded) - besides),
            loaded in group.stale,
            self._suspects.get(name) == loaded,
        )

    def _lose(self, group: str, model: str, reason: str) -> None:
        log.warning("the engine of %s is gone: %s", model, reason)
        self.main_pids.pop(model, None)
        self._events.publish(ModelLost(group, model, reason))

    async def _now_and_then(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            self.look_everywhere()

    async def _work(self, group: str) -> None:
        try:
            while group in self._wanted:
                self._wanted.discard(group)
                try:
                    problem = await self._step(group)
                except (UnitError, TimeoutError) as error:
                    problem = str(error) or type(error).__name__
                except Exception as error:
                    log.exception("the units of group %s cannot be compared", group)
                    problem = f"internal error: {error!r}"
                if problem is None:
                    self.unsettled.pop(group, None)
                else:
                    if self.unsettled.get(group) != problem:
                        log.error("group %s: %s; trying again", group, problem)
                    self.unsettled[group] = problem
                self._now_known(group)
        finally:
            self._steps.pop(group, None)
        if group in self.unsettled:
            loop = asyncio.get_running_loop()
            self._later[group] = loop.call_later(LOOK_AGAIN, self.look, group)

    def _now_known(self, name: str) -> None:
        group = self._scheduler.core.groups.get(name)
        if group is not None and group.unknown:
            self._scheduler.known(name)
            self._known.setdefault(name, asyncio.Event()).set()
            try:
                self._first(name)
            except Exception as error:  # noqa: BLE001 - `report_failure` logs it
                report_failure(
                    "reconcile", self._events, error, f"group {name} may lack a preloaded model"
                )

    async def _step(self, name: str) -> str | None:
        """One step; what keeps the two from agreeing, or None. Raises `UnitError`."""
        core = self._scheduler.core
        group = core.groups[name]
        if self._in_use(name):
            return None
        before = group.changes
        unasked = group.loaded_unit if name in self._asked else None
        self._asked.discard(name)
        foreign = core.units_elsewhere(name)
        seen = await self._switcher.observe(name, group.loaded_unit, foreign, unasked=unasked)
        if self._in_use(name):
            return None
        if group.changes != before:
            self._wanted.add(name)
            return None
        belief = self._belief(name)
        verdict = assess(belief, seen)
        if verdict.suspect is not None and belief.loaded is not None:
            self._suspects[name] = belief.loaded
        else:
            self._suspects.pop(name, None)
        await self._act(name, belief, verdict)
        for unit in verdict.stop:
            if self._in_use(name) or unit in core.units_elsewhere(name):
                return None
            log.warning("stopping %s: it must not run in group %s now", unit, name)
            try:
                await self._switcher.put_away(name, unit, group.loaded)
            except (UnitError, TimeoutError) as error:
                return f"{unit} runs, must not, and cannot be stopped: {error}"
        return verdict.suspect or group.stuck

    def _in_use(self, name: str) -> bool:
        """Whether a switch works on the group: its end asks for a step."""
        return self._scheduler.core.groups[name].switching or self._switcher.is_busy(name)

    async def _act(self, name: str, belief: Belief, verdict: Verdict) -> None:
        if verdict.lost is not None and belief.loaded is not None:
            self._lose(name, belief.loaded, verdict.lost)
        elif belief.loaded is not None and verdict.main_pid:
            self.main_pids[belief.loaded] = verdict.main_pid
        model = self._models().get(verdict.found or "")
        if model is not None:
            log.info("found %s ready", model.name)
            self.main_pids[model.name] = verdict.main_pid
            if verdict.readiness is not None:
                self._learned.found(model.name, verdict.readiness.context_length)
            self._scheduler.found_loaded(model.name)
            await self._switcher.found(model)
        elif verdict.adopt in self._models():
            log.info("found %s loading", verdict.adopt)
            self._scheduler.adopt(name, str(verdict.adopt))
        elif verdict.lost is not None and belief.loaded is not None:
            self._scheduler.lost(belief.loaded)
