"""When GPU memory counts as free again: sequences of what a driver says, and what is decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from llm_router.nvml import Gpu
from llm_router.switcher.memory import Claim, Reading, after_a_loss, claims_on, lacking, who_holds

GIB = 2**30
TOTAL = 80 * GIB
ENGINE = frozenset({10, 11})


def gpu(free: float, holders: Mapping[int, float | None] | None = None, index: int = 0) -> Gpu:
    """``free`` and what is held, in GiB."""
    held = {p: None if m is None else int(m * GIB) for p, m in (holders or {}).items()}
    return Gpu(index, TOTAL, int(free * GIB), held)


LOADED = gpu(7, {10: 70, 11: 2, 99: 0.3})


def decide(
    claims: Sequence[Claim], *free: Gpu, every: float = 0.1, need: float | None = None
) -> list[bool]:
    """Whether the next engine may start, at each of the readings."""
    readings: list[Reading] = []
    said = []
    for number, one in enumerate(free):
        readings.append((number * every, (one,)))
        said.append(not lacking(claims, readings, need))
    return said


def test_a_stopped_engine_holds_until_it_is_off_the_list_and_its_memory_is_back() -> None:
    claims = claims_on((LOADED,), ENGINE)
    assert claims == (Claim(0, ENGINE, 79 * GIB, steady=False, others=LOADED.holders),)
    still, off, half, back = (
        gpu(7, {10: 70, 11: 2, 99: 0.3}),
        gpu(7, {99: 0.3}),  # the driver cleans up behind a process that is gone
        gpu(41, {99: 0.3}),
        gpu(79, {99: 0.3}),
    )
    assert decide(claims, still, off, half, back) == [False, False, False, True]


def test_where_all_is_back_at_once_nothing_is_waited_for() -> None:
    assert decide(claims_on((LOADED,), ENGINE), gpu(79, {99: 0.3})) == [True]


def test_an_engine_that_is_on_no_gpu_is_not_waited_for() -> None:
    assert claims_on((LOADED,), frozenset({5})) == ()
    assert claims_on((gpu(79.5),), ENGINE) == ()


def test_memory_that_nobody_is_named_for_must_be_steady() -> None:
    unlisted = gpu(8)
    claims = claims_on((unlisted,), ENGINE)
    assert claims == (Claim(0),)
    moves = [gpu(8), gpu(30), gpu(60), gpu(79), gpu(79), gpu(79), gpu(79), gpu(79), gpu(79)]
    assert decide(claims, *moves) == [False] * 8 + [True]


def test_a_process_without_a_figure_must_be_gone_and_the_memory_steady() -> None:
    claims = claims_on((gpu(8, {10: None}),), ENGINE)
    assert claims == (Claim(0, frozenset({10})),)
    listed = [gpu(8, {10: None})] * 9
    assert decide(claims, *listed, gpu(79)) == [False] * 10
    assert decide(claims, *[gpu(79)] * 7)[-1] is True


def test_a_sleeper_gives_at_least_half_and_then_moves_no_more() -> None:
    claims = claims_on((LOADED,), ENGINE, stays=True)
    assert claims[0].free == 43 * GIB
    assert not claims[0].gone
    asleep = {10: 3, 11: 2, 99: 0.3}
    before, on_the_way, done = gpu(7, {10: 70, 11: 2}), gpu(50, {10: 27}), gpu(74, asleep)
    said = decide(claims, before, on_the_way, *[done] * 7)
    assert said == [False] * 7 + [True] * 2


def test_what_others_took_meanwhile_is_not_waited_for() -> None:
    claims = claims_on((LOADED,), ENGINE)
    taken = gpu(59, {99: 0.3, 200: 20})
    assert decide(claims, *[taken] * 7)[-1] is True
    # and nobody on the list has it: the driver has it still
    assert decide(claims, *[gpu(59, {99: 0.3})] * 7)[-1] is False


@pytest.mark.parametrize(("need", "enough"), [(0.9, False), (0.7, True)])
def test_what_the_next_model_asks_for_must_be_there(need: float, enough: bool) -> None:
    claims = claims_on((LOADED,), ENGINE)
    taken = gpu(59, {99: 0.3, 200: 20})
    assert decide(claims, *[taken] * 7, need=need)[-1] is enough


def test_what_two_engines_held_must_come_back_together() -> None:
    first = claims_on((gpu(10, {10: 40, 20: 29}),), frozenset({10}))
    both = claims_on((gpu(50, {20: 29}),), frozenset({20}), before=first)
    assert both[0].gone == {10, 20}
    assert both[0].free == 79 * GIB
    assert decide(both, gpu(50), gpu(79)) == [False, True]


@pytest.mark.parametrize("slept", [False, True])
def test_what_an_engine_holds_is_asked_for_once_however_often_it_is_told_to_go(slept: bool) -> None:
    """A call that failed leaves its claim; the card has a gigabyte of somebody else's."""
    loaded = gpu(9, {10: 70, 99: 1})
    first = claims_on((loaded,), frozenset({10}), stays=slept)
    again = claims_on((loaded,), frozenset({10}), before=first)
    assert again[0].free == 79 * GIB
    assert decide(again, gpu(79, {99: 1}), gpu(79, {99: 1}), every=1.0)[-1]


def test_each_gpu_of_an_engine_counts() -> None:
    pair = (gpu(8, {10: 70}), gpu(8, {11: 70}, index=1))
    claims = claims_on(pair, ENGINE)
    one_back = (gpu(79), gpu(8, {11: 70}, index=1))
    assert [lack.gpu.index for lack in lacking(claims, [(0.0, one_back)])] == [1]


def test_of_an_engine_that_was_lost_it_is_known_who_must_be_gone() -> None:
    claims = after_a_loss(claims_on((LOADED,), ENGINE))
    assert claims == (Claim(0, ENGINE),)
    assert decide(claims, *[gpu(8, {10: 70})] * 9)[-1] is False
    assert decide(claims, *[gpu(79)] * 7)[-1] is True


def test_those_who_should_be_gone_are_named_else_all_that_hold_anything() -> None:
    claim = claims_on((LOADED,), ENGINE)[0]
    assert who_holds(LOADED, claim) == [(10, 70 * GIB), (11, 2 * GIB)]
    assert [pid for pid, _ in who_holds(gpu(40, {99: 0.3, 7: 30}), claim)] == [7, 99]
