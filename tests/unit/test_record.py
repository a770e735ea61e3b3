"""What another release has written is read entry by entry, so that a rollback forgets no engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_router.config.schema import Model
from llm_router.switcher.record import Record
from llm_router.switcher.residency import Sleeper
from llm_router.switcher.sleepers import Sleepers

MODELS = {
    name: Model(name=name, backend="vllm", service=f"{name}.service", port=port)
    for name, port in (("a", 9000), ("b", 9001))
}


def written(path: Path, **changes: Any) -> None:
    """The file as a later release has it: ``changes`` of the entry of `a`."""
    record = Record(path)
    for model in MODELS.values():
        record.add(model)
    entries = json.loads(path.read_text())
    entries["a"].update(changes)
    path.write_text(json.dumps(entries))


@pytest.mark.parametrize(
    "changes",
    [
        {"a_key_of_tomorrow": {"x": 1}},
        {"residency": "hibernate"},
        {"aliases": ["a//b"]},
        {"status": 5, "ttl": "never", "another": None},
        {"variants": {"x": {"force": {}, "tomorrow": 1}}},
    ],
)
def test_what_is_unknown_is_left_out_of_an_entry(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "started.json"
    written(path, **changes)
    record = Record(path)
    assert record.models == MODELS
    assert record.of("a.service") == MODELS["a"]


@pytest.mark.parametrize("entry", [{"backend": "tomorrow"}, [], "a.service", None, {}])
def test_an_entry_that_cannot_be_read_takes_no_other_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, entry: Any
) -> None:
    path = tmp_path / "started.json"
    written(path)
    entries = json.loads(path.read_text())
    path.write_text(json.dumps({"c": entry, **entries}))
    assert Record(path).models == MODELS
    assert "the entry of 'c' cannot be read" in caplog.text


def test_of_sleepers_of_another_release_nothing_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "asleep.json"
    sleepers = Sleepers(path)
    for name, pid in (("a", 1), ("b", 2), ("c", 3)):
        sleepers.add(Sleeper(name, f"{name}.service", "sleep", pid, 5, 6.0), "launch")
    notes = json.loads(path.read_text())
    notes["asleep"][0]["tomorrow"] = 1
    notes["asleep"][1]["policy"] = "hibernate"
    del notes["asleep"][2]["main_pid"]
    notes["asleep"].append(7)
    path.write_text(json.dumps(notes))
    again = Sleepers(path)
    assert again.all() == [Sleeper("a", "a.service", "sleep", 1, 5, 6.0)]
    assert again.is_unsure("b.service")
    assert again.is_unsure("c.service")
    assert again.has_slept("b", "launch")
