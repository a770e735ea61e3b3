"""What past switches say of the next one: how long its steps take, and what a model can hold.

Kept over restarts of the router: see `notes`. What was learned of a model counts for as long as its
engine is configured as it was then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from llm_router.config.diff import launch_id
from llm_router.config.schema import Model
from llm_router.engines.values import count, rate
from llm_router.events import Event, StepEnded, SwitchEnded
from llm_router.notes import read_notes, write_notes
from llm_router.switcher.plan import Drain, Step

REMEMBERED = 9
LOADING = ("Start", "WaitUntilReady", "WarmUp")
"""Steps that have one deadline together."""


@dataclass
class _Known:
    """Of one model; ``steps``: the last durations of each kind of step, in seconds."""

    launch: str
    context_length: int | None = None
    served_name: str | None = None
    """What its engine calls it, where nothing in models.yml says that."""
    release: str | None = None
    """The release of its engine that last loaded it; None where nobody has looked."""
    steps: dict[str, deque[float]] = field(default_factory=dict)

    def note(self, step: str, seconds: float) -> None:
        self.steps.setdefault(step, deque(maxlen=REMEMBERED)).append(seconds)


class Learned:
    """A listener of the events."""

    def __init__(self, path: Path, models: Mapping[str, Model]) -> None:
        self._path = path
        self._known: dict[str, _Known] = {}
        for name, entry in read_notes(path).items():
            known = _read(entry)
            if known is not None:
                self._known[name] = known
        self.configure(models)

    def configure(self, models: Mapping[str, Model]) -> None:
        """Forget what was learned of models that are gone, or whose engine is another now."""
        ids = {name: launch_id(model) for name, model in models.items()}
        kept = {n: k for n, k in self._known.items() if ids.get(n) == k.launch}
        self._known = {name: kept.get(name) or _Known(launch) for name, launch in ids.items()}

    def listen(self, event: Event) -> None:
        """Take note of a step that did what it should, and keep it when its switch has ended."""
        if isinstance(event, StepEnded) and event.error is None and event.model in self._known:
            self._known[event.model].note(event.step, event.seconds)
        elif isinstance(event, SwitchEnded) and event.error is None:
            if event.model in self._known and event.context_length is not None:
                self._known[event.model].context_length = event.context_length
            self._write()

    def found(self, model: str, context_length: int | None) -> None:
        """What the engine of a model says that was found running."""
        if context_length is not None and self.context_length(model) != context_length:
            self._known[model].context_length = context_length
            self._write()

    def serves(self, model: str, name: str) -> None:
        """The engine of ``model`` calls it ``name``, and nothing in models.yml says that."""
        known = self._known.get(model)
        if known is not None and known.served_name != name:
            known.served_name = name
            self._write()

    def loaded_by(self, model: str, release: str) -> None:
        """A release of its engine, or one that nobody can name (empty), has loaded ``model``."""
        if model in self._known and self._known[model].release != release:
            self._known[model].release = release
            self._write()

    def is_first(self, model: str, release: str) -> bool:
        """Whether no load of ``model`` by this release of its engine has succeeded, as far as is
        known."""
        known = self._known.get(model)
        # a load that failed has notes of its first steps
        if known is None or "WaitUntilReady" not in known.steps:
            return True
        return known.release is not None and known.release != release

    def named(self, model: Model) -> Model:
        """The model under the name that its engine has for it, where only the engine knows that."""
        known = self._known.get(model.name) if model.takes_its_name else None
        if known is None or known.served_name is None:
            return model
        return model.model_copy(update={"model_name": known.served_name})

    def context_length(self, model: str) -> int | None:
        """Tokens, as the model's engine said when it was last ready; None if it never did."""
        known = self._known.get(model)
        return known.context_length if known is not None else None

    def expected(self, step: Step) -> float | None:
        """The median of what it took; None when it has never been seen.

        A drain takes as long as the answers that run just then: the past says nothing about it.
        """
        known = self._known.get(step.model)
        seen = known.steps.get(step.name) if known is not None else None
        return median(seen) if seen and not isinstance(step, Drain) else None

    def longest_load(self, model: str) -> float:
        """The longest of the remembered times of each step of a load, together; 0 before any."""
        known = self._known.get(model)
        return sum(max(known.steps.get(step, (0.0,))) for step in LOADING) if known else 0.0

    def total(self, steps: Sequence[object]) -> float | None:
        """For a whole plan, without its drain; None while a step of it has never been seen."""
        times = [
            self.expected(step)
            for step in steps
            if isinstance(step, Step) and not isinstance(step, Drain)
        ]
        known = [seconds for seconds in times if seconds is not None]
        return sum(known) if len(known) == len(times) else None

    def _write(self) -> None:
        entries = {
            name: {
                "launch": known.launch,
                "context_length": known.context_length,
                "served_name": known.served_name,
                "release": known.release,
                "steps": {step: list(seen) for step, seen in known.steps.items()},
            }
            for name, known in self._known.items()
            if known.steps or known.context_length or known.served_name
        }
        write_notes(self._path, entries)


def _read(entry: Any) -> _Known | None:
    """What another release, or somebody's editor, has written; what is strange is left out."""
    if not isinstance(entry, dict) or not isinstance(entry.get("launch"), str):
        return None
    steps, name = entry.get("steps"), entry.get("served_name")
    served_name = name if isinstance(name, str) else None
    known = _Known(entry["launch"], count(entry.get("context_length")), served_name)
    known.release = release if isinstance(release := entry.get("release"), str) else None
    for step, seen in steps.items() if isinstance(steps, dict) else ():
        for seconds in map(rate, seen) if isinstance(seen, list) else ():
            if seconds is not None:
                known.note(step, seconds)
    return known
