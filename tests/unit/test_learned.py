"""What past switches say of the next one, over restarts too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_router.config.schema import Model
from llm_router.events import StepEnded, SwitchEnded
from llm_router.switcher.learned import REMEMBERED, Learned
from llm_router.switcher.plan import Drain, Start, Step, Stop

MODELS = {name: Model(name=name, backend="command", port=9000) for name in ("a", "b")}


@pytest.fixture
def made(tmp_path: Path) -> Learned:
    return Learned(tmp_path / "learned.json", MODELS)


def see(made: Learned, *seen: tuple[str, float]) -> None:
    for step, seconds in seen:
        made.listen(StepEnded("g", step, "a", seconds))


def loaded(model: str, context_length: int | None, error: str | None = None) -> SwitchEnded:
    return SwitchEnded("g", model, None, 1.0, "request", error, context_length=context_length)


def test_the_median_of_what_was_seen(made: Learned) -> None:
    see(made, ("Start", 1.0), ("Start", 9.0), ("Start", 2.0))
    assert made.expected(Start("a", 60)) == 2.0
    assert made.expected(Start("b", 60)) is None
    assert made.expected(Start("unknown", 60)) is None


def test_failures_teach_nothing_and_the_old_is_forgotten(made: Learned) -> None:
    see(made, ("Start", 100.0), *[("Start", 1.0)] * REMEMBERED)
    made.listen(StepEnded("g", "Start", "a", 500.0, "no memory"))
    assert made.expected(Start("a", 60)) == 1.0
    made.listen(loaded("a", 4096, "it ended"))
    assert made.context_length("a") is None


def test_a_plan_is_the_sum_of_its_steps_without_the_drain(made: Learned) -> None:
    see(made, ("Drain", 40.0), ("Stop", 2.0), ("Start", 3.0))
    steps: tuple[Step, ...] = (Drain("a", 60), Stop("a", 60), Start("a", 60))
    assert made.total(steps) == 5.0
    assert made.total((*steps, Start("b", 60))) is None
    assert made.total(()) == 0


def test_it_is_kept_over_restarts_for_models_that_are_the_same(tmp_path: Path) -> None:
    file = tmp_path / "learned.json"
    made = Learned(file, MODELS)
    see(made, ("Start", 3.0))
    made.listen(loaded("a", 4096))
    made.found("b", 512)
    again = Learned(file, MODELS)
    assert again.expected(Start("a", 60)) == 3.0
    assert (again.context_length("a"), again.context_length("b")) == (4096, 512)
    made.listen(loaded("a", None))
    assert made.context_length("a") == 4096, "an engine that says nothing takes nothing back"

    other = {
        "a": MODELS["a"].model_copy(update={"ttl": 5.0}),  # nothing that the engine knows of
        "b": MODELS["b"].model_copy(update={"args": ["--ctx-size", "8"]}),
    }
    changed = Learned(file, other)
    assert (changed.context_length("a"), changed.context_length("b")) == (4096, None)
    again.configure({"b": MODELS["b"]})
    assert (again.context_length("a"), again.context_length("b")) == (None, 512)
    again.configure(MODELS)
    assert again.expected(Start("a", 60)) is None


@pytest.mark.parametrize(
    "text", ["", "[]", '{"a": 1}', '{"a": {"launch": "x"}}', json.dumps({"a": {"steps": []}})]
)
def test_a_file_that_is_no_use_is_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "learned.json"
    file.write_text(text, encoding="utf-8")
    assert Learned(file, MODELS).context_length("a") is None


def test_what_another_release_adds_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / "learned.json"
    made = Learned(file, MODELS)
    see(made, ("Start", 3.0))
    made.listen(loaded("a", 4096))
    made.found("b", 512)
    entries = json.loads(file.read_text(encoding="utf-8"))
    entries["a"]["steps"]["Hibernate"] = {"median": 1.0}
    entries["a"]["steps"]["Start"] += ["soon", -1, float("inf")]
    entries["a"]["tomorrow"] = True
    del entries["b"]["steps"]
    entries["c"] = 5
    file.write_text(json.dumps(entries), encoding="utf-8")
    again = Learned(file, MODELS)
    assert (again.context_length("a"), again.context_length("b")) == (4096, 512)
    assert again.expected(Start("a", 60)) == 3.0
