"""A switch as data: the ordered list of typed steps, made from what is true now.

The dry run prints it, the executor runs it, the metrics time each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llm_router.config.schema import Model, SchedulerConfig, SwitchConfig
from llm_router.engines.base import Readiness
from llm_router.units.base import UnitState


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
    """A model whose unit runs now; ``readiness`` is None when nobody has asked its engine."""

    model: Model
    state: UnitState
    readiness: Readiness | None = None


def make_unload_plan(
    observed: Sequence[Observed],
    switch: SwitchConfig,
    scheduler: SchedulerConfig,
    *,
    loaded: str | None,
) -> tuple[Step, ...]:
    """The steps that free a group's device: whatever of it runs is stopped."""
    steps: list[Step] = []
    for item in observed:
        if item.model.name == loaded:
            steps.append(_drain(loaded, scheduler))
        steps.append(Stop(item.model.name, switch.stop_timeout))
    return tuple(steps)


def make_plan(
    target: Model,
    observed: Sequence[Observed],
    switch: SwitchConfig,
    scheduler: SchedulerConfig,
    *,
    loaded: str | None = None,
    trust_loading: bool = False,
) -> tuple[Step, ...]:
    """The steps that make ``target`` the one loaded model of its group.

    ``observed`` is every model of the group whose unit runs; ``loaded`` is the one that may have
    leases. The target's own unit is kept if its engine says that it serves the target already, or,
    with ``trust_loading`` (after a restart of the router), if it may yet do so. In any other state
    it is unknown, and an unknown engine is restarted.
    """
    load_time = target.timeout or switch.timeout
    steps: list[Step] = []
    keep = False
    stopped: set[str] = set()
    for item in observed:
        if item.model.name == target.name and _usable(item, trust_loading):
            keep = True
    for item in observed:
        unit = item.model.unit
        if unit in stopped or (keep and unit == target.unit):
            continue
        stopped.add(unit)
        if item.model.name == loaded:
            steps.append(_drain(loaded, scheduler))
        steps.append(Stop(item.model.name, switch.stop_timeout))
    if not keep:
        steps.append(Activate(target.name, switch.stop_timeout))
        steps.append(Start(target.name, load_time))
    steps.append(WaitUntilReady(target.name, load_time))
    if target.warm_up:
        steps.append(WarmUp(target.name, load_time))
    return tuple(steps)


def _drain(model: str, scheduler: SchedulerConfig) -> Drain:
    return Drain(model, scheduler.drain_timeout, scheduler.after_drain_timeout == "cut")


def _usable(item: Observed, trust_loading: bool) -> bool:
    if item.readiness is None or item.state.active == "deactivating":
        return False
    return item.readiness.verdict == "ready" or (
        trust_loading and item.readiness.verdict == "loading"
    )
