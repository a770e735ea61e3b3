"""What plan follows from what is true."""

from __future__ import annotations

from llm_router.config.schema import Model, SchedulerConfig, SwitchConfig
from llm_router.engines.base import READY, Readiness
from llm_router.switcher.plan import Observed, Step, make_plan
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
