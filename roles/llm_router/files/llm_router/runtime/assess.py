"""Compare what the router has noted of a device group with what runs there. Pure.

The rules, in order:

1. The loaded model is lost when its unit does not run, has another main process, or serves another
   model. A slow answer proves nothing. A closed port, or an answer that it cannot serve, counts
   only while no response runs, and only if the next look finds the same: then the engine is
   stopped. One odd answer must not cost a load of minutes.
2. Units that run as something that is configured differently now, and those of which nobody knows
   whether they sleep, must not run.
3. Where nothing is loaded, one of the running engines is adopted: one that is ready before one that
   loads, then the one that was started last by the router, then the one that systemd started last.
   One of them that still loads is waited for by a switch.
4. Where a model is loaded or adopted, no other engine of the group may be awake: it is stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llm_router.engines.base import Readiness
from llm_router.units.base import UnitState


@dataclass(frozen=True)
class Seen:
    """A unit of the group that runs.

    ``outdated``: the model it was started as, where that is configured differently now.
    ``answers``: by model that the unit may serve, what its engine says; empty if it was not asked.
    ``recorded``: the model that the router started it as. ``place``: higher if started later.
    ``unwanted``: it must not run, whatever it serves. ``doubtful``: its load failed and it could
    not be stopped then, so it is not waited for.
    """

    unit: str
    outdated: str | None
    state: UnitState
    answers: Mapping[str, Readiness] = field(default_factory=dict)
    recorded: str | None = None
    place: int = -1
    asleep: bool = False
    unwanted: bool = False
    doubtful: bool = False

    @property
    def ready(self) -> str | None:
        """The model that it serves."""
        ready = [name for name, one in self.answers.items() if one.verdict == "ready"]
        return self.recorded if self.recorded in ready else next(iter(ready), None)

    @property
    def is_empty(self) -> bool:
        """Whether its engine says that it has no model."""
        return any(answer.empty for answer in self.answers.values())

    @property
    def may_become(self) -> str | None:
        """The model that it may be loading: the recorded one if the router started it."""
        hopeful = [name for name, one in self.answers.items() if one.verdict == "loading"]
        if self.recorded is not None and (self.recorded in hopeful or not self.answers):
            return self.recorded
        return next(iter(hopeful), None)


@dataclass(frozen=True)
class Belief:
    """What the router has noted: ``unit`` and ``main_pid`` (0: not known) are the loaded model's,
    ``responses`` how many hold it. ``suspected``: the last look found that it does not serve."""

    loaded: str | None = None
    unit: str | None = None
    main_pid: int = 0
    responses: int = 0
    stale: bool = False
    suspected: bool = False


@dataclass(frozen=True)
class Verdict:
    """What is to be done: ``lost`` says why the loaded model is gone, ``found`` is ready,
    ``adopt`` is waited for, the units ``stop`` are stopped. ``main_pid`` is the loaded model's.
    ``suspect``: why the loaded model will be lost if the next look finds the same."""

    lost: str | None = None
    found: str | None = None
    readiness: Readiness | None = None
    adopt: str | None = None
    stop: tuple[str, ...] = ()
    main_pid: int = 0
    suspect: str | None = None


def assess(belief: Belief, seen: Sequence[Seen]) -> Verdict:
    """What must be done for the two to agree."""
    own = next((one for one in seen if one.unit == belief.unit), None)
    lost, broken = _lost(belief, own)
    suspect = None
    if broken and not belief.suspected:
        suspect, lost, broken = lost, None, False
    kept = belief.loaded if lost is None else None
    keeper: Seen | None = own if kept is not None else None
    found = adopt = None
    if kept is None:
        rivals = sorted(
            (one for one in seen if _may_stay(one) and not (one is own and broken)),
            key=lambda one: (one.ready is not None, one.place, one.state.since),
            reverse=True,
        )
        for one in rivals:
            if one.ready is not None:
                keeper, found = one, one.ready
                break
            emptied = one is own and lost is not None and one.is_empty
            if one.may_become is not None and not (one.doubtful or emptied):
                keeper, adopt = one, one.may_become
                break
    stop = [
        one.unit
        for one in seen
        if one is not keeper
        and not one.asleep
        and one.state.active != "deactivating"
        and (one.unwanted or keeper is not None or (one is own and broken) or one.doubtful)
    ]
    return Verdict(
        lost,
        found,
        keeper.answers.get(found) if keeper is not None and found is not None else None,
        adopt,
        tuple(stop),
        keeper.state.main_pid if keeper is not None else 0,
        suspect,
    )


def _may_stay(one: Seen) -> bool:
    return not (one.unwanted or one.asleep or one.state.active == "deactivating")


def _lost(belief: Belief, own: Seen | None) -> tuple[str | None, bool]:
    """Why the loaded model is lost, None if it is not, and whether what runs must be stopped."""
    if belief.loaded is None or belief.stale:
        return (None, False) if own is not None or belief.loaded is None else _gone(belief)
    if own is None:
        return _gone(belief)
    if own.asleep:
        return f"{own.unit} sleeps", False
    return is_lost(belief, own.state, own.answers.get(belief.loaded))


def is_lost(
    belief: Belief, state: UnitState, readiness: Readiness | None
) -> tuple[str | None, bool]:
    """Rule 1: why the loaded model is lost, None if it is not; and whether its engine, which runs
    still, must be stopped."""
    if state.active != "active":
        why = f" ({state.result})" if state.result else ""
        return f"{belief.unit} is {state.active}{why}", False
    if belief.main_pid and state.main_pid != belief.main_pid:
        return f"{belief.unit} was started again", False
    if readiness is None or readiness.verdict in ("ready", "refused"):
        return None, False
    if readiness.empty:
        return f"{belief.unit} has lost its model: {readiness.detail}", False
    if readiness.verdict == "wrong":
        return f"{belief.unit} serves another model: {readiness.detail}", False
    if readiness.silent and not readiness.port_closed:
        return None, False
    if belief.responses:
        return None, False
    return f"{belief.unit} runs and does not serve: {readiness.detail or readiness.verdict}", True


def _gone(belief: Belief) -> tuple[str, bool]:
    return f"{belief.unit or belief.loaded} does not run", False
