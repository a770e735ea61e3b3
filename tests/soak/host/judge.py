"""Whether the router's belief is the world, and how long it took to become so. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

WITHIN = 5.0
"""Seconds from the end of a fault until belief and world agree."""


@dataclass(frozen=True)
class Placed:
    """What models.yml says of a model: its unit, its device group and its context's length."""

    unit: str
    group: str
    context: int


@dataclass(frozen=True)
class Engine:
    """A unit as systemd has it, and its main process as that says it of itself."""

    active: str = "inactive"
    pid: int = 0
    alive: bool = False
    awake: bool = False
    serves: str = ""
    context: int = 0


@dataclass(frozen=True)
class World:
    """``strays``: processes that hold a device and are no unit's main process."""

    units: Mapping[str, Engine]
    strays: tuple[str, ...] = ()


@dataclass(frozen=True)
class Belief:
    """What ``/health`` and ``/admin/status`` say. ``switching``: target and previous model."""

    loaded: Mapping[str, str | None]
    switching: Mapping[str, tuple[str | None, str | None]]
    states: Mapping[str, str]
    failures: Mapping[str, int]
    current: str | None
    groups: Mapping[str, str]
    problem: str | None = None


@dataclass(frozen=True)
class Sample:
    """``found``: the contradictions at that time; None when belief changed while it was taken."""

    time: float
    found: tuple[str, ...] | None


@dataclass(frozen=True)
class Held:
    """A process had its device for that time, by the monotonic clock."""

    pid: int
    name: str
    begin: float
    end: float


def contradictions(belief: Belief, world: World, models: Mapping[str, Placed]) -> tuple[str, ...]:
    """Where belief is not the world, a sentence each."""
    found = [f"{stray} holds a device" for stray in world.strays]
    if belief.problem is not None:
        found.append(f"/health has the problem: {belief.problem}")
    found += [
        f"{name} is in group {belief.groups.get(name)}, models.yml says {model.group}"
        for name, model in models.items()
        if belief.groups.get(name) != model.group
    ]
    for group in sorted({model.group for model in models.values()}):
        found += _of_group(group, belief, world, models)
    loaded = {name for name in belief.loaded.values() if name is not None}
    if belief.current not in loaded if loaded else belief.current is not None:
        found.append(f"/health has current_model {belief.current}, loaded is {sorted(loaded)}")
    return tuple(found)


def _of_group(
    group: str, belief: Belief, world: World, models: Mapping[str, Placed]
) -> Iterable[str]:
    units = sorted({model.unit for model in models.values() if model.group == group})
    awake = [unit for unit in units if world.units[unit].awake]
    if group in belief.switching:
        ours = {models[name].unit for name in belief.switching[group] if name is not None}
        for unit in awake:
            if unit not in ours:
                yield f"{unit} is awake and has no part in the switch of group {group}"
        return
    loaded = belief.loaded.get(group)
    for unit in awake:
        if loaded is None or models[loaded].unit != unit:
            yield f"{unit} is awake, the router has {loaded} loaded in group {group}"
    for name, model in models.items():
        if model.group == group:
            yield from _of_model(name, belief.states.get(name, "unknown"), model, world)
    if loaded is not None and belief.states.get(loaded) != "loaded":
        yield f"group {group} has {loaded} loaded, whose state is {belief.states.get(loaded)}"


def _of_model(name: str, state: str, model: Placed, world: World) -> Iterable[str]:
    engine = world.units[model.unit]
    unit = f"{model.unit} is {engine.active}"
    if state == "loaded":
        if engine.active != "active" or not engine.alive:
            yield f"{name} is loaded, {unit} (process {engine.pid}, alive: {engine.alive})"
        elif not engine.awake:
            yield f"{name} is loaded, its engine sleeps"
        elif engine.serves != name:
            yield f"{name} is loaded, {model.unit} serves {engine.serves}"
        elif engine.context != model.context:
            yield f"{name} is loaded with a context of {engine.context}, not {model.context}"
    elif state == "asleep":
        if engine.active != "active" or engine.awake or engine.serves != name:
            yield f"{name} is asleep, {unit} (awake: {engine.awake}, serves {engine.serves})"
    elif engine.alive and engine.serves == name:
        yield f"{name} is {state}, {unit} and serves it (awake: {engine.awake})"


def agreement(samples: Sequence[Sample], since: float) -> float | None:
    """Seconds from ``since`` until belief was the world and stayed it; None when it never was."""
    agreed: float | None = None
    for sample in samples:
        if sample.time < since or sample.found is None:
            continue
        if sample.found:
            agreed = None
        elif agreed is None:
            agreed = sample.time - since
    return agreed


def overlaps(
    held: Iterable[Held], models: Mapping[str, Placed], allowed: Collection[tuple[float, float]]
) -> list[str]:
    """Two processes of one group that had the device at once.

    ``allowed`` has times in which somebody else starts engines: an overlap that begins there and
    ends in time is none of the router's.
    """
    found = []
    for one, other in itertools.combinations(sorted(held, key=lambda held: held.begin), 2):
        begin, end = max(one.begin, other.begin), min(one.end, other.end)
        if one.pid == other.pid or end <= begin:
            continue
        if models[one.name].group != models[other.name].group:
            continue
        if any(first <= begin and end <= last for first, last in allowed):
            continue
        found.append(
            f"{one.name} (process {one.pid}) and {other.name} (process {other.pid}) were awake "
            f"at once for {end - begin:.2f} s"
        )
    return found
