"""A switch as data: the ordered list of typed steps, made from what is true now.

The dry run prints it, the executor runs it, the metrics time each step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llm_router.config.schema import Model, SchedulerConfig, SwitchConfig
from llm_router.engines.base import Readiness
from llm_router.engines.residency import Policy
from llm_router.switcher.memory import Memory
from llm_router.switcher.residency import Release, Sleeper
from llm_router.units.base import UnitState

NAMES = (
    "Drain",
    "Stop",
    "Sleep",
    "Unload",
    "WaitForMemory",
    "Wake",
    "Load",
    "Activate",
    "Start",
    "WaitUntilReady",
    "WarmUp",
)
"""Of all steps that there are."""


@dataclass(frozen=True)
class Step:
    """One step; ``deadline`` is how long it may take, in seconds."""

    model: str
    deadline: float

    @property
    def name(self) -> str:
        """The step's kind, as people and metrics see it."""
        return type(self).__name__


@dataclass(frozen=True)
class Drain(Step):
    """Let the running answers of ``model`` finish; past the deadline they are cut, if ``cut``."""

    cut: bool = True


@dataclass(frozen=True)
class Stop(Step):
    """Stop the unit of ``model`` and see its processes gone and its port closed."""


@dataclass(frozen=True)
class GiveUp(Step):
    """Have the engine of ``model`` free its device and stay: Sleep, or Unload."""

    how: Release

    @property
    def name(self) -> str:
        return "Unload" if self.how.policy == "unload" else "Sleep"


@dataclass(frozen=True)
class WaitForMemory(Step):
    """Wait until GPU memory that ``model`` held is free; on hosts with NVIDIA GPUs."""


@dataclass(frozen=True)
class TakeBack(Step):
    """Have an engine that gave up its device serve ``model`` on it: Wake, or Load."""

    policy: Policy

    @property
    def name(self) -> str:
        return "Load" if self.policy == "unload" else "Wake"


@dataclass(frozen=True)
class Activate(Step):
    """Make what the unit reads on disk say "serve ``model``"."""


@dataclass(frozen=True)
class Start(Step):
    """Start the unit."""


@dataclass(frozen=True)
class WaitUntilReady(Step):
    """Wait until the engine's own probes say that it serves ``model``."""


@dataclass(frozen=True)
class WarmUp(Step):
    """Have one token generated."""


@dataclass(frozen=True)
class Observed:
    """A model whose unit runs now; ``readiness`` is None when nobody has asked its engine.

    ``sleeper``: who sleeps in the unit, for certain.
    """

    model: Model
    state: UnitState
    readiness: Readiness | None = None
    sleeper: Sleeper | None = None


def make_unload_plan(
    observed: Sequence[Observed],
    switch: SwitchConfig,
    scheduler: SchedulerConfig,
    *,
    loaded: str | None,
    release: Release | None = None,
) -> tuple[Step, ...]:
    """The steps that free a group's device: whatever of it runs is stopped.

    With a ``release`` the loaded model goes that way, and who sleeps may sleep on.
    """
    steps: list[Step] = []
    for item in observed:
        if release is not None and item.sleeper is not None:
            continue
        steps += _let_go(item.model.name, loaded, release, switch, scheduler)
    return tuple(steps)


def make_plan(
    target: Model,
    observed: Sequence[Observed],
    switch: SwitchConfig,
    scheduler: SchedulerConfig,
    *,
    loaded: str | None = None,
    release: Release | None = None,
    trust_loading: bool = False,
    memory: Memory = "none",
    load_time: float | None = None,
) -> tuple[Step, ...]:
    """The steps that make ``target`` the one loaded model of its group.

    ``release`` is how the loaded one goes; None: its unit is stopped. Who sleeps for certain is
    left alone, or taken back if it is the target.

    ``observed`` is every model of the group whose unit runs; ``loaded`` is the one that may have
    leases. The target's own unit is kept if its engine says that it serves the target already, or,
    with ``trust_loading`` (after a restart of the router), if it may yet do so. In any other state
    it is unknown, and an unknown engine is restarted.

    ``memory``: whether there are GPUs whose memory can be waited for, or, ``owed``, must be: an
    engine went before. ``load_time``: how long a load may take, where that is not the target's own.
    """
    load_time = load_time or target.timeout or switch.timeout
    steps: list[Step] = []
    keep = any(item.model.name == target.name and _usable(item, trust_loading) for item in observed)
    back: Policy | None = None
    for item in observed:
        here = item.model.unit == target.unit
        if here and keep:
            continue
        if item.sleeper is not None:
            if not here:
                continue
            if item.sleeper.policy == "unload" or item.sleeper.model == target.name:
                back = item.sleeper.policy
                continue
        # an engine that more than one model uses can change its model, but not sleep for one
        way = release if release is None or release.policy == "unload" or not here else None
        steps += _let_go(item.model.name, loaded, way, switch, scheduler)
        if here and way is not None and item.model.name == loaded:
            back = way.policy
    if memory != "none" and not keep:
        gone = [step.model for step in steps if isinstance(step, (Stop, GiveUp))]
        if gone or memory == "owed":
            steps.append(WaitForMemory([target.name, *gone][-1], switch.memory_timeout))
    if back is None and not keep:
        steps.append(Activate(target.name, switch.stop_timeout))
        steps.append(Start(target.name, load_time))
    elif back is not None:
        if back == "unload":  # for its next start
            steps.append(Activate(target.name, switch.stop_timeout))
        time = load_time if back == "unload" else switch.sleep_timeout
        steps.append(TakeBack(target.name, time, back))
    steps.append(WaitUntilReady(target.name, load_time))
    if target.warm_up:
        steps.append(WarmUp(target.name, load_time))
    return tuple(steps)


def with_restart(
    target: Model,
    plan: Sequence[Step],
    units: Mapping[str, str],
    switch: SwitchConfig,
    load_time: float,
) -> tuple[Step, ...]:
    """The plan in which the engine of ``target`` stays and loads it, with a stop and a start
    instead. ``units``: by model, of all in the plan."""
    steps: list[Step] = []
    stopped = False
    for step in plan:
        if isinstance(step, GiveUp) and units[step.model] == target.unit:
            stopped = True
            step = Stop(step.model, switch.stop_timeout)
        elif isinstance(step, TakeBack):
            step = Start(step.model, load_time)
        elif isinstance(step, (WaitForMemory, Activate)) and not stopped:
            stopped = True
            steps.append(Stop(target.name, switch.stop_timeout))
        steps.append(step)
    return tuple(steps)


def _let_go(
    model: str,
    loaded: str | None,
    release: Release | None,
    switch: SwitchConfig,
    scheduler: SchedulerConfig,
) -> list[Step]:
    """The steps after which ``model`` has no device: of what is not loaded nobody knows enough to
    do more than to stop it."""
    if model != loaded:
        return [Stop(model, switch.stop_timeout)]
    steps: list[Step] = [_drain(loaded, scheduler)]
    if release is None:
        return [*steps, Stop(model, switch.stop_timeout)]
    steps += [Stop(other, switch.stop_timeout) for other in release.stopped]
    return [*steps, GiveUp(model, switch.sleep_timeout, release)]


def _drain(model: str, scheduler: SchedulerConfig) -> Drain:
    return Drain(model, scheduler.drain_timeout, scheduler.after_drain_timeout == "cut")


def _usable(item: Observed, trust_loading: bool) -> bool:
    if item.readiness is None or item.state.active == "deactivating":
        return False
    return item.readiness.verdict == "ready" or (
        trust_loading and item.readiness.verdict == "loading"
    )
