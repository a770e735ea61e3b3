"""A model whose entry does not say what its engine calls it: the engine does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_router.api.auth import Caller
from llm_router.api.intake import Incoming, understand
from llm_router.api.paths import CHAT
from llm_router.api.services import Services
from llm_router.config.schema import Model

from .test_switcher import FakeUnits, Patch, load, refusal, router, run, until

SCRIPT = {"backend": "sglang", "script": "/home/me/start.sh"}
SHARED = {**SCRIPT, "service": "sglang.service", "port": 9500}


class Nameless(FakeUnits):
    """Units whose engines call a model by its path, as SGLang does without a name."""

    def run(self, unit: str, model: str) -> None:
        super().run(unit, f"/home/me/{model}")


def sent(services: Services, model: str) -> str:
    """The name of ``model`` in a request to its engine."""
    body = json.dumps({"model": model, "messages": []}).encode()
    caller = Caller("c", frozenset({"use", "switch"}))
    exchange = understand(CHAT)(Incoming(services, {"headers": []}, caller, {}, body, 1))
    content = b"".join(map(bytes, exchange.call(exchange.model).content))
    return str(json.loads(content)["model"])


@pytest.mark.parametrize(
    "entry", [SCRIPT, {"backend": "vllm"}, {"backend": "command"}, {"backend": "sglang"}]
)
def test_the_single_name_that_an_engine_lists_is_the_models(
    monkeypatch: Patch, tmp_path: Path, entry: dict[str, Any]
) -> None:
    async def test() -> None:
        units = Nameless()
        async with router(monkeypatch, {"a": entry}, units, state_dir=str(tmp_path)) as services:
            await load(services, "a")
            assert sent(services, "a") == "/home/me/a"
        async with router(monkeypatch, {"a": entry}, units, state_dir=str(tmp_path)) as services:
            await until(lambda: services.scheduler.core.group_of("a").current == "a")
            assert sent(services, "a") == "/home/me/a"
        assert units.calls == ["activate a", "start a"]

    run(test())


def test_models_of_one_unit_are_told_apart_by_the_names_that_they_had(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    async def test() -> None:
        units, models = Nameless(), {"a": SHARED, "b": SHARED}
        async with router(monkeypatch, models, units, state_dir=str(tmp_path)) as services:
            await load(services, "a")
            await load(services, "b")
            assert [sent(services, name) for name in "ab"] == ["/home/me/a", "/home/me/b"]
            units.serves["sglang.service"] = "/home/me/a"  # by hand
            await services.reconciler.see(services.models["b"])
            await until(lambda: services.scheduler.core.group_of("a").current == "a")
        (tmp_path / "started.json").unlink()
        async with router(monkeypatch, models, units, state_dir=str(tmp_path)) as services:
            await until(lambda: services.scheduler.core.group_of("a").current == "a")

    run(test())


def test_an_unknown_name_in_a_unit_of_several_models_is_nobodys(monkeypatch: Patch) -> None:
    """It may be any of them: the engine is started again for the first that is requested."""

    async def test() -> None:
        units = Nameless()
        units.run("sglang.service", "b")
        async with router(monkeypatch, {"a": SHARED, "b": SHARED}, units) as services:
            assert services.scheduler.core.group_of("a").current is None
            await load(services, "a")
            assert units.calls == ["stop a", "activate a", "start a"]

    run(test())


def test_a_script_that_starts_another_model_now_has_its_name_taken_anew(
    monkeypatch: Patch,
) -> None:
    async def test() -> None:
        units = Nameless()
        async with router(monkeypatch, {"a": SCRIPT}, units) as services:
            await load(services, "a")
            await services.scheduler.unload("default")
            units.run = lambda unit, model: FakeUnits.run(units, unit, "/home/me/new")  # type: ignore[method-assign]
            await load(services, "a")
            assert sent(services, "a") == "/home/me/new"

    run(test())


@pytest.mark.parametrize(
    "entry",
    [
        {"model_name": "m", **SCRIPT},
        {"backend": "vllm", "model_path": "/srv/m"},  # its name is written into its file
        {"backend": "tabby"},
        {"backend": "sglang", "service": None, "command": ["x"]},
    ],
)
def test_a_name_that_is_known_is_the_only_one(monkeypatch: Patch, entry: dict[str, Any]) -> None:
    model = Model(name="a", **{"service": "a.service", **entry})
    assert not model.takes_its_name
    if entry["backend"] != "sglang" or entry.get("command"):
        return

    async def test() -> None:
        async with router(monkeypatch, {"a": entry}, Nameless()) as services:
            message = (await refusal(services, "a")).refusal.message
            assert "it serves /home/me/a, not 'm'" in message

    run(test())


class Folders(FakeUnits):
    """TabbyAPI, which calls a model by the last part of its folder."""

    def run(self, unit: str, model: str) -> None:
        super().run(unit, "4.0bpw")


def test_models_whose_folders_have_one_name_are_never_taken_for_each_other(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    """The record of what was started tells them apart; without it the engine is started again."""
    tabby = {"backend": "tabby", "service": "tabbyapi.service", "port": 9500}
    models = {name: {**tabby, "model_path": f"/m/{name}/exl3/4.0bpw"} for name in "ab"}

    def current(services: Services) -> str | None:
        return services.scheduler.core.group_of("a").current

    async def test() -> None:
        units = Folders()
        async with router(monkeypatch, models, units, state_dir=str(tmp_path)) as services:
            await load(services, "a")
            await load(services, "b")
            assert units.calls == ["activate a", "start a", "stop a", "activate b", "start b"]
        async with router(monkeypatch, models, units, state_dir=str(tmp_path)) as services:
            assert current(services) == "b"
            services.scheduler.lost("b")  # so that nobody knows: a is not what runs
            units.calls.clear()
            await load(services, "a")
            assert units.calls[-1] == "start a"
        (tmp_path / "started.json").unlink()
        async with router(monkeypatch, models, units, state_dir=str(tmp_path)) as services:
            assert current(services) is None
            units.calls.clear()
            await load(services, "b")
            assert units.calls[-1] == "start b"

    run(test())
