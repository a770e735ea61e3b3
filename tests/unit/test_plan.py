"""What plan follows from what is true."""

from __future__ import annotations

from llm_router.config.schema import Model, SchedulerConfig, SwitchConfig
from llm_router.engines.base import READY, Readiness
from llm_router.engines.residency import Policy
from llm_router.switcher.plan import (
    NAMES,
    Observed,
    Step,
    make_plan,
    make_unload_plan,
    with_restart,
)
from llm_router.switcher.residency import Release, Sleeper
from llm_router.units.base import UnitState

RUNS = UnitState("active", 7)
LOADING = Readiness("loading")


def model(name: str, **fields: object) -> Model:
    values = {"backend": "vllm", "service": f"vllm@{name}.service", **fields}
    return Model.model_validate({"name": name, **values})


A, B = model("a"), model("b", timeout=40.0)


def plan(target: Model, *observed: Observed, **options: object) -> list[str]:
    steps = make_plan(target, observed, SwitchConfig(), SchedulerConfig(), **options)  # type: ignore[arg-type]
    return [f"{step.name} {step.model}" for step in steps]


def test_an_engine_that_cannot_load_a_model_as_it_should_is_restarted_for_it() -> None:
    a, b = (
        model(name, backend="tabby", service="tabbyapi.service", residency="unload")
        for name in ("a", "b")
    )
    config, units = SwitchConfig(), {"a": "tabbyapi.service", "b": "tabbyapi.service"}

    def restarted(*observed: Observed, **options: object) -> list[str]:
        steps = make_plan(b, observed, config, SchedulerConfig(), **options)  # type: ignore[arg-type]
        made = with_restart(b, steps, units, config, 40.0)
        return [f"{step.name} {step.model}" for step in made]

    loaded = restarted(Observed(a, RUNS), loaded="a", release=Release("unload"), memory="known")
    assert loaded == ["Drain a", "Stop a", "WaitForMemory a", *LOAD_B]
    asleep = Sleeper("a", a.unit, "unload", 7, 0, 0.0)
    assert restarted(Observed(a, RUNS, sleeper=asleep)) == ["Stop b", *LOAD_B]
    units["a"] = "other.service"  # it is another engine that unloads its model
    gone = restarted(
        Observed(a.model_copy(update={"service": "other.service"}), RUNS),
        Observed(b, RUNS, sleeper=Sleeper("b", b.unit, "unload", 8, 0, 0.0)),
        loaded="a",
        release=Release("unload"),
    )
    assert gone == ["Drain a", "Unload a", "Stop b", *LOAD_B]


def test_the_names_of_all_steps_are_known() -> None:
    own = [kind.__name__ for kind in Step.__subclasses__() if "name" not in vars(kind)]
    assert set(NAMES) == {*own, "Sleep", "Unload", "Wake", "Load"}


LOAD_B = ["Activate b", "Start b", "WaitUntilReady b", "WarmUp b"]


def test_a_cold_start() -> None:
    assert plan(B) == LOAD_B


def test_a_switch_drains_and_stops_first() -> None:
    assert plan(B, Observed(A, RUNS), loaded="a") == ["Drain a", "Stop a", *LOAD_B]


def test_an_engine_that_nobody_asked_for_is_stopped_without_a_drain() -> None:
    assert plan(B, Observed(A, RUNS)) == ["Stop a", *LOAD_B]


def test_the_target_that_serves_already_is_kept() -> None:
    assert plan(B, Observed(B, RUNS, READY)) == ["WaitUntilReady b", "WarmUp b"]


def test_the_target_in_an_unknown_state_is_restarted() -> None:
    assert plan(B, Observed(B, RUNS, LOADING)) == ["Stop b", *LOAD_B]


def test_after_a_restart_of_the_router_a_loading_target_is_waited_for() -> None:
    steps = plan(B, Observed(B, RUNS, LOADING), trust_loading=True)
    assert steps == ["WaitUntilReady b", "WarmUp b"]


def test_a_target_with_another_model_in_it_is_restarted_even_then() -> None:
    wrong = Observed(B, RUNS, Readiness("wrong"))
    assert plan(B, wrong, trust_loading=True) == ["Stop b", *LOAD_B]


def test_a_unit_on_its_way_down_is_not_kept() -> None:
    down = Observed(B, UnitState("deactivating", 7), READY)
    assert plan(B, down) == ["Stop b", *LOAD_B]


