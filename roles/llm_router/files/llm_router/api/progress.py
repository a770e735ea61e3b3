"""Each group's running switch, or its last one, as its plan: step by step, with times.

A listener of the events; the plan itself is the runner's own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from llm_router.events import (
    Event,
    LoadActivity,
    LoadProgress,
    StepEnded,
    StepStarted,
    SwitchEnded,
    SwitchStarted,
)
from llm_router.scheduler.service import Scheduler
from llm_router.switcher.learned import Learned
from llm_router.switcher.plan import Step

Entry = dict[str, Any]


@dataclass
class _Watched:
    begun: SwitchStarted
    started: float
    running: StepStarted | None = None
    since: float = 0.0
    part: float | None = None
    """How far the running step's load is, by its engine's own word."""
    doing: str = ""
    """What the running step's load does, for a person."""
    taken: list[StepEnded] = field(default_factory=list)
    plan: tuple[Step, ...] = ()
    """As it was when a step last began or ended."""
    ended: SwitchEnded | None = None


class Progress:
    """``version`` changes whenever something did. Times are seconds since the epoch."""

    def __init__(self, scheduler: Scheduler, learned: Learned) -> None:
        self._scheduler = scheduler
        self._learned = learned
        self._watched: dict[str, _Watched] = {}
        self.version = 0

    def listen(self, event: Event) -> None:
        """Take note."""
        if isinstance(event, SwitchStarted):
            self._watched[event.group] = _Watched(event, time.time())
        elif isinstance(event, LoadProgress):
            if event.group in self._watched:
                self._watched[event.group].part = event.part
        elif isinstance(event, LoadActivity):
            if event.group in self._watched:
                self._watched[event.group].doing = event.doing
        elif isinstance(event, (StepStarted, StepEnded, SwitchEnded)):
            watched = self._watched.get(event.group)
            if watched is None:
                return
            switch = self._scheduler.switches.get(event.group)
            if switch is not None:
                watched.plan = tuple(step for step in switch.plan if isinstance(step, Step))
            if isinstance(event, StepStarted):
                watched.running, watched.since = event, time.time()
                watched.part, watched.doing = None, ""
            elif isinstance(event, StepEnded):
                watched.running = None
                watched.taken.append(event)
            else:
                watched.running, watched.ended = None, event
        self.version += 1

    def switches(self) -> list[Entry]:
        """Of each group: the switch that runs, or the last one with how it ended."""
        return [self._entry(watched) for watched in self._watched.values()]

    def steps(self, group: str) -> list[Entry]:
        """Of the group's running or last switch."""
        watched = self._watched.get(group)
        return self._steps(watched) if watched is not None else []

    def _entry(self, watched: _Watched) -> Entry:
        begun, ended = watched.begun, watched.ended
        return {
            "group": begun.group,
            "model": begun.model,
            "previous": begun.previous,
            "reason": begun.reason,
            "started": round(watched.started, 3),
            "running": ended is None,
            "seconds": round(ended.seconds, 3) if ended is not None else None,
            "error": ended.error if ended is not None else None,
            "expected_seconds": self._learned.total(watched.plan) or None,
            "steps": self._steps(watched),
        }

    def _steps(self, watched: _Watched) -> list[Entry]:
        entries: list[Entry] = [
            {
                "step": step.step,
                "model": step.model,
                "state": "failed" if step.error else "done",
                "seconds": round(step.seconds, 3),
                "error": step.error,
            }
            for step in watched.taken
        ]
        running = watched.running
        if running is not None:
            entries.append(
                {
                    "step": running.step,
                    "model": running.model,
                    "state": "running",
                    "started": round(watched.since, 3),
                    "progress": watched.part,
                    "doing": watched.doing or None,
                }
            )
        # steps are taken in the order of the plan
        for index, step in enumerate(watched.plan):
            if index >= len(entries):
                state = "waiting" if watched.ended is None else "left out"
                entries.append({"step": step.name, "model": step.model, "state": state})
            entries[index]["deadline"] = step.deadline
            entries[index]["expected_seconds"] = self._learned.expected(step)
        return entries


def load_seconds(ended: SwitchEnded | None, model: str) -> float | None:
    """How long it took to load ``model``, without what was done to the model before it."""
    if ended is None or ended.error is not None:
        return None
    own = [step.seconds for step in ended.steps if step.model == model]
    return round(sum(own), 3) if own else None
