"""The judge of the soak on a host: what it calls a contradiction, and when two agree."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.soak.host.judge import (
    Belief,
    Engine,
    Held,
    Placed,
    Sample,
    World,
    agreement,
    contradictions,
    overlaps,
)

MODELS = {
    "a": Placed("a.service", "one", 2048),
    "b": Placed("b.service", "one", 2048),
    "c": Placed("shared.service", "one", 2048),
    "d": Placed("shared.service", "one", 2048),
}
OFF = Engine()
ON = Engine("active", 10, alive=True, awake=True, serves="a", context=2048)
ASLEEP = Engine("active", 11, alive=True, awake=False, serves="b", context=2048)
WORLD = World({"a.service": ON, "b.service": ASLEEP, "shared.service": OFF})
BELIEF = Belief(
    loaded={"one": "a"},
    switching={},
    states={"a": "loaded", "b": "asleep", "c": "stopped", "d": "failed"},
    failures={},
    current="a",
    groups=dict.fromkeys("abcd", "one"),
)


def found(belief: Belief = BELIEF, /, **units: Engine) -> tuple[str, ...]:
    changed = {f"{name}.service": engine for name, engine in units.items()}
    return contradictions(belief, World({**WORLD.units, **changed}), MODELS)


def test_a_belief_that_is_the_world_is_contradicted_by_nothing() -> None:
    assert found() == ()


@pytest.mark.parametrize(
    ("units", "says"),
    [
        ({"a": OFF}, "a is loaded, a.service is inactive (process 0, alive: False)"),
        ({"a": replace(ON, awake=False)}, "a is loaded, its engine sleeps"),
        ({"a": replace(ON, serves="b")}, "a is loaded, a.service serves b"),
        ({"a": replace(ON, context=1)}, "a is loaded with a context of 1, not 2048"),
        ({"b": OFF}, "b is asleep, b.service is inactive (awake: False, serves )"),
        (
            {"b": replace(ASLEEP, awake=True)},
            "b.service is awake, the router has a loaded in group one",
        ),
        (
            {"shared": replace(ASLEEP, serves="d")},
            "d is failed, shared.service is active and serves it (awake: False)",
        ),
    ],
)
def test_each_way_in_which_the_world_is_another_is_told(
    units: dict[str, Engine], says: str
) -> None:
    assert says in found(BELIEF, **units)


def test_an_awake_engine_of_which_the_router_knows_nothing_is_told() -> None:
    lost = replace(BELIEF, loaded={"one": None}, states={**BELIEF.states, "a": "stopped"})
    assert "a.service is awake, the router has None loaded in group one" in found(lost)
    assert "/health has current_model a, loaded is []" in found(lost)


def test_health_must_name_what_is_loaded_and_have_no_problem() -> None:
    said = found(replace(BELIEF, current=None, problem="no bus"))
    assert said == (
        "/health has the problem: no bus",
        "/health has current_model None, loaded is ['a']",
    )


def test_a_model_that_the_router_still_has_in_another_group_is_told() -> None:
    moved = replace(BELIEF, groups={**BELIEF.groups, "b": "two"})
    assert found(moved) == ("b is in group two, models.yml says one",)


def test_while_a_group_switches_only_those_who_take_part_may_be_awake() -> None:
    switching = replace(BELIEF, switching={"one": ("b", "a")})
    awake = replace(ASLEEP, awake=True)
    assert found(switching, b=awake) == ()
    assert found(switching, shared=replace(awake, serves="c")) == (
        "shared.service is awake and has no part in the switch of group one",
    )


def test_a_process_outside_of_its_unit_is_told() -> None:
    world = World(WORLD.units, ("process 9 (a)",))
    assert contradictions(BELIEF, world, MODELS) == ("process 9 (a) holds a device",)


@pytest.mark.parametrize(
    ("samples", "seconds"),
    [
        ([(10.5, ())], 0.5),
        ([(10.5, ("x",)), (11.0, ()), (12.0, ())], 1.0),
        ([(10.5, ()), (11.0, ("x",)), (12.0, ())], 2.0),
        ([(10.5, ()), (11.0, None), (12.0, ())], 0.5),
        ([(9.0, ()), (10.5, ("x",))], None),
        ([(10.5, None)], None),
        ([], None),
    ],
)
def test_agreement_is_the_first_look_after_which_they_agree_for_good(
    samples: list[tuple[float, tuple[str, ...] | None]], seconds: float | None
) -> None:
    assert agreement([Sample(*sample) for sample in samples], 10.0) == seconds


def test_two_that_have_the_device_at_once_are_told_unless_somebody_else_starts_engines() -> None:
    held = [Held(1, "a", 0.0, 5.0), Held(2, "b", 4.0, 9.0), Held(3, "c", 9.0, 10.0)]
    assert overlaps(held, MODELS, []) == [
        "a (process 1) and b (process 2) were awake at once for 1.00 s"
    ]
    assert overlaps(held, MODELS, [(4.0, 9.0)]) == []
    assert overlaps(held, MODELS, [(4.5, 9.0)]) != []


def test_groups_have_a_device_each() -> None:
    models = {**MODELS, "b": Placed("b.service", "two", 2048)}
    assert overlaps([Held(1, "a", 0.0, 5.0), Held(2, "b", 4.0, 9.0)], models, []) == []
