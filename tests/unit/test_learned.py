"""What past switches say of the next one."""

from __future__ import annotations

from llm_router.events import StepEnded
from llm_router.switcher.learned import REMEMBERED, Learned
from llm_router.switcher.plan import Drain, Start, Step, Stop


def learned(*seen: tuple[str, float]) -> Learned:
    made = Learned()
    for step, seconds in seen:
        made.listen(StepEnded("g", step, "a", seconds))
    return made


def test_the_median_of_what_was_seen() -> None:
    made = learned(("Start", 1.0), ("Start", 9.0), ("Start", 2.0))
    assert made.expected(Start("a", 60)) == 2.0
    assert made.expected(Start("b", 60)) is None


def test_failures_teach_nothing_and_the_old_is_forgotten() -> None:
    made = learned(("Start", 100.0), *[("Start", 1.0)] * REMEMBERED)
    made.listen(StepEnded("g", "Start", "a", 500.0, "no memory"))
    assert made.expected(Start("a", 60)) == 1.0


def test_a_plan_is_the_sum_of_its_steps_without_the_drain() -> None:
    made = learned(("Drain", 40.0), ("Stop", 2.0), ("Start", 3.0))
    steps: tuple[Step, ...] = (Drain("a", 60), Stop("a", 60), Start("a", 60))
    assert made.total(steps) == 5.0
    assert made.total((*steps, Start("b", 60))) is None
    assert made.total(()) == 0
