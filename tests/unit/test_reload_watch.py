"""The watcher of the configuration files: no content and no fault ends it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from llm_router.api import reload as module
from llm_router.api.reload import Reloader
from llm_router.api.services import Services
from llm_router.config import load_settings
from llm_router.config.diff import Changes
from llm_router.config.errors import ConfigError
from llm_router.config.load import Settings
from llm_router.events import EventStream

pytestmark = pytest.mark.anyio

GOOD = "models: {a: {backend: command, service: a.service, port: 9000}}\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Watched:
    """A reloader on real files; what it would apply is kept."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.models = root / "models.yml"
        self.models.write_text(GOOD)
        (root / "config.yml").touch()
        self.services = SimpleNamespace(
            settings=load_settings(root / "config.yml"), events=EventStream()
        )
        self.reloader = Reloader(cast(Services, self.services))
        self.applied: list[Settings] = []
        monkeypatch.setattr(module, "LOOK_EVERY", 0.005)
        monkeypatch.setattr(self.reloader, "_apply", self._apply)

    def _apply(self, new: Settings, _: Changes) -> None:
        self.services.settings = new
        self.applied.append(new)

    async def add(self, name: str) -> None:
        """A good change is applied: the watcher is still there."""
        self.models.write_text(GOOD + f"# {name}\n" + GOOD.replace("a", name)[len("models: {") :])
        self.models.write_text(GOOD.replace("9000}", f"9000, tags: [{name}]" + "}"))
        await until(lambda: any(new.models["a"].tags == [name] for new in self.applied))


async def until(fact: Callable[[], bool]) -> None:
    with anyio.fail_after(5):
        while not fact():
            await anyio.sleep(0.002)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(tmp_path, monkeypatch)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "content",
    [
        b"models: {a: {description: 2026-02-31}}",
        b"x: " + b"[" * 100_000,
        b"x: " + b"9" * 5000,
        b"\xff",
    ],
)
async def test_no_content_ends_the_watching(
    watched: Watched, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    async with watched.reloader.watching():
        await asyncio.sleep(0)
        watched.models.write_bytes(content)
        await until(lambda: len(errors(caplog)) >= 2)
        assert "models.yml:1: " in errors(caplog)[1]
        await watched.add("b")


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), RecursionError("too deep"), KeyError("odd")]
)
@pytest.mark.parametrize("where", ["load_settings", "compare"])
async def test_no_fault_ends_the_watching(
    watched: Watched,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    where: str,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    async with watched.reloader.watching():
        await asyncio.sleep(0)
        with monkeypatch.context() as patch:
            patch.setattr(module, where, fail)
            watched.models.write_text(GOOD + "# changed\n")
            await until(lambda: bool(errors(caplog)))
            with pytest.raises(ConfigError, match=f"cannot be applied: {type(error).__name__}"):
                await watched.reloader.reload()
        assert caplog.records[0].exc_info is not None
        await watched.add("b")


async def test_a_problem_is_logged_once_for_each_content(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    for content, lines in (("x: [\n", 2), ("x: [\n", 2), ("x: {\n", 4), (GOOD, 4), ("x: [\n", 6)):
        watched.models.write_text(content)
        try:
            await watched.reloader.reload()
        except ConfigError:
            assert content != GOOD
        assert len(errors(caplog)) == lines


async def test_reloads_merge_into_the_one_that_waits(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each caller gets a reading that began after it asked; 500 do not cost 500."""
    readings: list[Settings] = []
    may_end = threading.Event()

    def read(*paths: Path) -> Settings:
        readings.append(load_settings(*paths))
        assert may_end.wait(5)
        return readings[-1]

    monkeypatch.setattr(module, "load_settings", read)
    first = asyncio.create_task(watched.reloader.reload())
    await until(lambda: len(readings) == 1)
    watched.models.write_text(GOOD.replace("9000}", "9000, tags: [new]}"))
    for _ in range(200):
        watched.reloader.soon()
    others = [asyncio.create_task(watched.reloader.reload()) for _ in range(300)]
    looks = [asyncio.create_task(watched.reloader.reload(dry_run=True)) for _ in range(20)]
    left = asyncio.create_task(watched.reloader.reload())
    await asyncio.sleep(0)
    left.cancel()
    may_end.set()
    assert not await first
    assert {(await other).updated for other in others} == {("a",)}
    await asyncio.gather(*looks)
    assert [len(watched.applied), watched.services.settings.models["a"].tags] == [1, ["new"]]
    assert len(readings) == 3


async def test_all_who_wait_for_a_reload_are_told_what_is_wrong(watched: Watched) -> None:
    watched.models.write_text("models: {a: {}}\n")
    told = await asyncio.gather(
        *(watched.reloader.reload() for _ in range(5)), return_exceptions=True
    )
    assert [type(error) for error in told] == [ConfigError] * 5
