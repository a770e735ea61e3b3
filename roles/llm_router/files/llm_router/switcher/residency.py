"""What becomes of the model that has to go: which policy, and which sleepers must make room. Pure.

Memory is the host's, in bytes. A sleeper's share is the size of its weights; how big they are must
be known, or the model cannot be kept in memory.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from llm_router.config.schema import Model
from llm_router.engines import engine_for
from llm_router.engines.residency import Policy, started_with


@dataclass(frozen=True)
class Sleeper:
    """A model that gave up its device while its engine stays.

    ``main_pid`` is its unit's: another one is another engine. ``memory``: bytes that it keeps;
    ``since``: seconds since 1970.
    """

    model: str
    unit: str
    policy: Policy
    main_pid: int
    memory: int
    since: float


@dataclass(frozen=True)
class Release:
    """How a model goes, and the sleepers that are stopped first: the coldest."""

    policy: Policy
    memory: int = 0
    stopped: tuple[str, ...] = ()


def choose(
    model: Model, weights: int | None, sleepers: Collection[Sleeper], free: int
) -> Release | None:
    """How ``model`` goes; None: its engine is stopped.

    ``weights``: the size of its weights, None when it is not known. ``sleepers``: those that may be
    stopped to make room. ``free``: what may be kept beside them.
    """
    can = engine_for(model).residencies
    wish = model.residency
    if wish == "unload":
        return Release("unload") if "unload" in can else None
    if wish in ("auto", "sleep") and "sleep" in can:
        willing = wish == "sleep" or started_with(model, can["sleep"].flags)
        stopped = _make_room(weights, sleepers, free) if willing and weights is not None else None
        if stopped is not None and weights is not None:
            return Release("sleep", weights, stopped)
    if wish in ("sleep", "discard") and "discard" in can:
        return Release("discard")
    return None


def _make_room(memory: int, sleepers: Collection[Sleeper], free: int) -> tuple[str, ...] | None:
    """The coldest sleepers that must go for ``memory`` to fit; None if it would not even then."""
    left = free - memory
    going = []
    for sleeper in sorted(sleepers, key=lambda sleeper: sleeper.since):
        if left >= 0:
            break
        if sleeper.memory:
            going.append(sleeper.model)
            left += sleeper.memory
    return tuple(going) if left >= 0 else None
