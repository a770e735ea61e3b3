"""The wait itself, on an NVML that says what a test says."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llm_router.config.schema import Model
from llm_router.events import EventStream, MemoryNotReleased, ModelLost
from llm_router.nvml import read_memory
from llm_router.switcher import settling
from llm_router.switcher.settling import LONG_AGO, GpuMemory, NotReleased
from tests.integration.with_memory import Nvml, NVMLError, write_gpus
from tests.unit.test_switcher import FakeUnits

GIB = 2**30
A = Model(name="a", backend="vllm", service="a.service")
MINE = 4_000_001


class Units(FakeUnits):
    async def processes_among(self, model: Model, pids: Collection[int]) -> frozenset[int]:
        return frozenset(pids) & {MINE}


@pytest.fixture
def gpu_file(tmp_path: Path) -> Path:
    path = tmp_path / "gpus.json"
    write_gpus(path, 80 * GIB, 8 * GIB, {MINE: 70 * GIB, os.getpid(): GIB})
    return path


def made(nvml: Any) -> tuple[GpuMemory, list[Any]]:
    events = EventStream()
    heard: list[Any] = []
    events.subscribe(heard.append)
    return GpuMemory(nvml, Units(), events), heard


def test_it_returns_as_soon_as_the_memory_is_back(gpu_file: Path) -> None:
    async def scenario() -> None:
        memory, heard = made(Nvml(gpu_file))
        assert memory.state_of("default") == "watched"
        await memory.going(A)
        assert memory.state_of("default") == "owed"
        waiting = asyncio.create_task(memory.wait("default", "a", 10, None))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        write_gpus(gpu_file, 80 * GIB, 78 * GIB, {os.getpid(): GIB})
        await asyncio.wait_for(waiting, 0.3)
        assert memory.state_of("default") == "watched"
        assert heard == []

    asyncio.run(scenario())


def test_who_does_not_let_go_is_named_and_counted_once(gpu_file: Path) -> None:
    async def scenario() -> None:
        memory, heard = made(Nvml(gpu_file))
        await memory.going(A)
        with pytest.raises(NotReleased) as failed:
            await memory.wait("default", "a", 0.2, None)
        assert f"process {MINE} (unknown) holds 75.2 GB" in str(failed.value)
        assert f"kill -9 {MINE}" in str(failed.value)
        assert heard == [MemoryNotReleased("default", "a")]
        # the next switch goes by what is free then
        await memory.wait("default", "a", 0.2, None)

    asyncio.run(scenario())


def test_memory_without_an_owner_names_all_who_hold_some(gpu_file: Path) -> None:
    async def scenario() -> None:
        memory, _ = made(Nvml(gpu_file))
        await memory.going(A)
        write_gpus(gpu_file, 80 * GIB, 8 * GIB, {os.getpid(): GIB})
        name = Path("/proc/self/comm").read_text(encoding="utf-8").strip()
        with pytest.raises(NotReleased, match=rf"process {os.getpid()} \({name}\) holds 1.1 GB"):
            await memory.wait("default", "a", 0.2, None)

    asyncio.run(scenario())


def test_memory_that_only_moves_is_no_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        path = tmp_path / "gpus.json"
        write_gpus(path, 80 * GIB, 8 * GIB, {})
        memory, heard = made(Nvml(path))
        await memory.going(A)
        write_gpus(path, 80 * GIB, 20 * GIB, {})
        await memory.wait("default", "a", 0.2, None)
        assert heard == []

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert "moves still" in caplog.text


def test_a_wait_that_is_cancelled_leaves_what_is_owed(gpu_file: Path) -> None:
    async def scenario() -> None:
        memory, _ = made(Nvml(gpu_file))
        await memory.going(A)
        waiting = asyncio.create_task(memory.wait("default", "a", 10, None))
        await asyncio.sleep(0.2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert memory.state_of("default") == "owed"

    asyncio.run(scenario())


def test_a_driver_that_is_slow_is_no_sign_that_memory_is_free(
    gpu_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(nvml: Any) -> Any:
        time.sleep(0.3)
        return read_memory(nvml)

    async def scenario() -> None:
        memory, _ = made(Nvml(gpu_file))
        await memory.going(A)
        monkeypatch.setattr(settling, "read_memory", slowly)
        with pytest.raises(NotReleased):
            await memory.wait("default", "a", 0.4, None)

    asyncio.run(scenario())


def test_how_long_ago_is_counted_from_the_end_of_a_stop(gpu_file: Path) -> None:
    now = 100.0

    async def scenario() -> None:
        nonlocal now
        write_gpus(gpu_file, 80 * GIB, 8 * GIB, {})  # a driver that names nobody
        memory = GpuMemory(Nvml(gpu_file), Units(), EventStream(), clock=lambda: now)
        await memory.going(A)
        now += 3 * LONG_AGO
        memory.gone("default")
        waiting = asyncio.create_task(memory.wait("default", "a", 10, None))
        await asyncio.sleep(0.3)
        assert not waiting.done(), "nobody has seen yet that it is steady"
        waiting.cancel()

    asyncio.run(scenario())


def test_an_engine_that_was_lost_is_waited_for_too(gpu_file: Path) -> None:
    async def scenario() -> None:
        memory, _ = made(Nvml(gpu_file))
        await memory.loaded(A)
        assert memory.state_of("default") == "watched"
        memory.listen(ModelLost("default", "a", "it ended"))
        assert memory.state_of("default") == "owed"
        with pytest.raises(NotReleased, match=str(MINE)):
            await memory.wait("default", "a", 0.1, None)

    asyncio.run(scenario())


def test_without_gpus_nothing_is_asked() -> None:
    async def scenario() -> None:
        memory, _ = made(None)
        await memory.going(A)
        await memory.loaded(A)
        assert memory.state_of("default") == "none"
        await memory.wait("default", "a", 0.1, None)

    asyncio.run(scenario())


def test_a_driver_that_fails_holds_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> int:
        raise NVMLError("GPU is lost")

    async def scenario() -> None:
        nvml = SimpleNamespace(NVMLError=NVMLError, nvmlDeviceGetCount=broken)
        memory, _ = made(nvml)
        await memory.going(A)
        await memory.wait("default", "a", 0.1, None)

    asyncio.run(scenario())
    assert "GPU is lost" in caplog.text
