"""What follows from a difference between what is noted and what runs. Pure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llm_router.engines.base import READY, Readiness
from llm_router.runtime.assess import Belief, Seen, Verdict, assess
from llm_router.units.base import UnitState

A = Belief("a", "a.service", 10, responses=1)
IDLE = Belief("a", "a.service", 10)
NOTHING = Belief()
LOADING, SILENT = Readiness("loading", "503"), Readiness("loading", "late", silent=True)
CLOSED = Readiness("loading", "refused", silent=True, port_closed=True)
WRONG = Readiness("wrong", "it serves c")


def unit(name: str, readiness: Readiness = READY, pid: int = 10, **more: object) -> Seen:
    state = UnitState("active", pid, since=float(more.pop("since", 0.0)))  # type: ignore[arg-type]
    return Seen(f"{name}.service", None, state, {name: readiness}, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("belief", "readiness"),
    [(A, READY), (A, SILENT), (IDLE, SILENT), (A, CLOSED), (A, LOADING), (A, Readiness("refused"))],
)
def test_a_loaded_model_is_kept(belief: Belief, readiness: Readiness) -> None:
    assert assess(belief, [unit("a", readiness)]) == Verdict(main_pid=10)


@pytest.mark.parametrize("readiness", [CLOSED, LOADING, Readiness("asleep")])
def test_an_idle_engine_that_cannot_serve_is_stopped(readiness: Readiness) -> None:
    first = assess(IDLE, [unit("a", readiness)])
    assert (first.lost, first.stop) == (None, ())
    assert first.suspect is not None
    verdict = assess(replace(IDLE, suspected=True), [unit("a", readiness)])
    assert verdict.lost == first.suspect
    assert (verdict.stop, verdict.adopt) == (("a.service",), None)


def test_another_process_or_another_model_is_another_engine() -> None:
    again = assess(A, [unit("a", pid=11)])
    assert (again.lost, again.found) == ("a.service was started again", "a")
    loads = assess(A, [unit("a", LOADING, pid=11)])
    assert (loads.found, loads.adopt) == (None, "a")
    other = assess(A, [Seen("a.service", None, UnitState("active", 10), {"a": WRONG, "c": READY})])
    assert (other.lost is not None, other.found) == (True, "c")
    assert assess(A, []).lost == "a.service does not run"


@pytest.mark.parametrize("belief", [A, IDLE])
def test_an_engine_that_has_lost_its_model_is_lost_and_not_waited_for(belief: Belief) -> None:
    empty = replace(LOADING, empty=True)
    verdict = assess(belief, [unit("a", empty)])
    assert verdict.lost == "a.service has lost its model: 503"
    assert (verdict.adopt, verdict.stop) == (None, ())
    # nobody has loaded one yet: it may be doing that
    assert assess(NOTHING, [unit("a", empty)]).adopt == "a"


def test_beside_a_loaded_model_nothing_is_awake() -> None:
    seen = [unit("a"), unit("b", pid=11), unit("c", pid=12, asleep=True)]
    assert assess(A, seen).stop == ("b.service",)


def test_of_several_the_ready_then_the_recorded_then_the_youngest_stays() -> None:
    old, young = unit("b", since=1.0), unit("c", since=2.0)
    assert assess(NOTHING, [old, young]).found == "c"
    assert assess(NOTHING, [unit("b", place=0, since=1.0), young]).found == "b"
    verdict = assess(NOTHING, [unit("b", LOADING, place=3), young])
    assert (verdict.found, verdict.stop) == ("c", ("b.service",))


def test_a_shared_unit_that_loads_is_what_the_record_says() -> None:
    answers = {"a": LOADING, "b": LOADING}
    shared = Seen("u", None, UnitState("active", 1), answers, recorded="b")
    assert assess(NOTHING, [shared]).adopt == "b"


def test_what_must_not_run_is_stopped_and_never_adopted() -> None:
    for one in (unit("a", unwanted=True), unit("a", LOADING, doubtful=True)):
        assert assess(NOTHING, [one]) == Verdict(stop=("a.service",))
    # one whose load failed, and that has got ready since, serves
    assert assess(NOTHING, [unit("a", doubtful=True)]).found == "a"