def test_models_that_share_a_unit_stop_it_once() -> None:
    one, two = (model(name, service="tabbyapi.service") for name in ("one", "two"))
    assert plan(two, Observed(one, RUNS), loaded="one")[:2] == ["Drain one", "Stop one"]


def test_no_warm_up_where_none_is_wanted() -> None:
    quiet = model("b", warm_up=False)
    assert plan(quiet)[-1] == "WaitUntilReady b"


def test_the_models_own_timeout_is_the_loads_deadline() -> None:
    steps: tuple[Step, ...] = make_plan(B, [], SwitchConfig(), SchedulerConfig())
    assert {step.deadline for step in steps if step.name != "Activate"} == {40.0}


SLEEPS = Release("sleep", 5)


def asleep(name: str, policy: Policy = "sleep") -> Observed:
    sleeper = Sleeper(name, f"vllm@{name}.service", policy, 7, 5, 1.0)
    return Observed(model(name), RUNS, sleeper=sleeper)


def test_the_loaded_model_falls_asleep_and_the_target_wakes_up() -> None:
    steps = plan(B, Observed(A, RUNS), asleep("b"), asleep("c"), loaded="a", release=SLEEPS)
    assert steps == ["Drain a", "Sleep a", "Wake b", "WaitUntilReady b", "WarmUp b"]


def test_sleepers_that_must_make_room_are_stopped_after_the_drain() -> None:
    release = Release("sleep", 5, ("c", "d"))
    steps = plan(B, asleep("c"), Observed(A, RUNS), asleep("d"), loaded="a", release=release)
    assert steps == ["Drain a", "Stop c", "Stop d", "Sleep a", *LOAD_B]


def test_what_runs_and_is_not_known_to_sleep_is_stopped() -> None:
    steps = plan(B, Observed(A, RUNS), Observed(model("c"), RUNS), loaded="a", release=SLEEPS)
    assert steps == ["Drain a", "Sleep a", "Stop c", *LOAD_B]


def test_nothing_sleeps_in_a_unit_that_the_target_needs() -> None:
    shared = [model(name, service="vllm.service") for name in ("a", "b")]
    steps = plan(shared[1], Observed(shared[0], RUNS), loaded="a", release=SLEEPS)
    assert steps == ["Drain a", "Stop a", *LOAD_B]
    sleeper = Sleeper("a", "vllm.service", "sleep", 7, 5, 1.0)
    assert plan(shared[1], Observed(shared[0], RUNS, sleeper=sleeper)) == ["Stop a", *LOAD_B]


def test_an_engine_without_a_model_takes_any_of_its_unit() -> None:
    a, b = (model(n, backend="tabby", service="tabbyapi.service") for n in ("a", "b"))
    load = ["Activate b", "Load b", "WaitUntilReady b", "WarmUp b"]
    steps = plan(b, Observed(a, RUNS), loaded="a", release=Release("unload"))
    assert steps == ["Drain a", "Unload a", *load]
    sleeper = Sleeper("a", "tabbyapi.service", "unload", 7, 0, 1.0)
    assert plan(b, Observed(a, RUNS, sleeper=sleeper)) == load


def test_an_idle_model_falls_asleep_and_others_sleep_on() -> None:
    observed = (Observed(A, RUNS), asleep("b"))
    switch, scheduler = SwitchConfig(), SchedulerConfig()
    steps = make_unload_plan(observed, switch, scheduler, loaded="a", release=SLEEPS)
    assert [step.name for step in steps] == ["Drain", "Sleep"]
    steps = make_unload_plan(observed, switch, scheduler, loaded="a")
    assert [f"{step.name} {step.model}" for step in steps] == ["Drain a", "Stop a", "Stop b"]


def test_memory_is_waited_for_after_whoever_goes_and_before_the_next_starts() -> None:
    watched = {"memory": "watched"}
    assert plan(B, **watched) == LOAD_B
    steps = plan(B, Observed(A, RUNS), loaded="a", **watched)
    assert steps == ["Drain a", "Stop a", "WaitForMemory a", *LOAD_B]
    steps = plan(B, Observed(A, RUNS), asleep("b"), loaded="a", release=SLEEPS, **watched)
    assert steps[:4] == ["Drain a", "Sleep a", "WaitForMemory a", "Wake b"]
    # nothing starts: another engine of the group is stopped beside the one that serves
    assert "WaitForMemory a" not in plan(B, Observed(A, RUNS), Observed(B, RUNS, READY), **watched)


def test_memory_of_an_engine_that_went_before_is_waited_for() -> None:
    assert plan(B, memory="owed") == ["WaitForMemory b", *LOAD_B]
