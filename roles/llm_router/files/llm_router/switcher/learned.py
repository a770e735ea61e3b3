"""How long steps of switches have taken, so that a plan can say what to expect."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median

from llm_router.events import Event, StepEnded
from llm_router.switcher.plan import Drain, Step

REMEMBERED = 9


class Learned:
    """The last durations of each kind of step, by model, in seconds. A listener of the events."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str], deque[float]] = {}

    def listen(self, event: Event) -> None:
        """Take note of a step that did what it should."""
        if isinstance(event, StepEnded) and event.error is None:
            key = event.step, event.model
            self._seconds.setdefault(key, deque(maxlen=REMEMBERED)).append(event.seconds)

    def expected(self, step: Step) -> float | None:
        """The median of what it took; None when it has never been seen.

        A drain takes as long as the answers that run just then: the past says nothing about it.
        """
        seen = self._seconds.get((step.name, step.model))
        return median(seen) if seen and not isinstance(step, Drain) else None

    def total(self, steps: Sequence[Step]) -> float | None:
        """For a whole plan, without its drain; None while a step of it has never been seen."""
        times = [self.expected(step) for step in steps if not isinstance(step, Drain)]
        known = [seconds for seconds in times if seconds is not None]
        return sum(known) if len(known) == len(times) else None
