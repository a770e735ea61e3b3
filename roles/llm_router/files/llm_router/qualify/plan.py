"""Decides which checks are made, in which order, and for how long. Pure: no clock, no I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llm_router.config.schema import Model
from llm_router.engines import engine_for
from llm_router.engines.base import last_part
from llm_router.engines.residency import started_with
from llm_router.qualify.report import counted

Way = Literal["stop", "sleep", "discard", "unload"]
Phase = Literal["models", "residency", "switches"]

SHARES: Mapping[Phase, float] = {"models": 0.55, "residency": 0.8, "switches": 1.0}
"""The part of the budget after which a phase must be over. The next phase gets the time that a
phase leaves."""
SWITCHES = 20
ROUNDS = 5
"""Streams of one model that are measured, one after the other."""
RATED_TOKENS = 16
"""Fewer tokens tell no rate."""
STREAMS = 2
"""Of each model at the same time while it is switched to and fro."""
LEAVES: Mapping[Way, str] = {
    "stop": "Stop",
    "sleep": "Sleep",
    "discard": "Sleep",
    "unload": "Unload",
}
"""The step of an unload that shows that the model left that way."""
RETURNS: Mapping[Way, str] = {"stop": "Start", "sleep": "Wake", "discard": "Wake", "unload": "Load"}
"""The step of a load after it."""
SLACK_BYTES = 256 << 20
SLACK_PART = 0.02
"""Of the memory that a stopped engine held, what may be missing: the router's own bound."""


class NotRun(Exception):
    """The host cannot be qualified now; the message says why, and what to do."""


@dataclass(frozen=True)
class Budget:
    """Seconds since the start, and those that loading the former models again will take."""

    seconds: float
    reserve: float = 0.0

    def left(self, phase: Phase, spent: float) -> float:
        """Seconds that the phase has; 0 or less: it is over."""
        return (self.seconds - self.reserve) * SHARES[phase] - spent


def names_to_check(wanted: Sequence[str] | None, known: Collection[str]) -> list[str]:
    """The models, each once, as they were asked for. Raises `NotRun`."""
    if not known:
        raise NotRun("models.yml has no models: add one with `llm-router models add`")
    unknown = [name for name in wanted or () if name not in known]
    if unknown:
        raise NotRun(
            f"the router has no model {', '.join(unknown)}; "
            f"known models: {', '.join(sorted(known))}"
        )
    return list(dict.fromkeys(wanted or known))


def what_forbids(
    status: Mapping[str, Any], requests: Sequence[Mapping[str, Any]], groups: Collection[str]
) -> list[str]:
    """Why models should not be switched now: others use them. ``status``, ``requests``: the
    router's own words. ``groups``: those that would be switched."""
    found = []
    if requests:
        models = sorted({str(one.get("model")) for one in requests})
        are = counted(len(requests), "request is", "requests are")
        found.append(f"{are} in flight or waiting (for {', '.join(models)})")
    for switch in status.get("switches", ()):
        if switch.get("group") in groups:
            found.append(f"group {switch.get('group')} is being switched")
    return found


def pinned(status: Mapping[str, Any], groups: Collection[str]) -> list[str]:
    """Groups that an operator keeps as they are. Nothing may force them: an unload ends a pin."""
    found = []
    for name, group in status.get("groups", {}).items():
        if name in groups and group.get("pinned"):
            model = group["pinned"].get("model")
            found.append(f"group {name} is pinned to {model}; run `llm-router unpin {model}`")
    return found


def ways(model: Model) -> list[tuple[Way, str]]:
    """Each way in which the model's engine can leave its device, and why it is not tried, or "".

    The configured way comes last, so that the model is left as its configuration has it.
    """
    can = engine_for(model).residencies
    found: list[tuple[Way, str]] = [("stop", "")]
    # a configured way means that the engine was started for it, by a script for example
    said = next((one.flags for way, one in can.items() if way == model.residency), ())
    for way in ("discard", "sleep", "unload"):
        if way not in can:
            continue
        flags = can[way].flags
        missing = [one for one in flags if one not in said and not started_with(model, (one,))]
        named = [f"--{flag}" for flag in missing]
        found.append((way, f"its engine is started without {', '.join(named)}" if named else ""))
    last = configured(model, found)
    return sorted(found, key=lambda one: one[0] == last)


def configured(model: Model, found: Sequence[tuple[Way, str]]) -> Way:
    """The way in which the router lets the model go by itself, if memory allows."""
    open_ways = [way for way, reason in found if not reason]
    if model.residency == "auto":
        return "sleep" if "sleep" in open_ways else "stop"
    return model.residency if model.residency in open_ways else "stop"


def pairs(
    names: Sequence[str], groups: Mapping[str, str], load_seconds: Mapping[str, float]
) -> dict[str, tuple[str, str] | None]:
    """By group of ``names``: the two models that load fastest; None where it has no two that were
    loaded."""
    found: dict[str, tuple[str, str] | None] = {}
    for group in dict.fromkeys(groups[name] for name in names):
        loaded = [name for name in names if groups[name] == group and name in load_seconds]
        loaded.sort(key=lambda name: load_seconds[name])
        found[group] = (loaded[0], loaded[1]) if len(loaded) > 1 else None
    return found


def names_in_answers(model: Model) -> frozenset[str]:
    """What the model may be called in an answer; none: only its engine knows."""
    if model.takes_its_name:
        return frozenset()
    return frozenset({model.name, model.upstream_name, last_part(model.upstream_name)})


def missing_memory(held: int, base: int, after: int, total: int) -> int:
    """Bytes of GPU memory that did not come back from a stopped engine, beyond what may be
    missing. ``base``, ``held``, ``after``: bytes in use before its load, while it was loaded, after
    it was stopped."""
    slack = max(SLACK_BYTES, int(total * SLACK_PART))
    if held - base <= slack:
        return 0
    return max(0, after - base - slack)


def needs(estimate: float | None, left: float) -> str | None:
    """Why something that takes so long is not begun any more, or None."""
    if left <= 0:
        return "the time budget is used up"
    if estimate is not None and estimate > left:
        return f"it takes about {estimate:.0f} s, and {left:.0f} s of the time budget are left"
    return None
