"""Runs plans: every step has a deadline, an event when it begins and one when it ends."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx

from llm_router.config.diff import needs_relaunch
from llm_router.config.load import Settings
from llm_router.config.schema import Model
from llm_router.engine_keys import EngineKeys
from llm_router.engines import ProbeAnswer, Readiness, engine_for
from llm_router.events import EventStream, StepEnded, StepStarted, SwitchEnded, SwitchStarted
from llm_router.scheduler.service import RunningSwitch, SwitchFailed
from llm_router.switcher.plan import (
    Activate,
    Drain,
    Observed,
    Start,
    Step,
    Stop,
    WaitUntilReady,
    WarmUp,
    make_plan,
    make_unload_plan,
)
from llm_router.switcher.record import Record
from llm_router.units.base import ManagerUnavailable, UnitError, Units

log = logging.getLogger(__name__)

FIRST_POLL, LONGEST_POLL = 0.005, 0.1
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

    step: Step | None = None
    load_until: float | None = None
    previous_touched: bool = False
    target_touched: bool = False
    main_pid: int = 0
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
    ) -> None:
        self._settings = settings
        self._record = Record(Path(settings.config.state_dir) / "started.json")
        self._before: dict[str, Model] = {}
        """Models as they were when their engine was started, where they are configured otherwise
        now: that is how they are stopped."""
        self._compare(self._record.models)
        self._units = units
        self._events = events
        self._client = client
        self._keys = keys or EngineKeys()
        self._clock = clock

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

    def unit_of(self, name: str) -> str:
        """The unit that runs a model which is loaded."""
        return self._as_started(name).unit

    def _as_started(self, name: str) -> Model:
        return self._before.get(name) or self._models[name]

    async def plan_for(self, name: str, loaded: str | None) -> tuple[Step, ...]:
        """What `run` would do now. Empty when ``name`` is loaded. Raises `UnitError`."""
        if name == loaded:
            return ()
        return await self._plan(self._models[name], loaded, trust_loading=False)

    async def unload_plan_for(self, group: str, loaded: str | None) -> tuple[Step, ...]:
        """What unloading ``group`` would do now. Empty when nothing is loaded. Raises
        `UnitError`."""
        return await self._unload_plan(group, loaded) if loaded is not None else ()

    async def run(self, switch: RunningSwitch) -> None:
        """Make ``switch.target`` the loaded model of its group, or none if it is None.

        Raises `SwitchFailed`; then the target's unit is stopped, or was never touched.
        """
        target = self._models[switch.target] if switch.target is not None else None
        name = target.name if target is not None else None
        started = self._clock()
        self._events.publish(SwitchStarted(switch.group, name, switch.previous, switch.reason))
        error: SwitchFailed | None = None
        run = _Run()
        try:
            await self._run(switch, target, run)
        except SwitchFailed as failed:
            error = failed
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
            )
        )
        if error is not None:
            raise error

    async def is_well(self, model: Model) -> bool:
        """Whether the engine of ``model`` runs and says that it can serve. Raises `UnitError`."""
        state = await self._units.state(model)
        return state.running and (await self._probe(model)).verdict == "ready"

    async def find_loaded(self, group: str) -> tuple[str, Readiness] | None:
        """The model of ``group`` whose engine runs, and what the engine says; None if none does.

        Of several, one that is ready wins; the next switch stops the others. Raises `UnitError`.
        """
        found: tuple[str, Readiness] | None = None
        for model in self._models.values():
            if model.group != group or not (await self._units.state(model)).running:
                continue
            readiness = await self._probe(model)
            if readiness.verdict == "ready":
                return model.name, readiness
            if readiness.verdict == "loading" and found is None:
                found = model.name, readiness
        return found

    async def _run(self, switch: RunningSwitch, target: Model | None, run: _Run) -> None:
        try:
            if target is None:
                plan = await self._unload_plan(switch.group, switch.previous)
            else:
                adopt = switch.reason == "adopt"
                plan = await self._plan(target, switch.previous, trust_loading=adopt)
        except UnitError as error:
            raise SwitchFailed(str(error), blame=False, loaded=switch.previous) from error
        if target is not None and switch.reason == "adopt":
            await self._see_who_serves(switch.group, target)
        try:
            with switch.scope:
                for step in plan:
                    await self._timed(switch, target, step, run)
                if target is not None:
                    self._record.add(target)
                    run.main_pid = await self.main_pid(target)
                return
        except _StepError as error:
            raise await self._give_up(switch, target, run, error) from error
        raise await self._give_up(
            switch, target, run, _StepError("an operator cancelled the switch", blame=False)
        )

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
            lines = await self._log_of(self._as_started(run.step.model))
        if target is not None and run.target_touched:
            timeout = self._settings.config.switch.stop_timeout
            try:
                with anyio.fail_after(timeout + STOP_MARGIN):
                    await self._units.stop(target, timeout)
                self._record.remove(target.name)
            except (UnitError, TimeoutError) as failed:
                reason = f"{reason}; and its unit could not be stopped: {failed}"
        left = await self._left(switch, run)
        return SwitchFailed(reason, lines, blame=error.blame, loaded=left)

    async def _log_of(self, model: Model) -> list[str]:
        try:
            with anyio.fail_after(LOG_WITHIN):
                return await self._units.log_tail(model, 20)
        except (UnitError, TimeoutError) as error:
            log.warning("no log of '%s': %s", model.name, error)
            return []

    async def _left(self, switch: RunningSwitch, run: _Run) -> str | None:
        """The former model, if it can answer still."""
        if switch.previous is None or not run.previous_touched:
            return switch.previous
        model = self._as_started(switch.previous)
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
            found = await self.find_loaded(group)
            if found is not None and found[1].verdict == "ready" and found[0] != expected.name:
                message = f"'{expected.name}' was expected, and '{found[0]}' is running"
                raise SwitchFailed(message, blame=False, loaded=found[0])

    async def find_stale(self) -> list[Model]:
        """Models whose engine runs and is not what the configuration says now. Raises
        `UnitError`."""
        return [
            model for model in self._before.values() if (await self._units.state(model)).running
        ]

    async def main_pid(self, model: Model) -> int:
        """The main process of the unit of a loaded model; 0 when nobody can say."""
        try:
            return (await self._units.state(model)).main_pid
        except UnitError:
            return 0

    async def _timed(
        self, switch: RunningSwitch, target: Model | None, step: Step, run: _Run
    ) -> None:
        run.step, switch.step = step, step.name
        if isinstance(step, Stop) and step.model == switch.previous:
            run.previous_touched = True
            switch.stopping()
        run.target_touched |= target is not None and step.model == target.name
        self._events.publish(StepStarted(switch.group, step.name, step.model))
        started = self._clock()
        error: _StepError | None = None
        try:
            with anyio.fail_after(self._time_for(step, run)):
                await self._perform(switch, target, step, run)
        except TimeoutError:
            error = _StepError(f"not done within {step.deadline:g} s", blame=_blames(step))
        except UnitError as failed:
            blame = _blames(step) and not isinstance(failed, ManagerUnavailable)
            error = _StepError(str(failed), blame=blame)
        except _StepError as failed:
            error = failed
        message = str(error) if error is not None else None
        seconds = self._clock() - started
        ended = StepEnded(switch.group, step.name, step.model, seconds, message)
        run.ended.append(ended)
        self._events.publish(ended)
        if error is not None:
            raise error

    def _time_for(self, step: Step, run: _Run) -> float | None:
        if isinstance(step, Drain):
            return None
        if isinstance(step, Stop):
            return step.deadline + STOP_MARGIN
        if not isinstance(step, (Start, WaitUntilReady, WarmUp)):
            return step.deadline
        if run.load_until is None:
            run.load_until = self._clock() + step.deadline
        return max(0.0, run.load_until - self._clock())

    async def _perform(
        self, switch: RunningSwitch, target: Model | None, step: Step, run: _Run
    ) -> None:
        if isinstance(step, Drain):
            await _drain(switch, step)
        elif isinstance(step, Stop):
            await self._units.stop(self._as_started(step.model), step.deadline)
            self._before.pop(step.model, None)
            self._record.remove(step.model)
        elif target is None:
            raise TypeError(f"a step without a model: {step!r}")
        elif isinstance(step, Activate):
            await self._units.activate(target)
        elif isinstance(step, Start):
            await self._port_closed(target)
            self._record.add(target)
            await self._units.start(target)
        elif isinstance(step, WaitUntilReady):
            run.context_length = await self._wait_until_ready(target)
        elif isinstance(step, WarmUp):
            await self._warm_up(target)
        else:
            raise TypeError(f"no such step: {step!r}")

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
            trust_loading=trust_loading,
        )

    async def _unload_plan(self, group: str, loaded: str | None) -> tuple[Step, ...]:
        observed = await self._observe(group, None, loaded)
        config = self._settings.config
        return make_unload_plan(observed, config.switch, config.scheduler, loaded=loaded)

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
                # one that was started as something else is not asked what it serves
                ask = model is target and model.name not in self._before
                readiness = await self._probe(model) if ask else None
                observed.append(Observed(model, state, readiness))
            elif self._before.get(model.name) is model:
                del self._before[model.name]
        return observed

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

    async def _wait_until_ready(self, model: Model) -> int | None:
        """Returns the length of its context, if its engine says that."""
        delay = FIRST_POLL
        while (readiness := await self._probe(model)).verdict != "ready":
            await self._still_running(model)
            if readiness.verdict == "refused":
                raise _StepError(
                    f"the engine on {model.base_url} {readiness.detail}; "
                    f"{self._keys.shown(model, self._settings.config)}"
                )
            if readiness.verdict == "wrong":
                raise _StepError(
                    f"the engine on {model.base_url} is up but {readiness.detail}, not "
                    f"'{model.upstream_name}'; set the engine's name for it as `model_name`",
                    wrong=True,
                )
            await anyio.sleep(delay)
            delay = min(delay * 2, LONGEST_POLL)
        return readiness.context_length

    async def _still_running(self, model: Model) -> None:
        try:
            state = await self._units.state(model)
        except ManagerUnavailable:
            return  # asked again until the deadline
        if not state.running:
            result = f" ({state.result})" if state.result else ""
            raise _StepError(f"{model.unit} ended while it loaded{result}")

    async def _probe(self, model: Model) -> Readiness:
        """All probes of the model's engine; the first that is not ready speaks for them."""
        context_length = None
        key = self._keys.headers(model, self._settings.config)
        for probe in engine_for(model).probes:
            try:
                response = await self._client.get(
                    model.base_url + probe.path, headers=key, timeout=probe.timeout
                )
            except httpx.HTTPError as error:
                return Readiness("loading", f"{probe.path}: {type(error).__name__}")
            if response.status_code in (401, 403):
                return Readiness("refused", f"refuses the router's key ({response.status_code})")
            readiness = probe.judge(ProbeAnswer(response.status_code, _json(response)), model)
            if readiness.verdict != "ready":
                return readiness
            context_length = context_length or readiness.context_length
        return Readiness("ready", context_length=context_length)

    async def _warm_up(self, model: Model) -> None:
        call = engine_for(model).warm_up(model)
        request = self._client.post(
            model.base_url + call.path,
            json=dict(call.body),
            headers=self._keys.headers(model, self._settings.config),
            timeout=httpx.Timeout(None),
        )
        try:
            response = await request
        except httpx.HTTPError as error:
            await self._still_running(model)
            raise _StepError(f"no answer to a first token: {type(error).__name__}") from error
        body = _json(response)
        if response.status_code != 200 or not call.generated(body):
            text = response.text[:200]
            raise _StepError(f"no first token: {response.status_code} {text}")


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
    """Whether what goes wrong in it is the target's fault: stopping another model is not."""
    return not isinstance(step, (Drain, Stop))


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
