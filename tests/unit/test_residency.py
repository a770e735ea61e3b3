"""How a model goes that has to, and which sleepers make room for it; what is known of sleepers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.config.schema import Model
from llm_router.switcher.residency import Release, Sleeper, choose
from llm_router.switcher.sleepers import Sleepers


def model(backend: str, residency: str, **fields: Any) -> Model:
    values = {"name": "a", "backend": backend, "residency": residency, **fields}
    return Model.model_validate(values)


def sleeper(name: str, memory: int, since: float = 0.0, pid: int = 7) -> Sleeper:
    return Sleeper(name, f"vllm@{name}.service", "sleep", pid, memory, since)


FLAGS = {"enable-sleep-mode": True}
SAVER = {"enable-memory-saver": True, "enable-weights-cpu-backup": True}


@pytest.mark.parametrize(
    ("made", "goes"),
    [
        (model("vllm", "auto"), None),
        (model("vllm", "auto", settings=FLAGS), Release("sleep", 10)),
        (model("vllm", "auto", args=["--enable-sleep-mode"]), Release("sleep", 10)),
        (model("sglang", "auto", settings=SAVER), Release("sleep", 10)),
        (model("sglang", "auto", settings={"enable-memory-saver": True}), None),
        (model("sglang", "discard"), Release("discard")),
        (model("vllm", "sleep"), Release("sleep", 10)),
        (model("vllm", "stop", settings=FLAGS), None),
        (model("tabby", "unload"), Release("unload")),
        (model("tabby", "auto"), None),
        (model("llamacpp", "auto"), None),
    ],
)
def test_each_engine_goes_as_it_can(made: Model, goes: Release | None) -> None:
    assert choose(made, 10, [], 10) == goes


def test_what_does_not_fit_is_discarded_if_that_was_allowed() -> None:
    for weights in (None, 11):
        assert choose(model("vllm", "sleep"), weights, [], 10) == Release("discard")
        assert choose(model("vllm", "auto", settings=FLAGS), weights, [], 10) is None


def test_the_coldest_make_room() -> None:
    others = [sleeper("warm", 4, 30.0), sleeper("cold", 3, 10.0), sleeper("cool", 2, 20.0)]
    made = model("vllm", "sleep")
    assert choose(made, 5, others, 5) == Release("sleep", 5, ())
    assert choose(made, 5, others, 3) == Release("sleep", 5, ("cold",))
    assert choose(made, 5, others, 1) == Release("sleep", 5, ("cold", "cool"))
    assert choose(made, 20, others, 1) == Release("discard")


@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.integers(0, 30), st.floats(0, 100)), max_size=6),
    st.integers(0, 60),
)
def test_the_budget_is_never_passed(
    weights: int, others: list[tuple[int, float]], budget: int
) -> None:
    sleepers = [sleeper(str(n), memory, since) for n, (memory, since) in enumerate(others)]
    kept = sum(one.memory for one in sleepers)
    goes = choose(model("vllm", "sleep"), weights, sleepers, budget - kept)
    if goes == Release("discard"):
        assert weights > budget
        return
    assert goes is not None
    left = [one for one in sleepers if one.model not in goes.stopped]
    assert sum(one.memory for one in left) + goes.memory <= budget


def test_sleepers_are_known_after_a_restart_and_doubt_stays_doubt(tmp_path: Path) -> None:
    file = tmp_path / "asleep.json"
    made = Sleepers(file)
    made.unsure("vllm@a.service")
    assert Sleepers(file).is_unsure("vllm@a.service")
    made.add(sleeper("a", 5), "id")
    again = Sleepers(file)
    assert (again.names(), again.is_unsure("vllm@a.service")) == ({"a"}, False)
    assert again.find("vllm@a.service", 7) == sleeper("a", 5)
    assert again.find("vllm@a.service", 8) is None, "another process is another engine"
    assert again.names() == set()
    made.unsure("vllm@a.service")
    assert (made.names(), Sleepers(file).names()) == (set(), set())
    made.forget("vllm@a.service")
    assert not Sleepers(file).is_unsure("vllm@a.service")


def test_nothing_sleeps_after_a_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "asleep.json"
    Sleepers(file).add(sleeper("a", 5), "id")
    boot = tmp_path / "boot_id"
    boot.write_text("another", encoding="ascii")
    monkeypatch.setattr("llm_router.switcher.sleepers.BOOT_ID", boot)
    assert Sleepers(file).names() == set()


def test_a_first_sleep_is_remembered_until_the_boot_or_until_the_engine_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "asleep.json"
    made = Sleepers(file)
    assert not made.has_slept("a", "id")
    made.add(sleeper("a", 5), "id")
    made.forget(sleeper("a", 5).unit)
    again = Sleepers(file)
    assert again.has_slept("a", "id")
    assert not again.has_slept("a", "other")
    boot = tmp_path / "boot"
    boot.write_text("another")
    monkeypatch.setattr("llm_router.switcher.sleepers.BOOT_ID", boot)
    assert not Sleepers(file).has_slept("a", "id")
