"""Compilers in an engine's unit: the load goes on, and people are told why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from llm_router.api import status
from llm_router.engines.compilers import is_compiling, program_of
from llm_router.events import Event, LoadActivity
from llm_router.status_lines import strip_status
from llm_router.switcher import following
from llm_router.units.base import UnitError, release_in
from llm_router.units.child_records import programs_of
from tests.unit.test_switcher import FakeUnits, load, refusal, router, run, until

# A look every 0.02 s: a busy machine ends no load.
LIMITS = {
    "timeout": 1.0,
    "stall_timeout": 1.0,
    "max_timeout": 2.0,
    "first_timeout": 20.0,
    "on_failure": "stop",
}


class Compiling(FakeUnits):
    """``running`` are the programs in each unit."""

    def __init__(self) -> None:
        super().__init__()
        self.running = frozenset({"python3.12", "cicc"})
        self.releases = "/opt/sglang/1"
        self.looks = 0
        self.broken = False

    async def programs(self, model: object) -> frozenset[str]:
        self.looks += 1
        if self.broken:
            raise UnitError("the system bus cannot be reached")
        return self.running

    async def release(self, model: object) -> str:
        return self.releases


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "EVERY", 0.02)


def test_a_first_load_that_compiles_outlasts_every_other_limit_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        units, loading, heard = Compiling(), {"a"}, list[Event]()
        async with router(monkeypatch, {"a": {}}, units, loading, switch=LIMITS) as services:
            services.events.subscribe(heard.append)
            services.scheduler.load_in_background("a")
            await until(lambda: bool(services.scheduler.switches))
            switch = services.scheduler.switches["default"]
            await until(lambda: switch.doing == "compiling kernels (first start)")
            steps = services.progress.steps("default")
            assert [step["doing"] for step in steps if step["state"] == "running"] == [switch.doing]
            await anyio.sleep(2.2)  # longer than timeout and max_timeout
            assert switch.error is None
            assert switch.limit == 20
            units.running = frozenset({"python3.12"})
            await until(lambda: switch.doing == "")
            loading.clear()
            await load(services, "a")
        told = [event.doing for event in heard if isinstance(event, LoadActivity)]
        assert told == ["compiling kernels (first start)", ""]

    run(test())


def test_a_release_that_has_loaded_the_model_before_has_its_first_start_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def told(units: Compiling, loading: set[str], services: object) -> str:
        loading.add("a")
        services.scheduler.load_in_background("a")  # type: ignore[attr-defined]
        switches = services.scheduler.switches  # type: ignore[attr-defined]
        await until(lambda: bool(switches) and bool(switches["default"].doing))
        doing: str = switches["default"].doing
        loading.clear()
        await until(lambda: not switches)
        await services.scheduler.unload("default")  # type: ignore[attr-defined]
        return doing

    async def test() -> None:
        units, loading = Compiling(), set[str]()
        async with router(monkeypatch, {"a": {}}, units, loading) as services:
            assert await told(units, loading, services) == "compiling kernels (first start)"
            assert await told(units, loading, services) == "compiling kernels"
            units.releases = "/opt/sglang/2"
            assert await told(units, loading, services) == "compiling kernels (first start)"
            assert await told(units, loading, services) == "compiling kernels"

    run(test())


def test_a_first_load_that_failed_does_not_count_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        units, loading = Compiling(), {"a"}
        units.running = frozenset()
        async with router(monkeypatch, {"a": {}}, units, loading, switch=LIMITS) as services:
            message = (await refusal(services, "a")).refusal.message
            assert "not done within 1 s" in message
            units.running = frozenset({"nvcc"})
            services.scheduler.load_in_background("a")
            switches = services.scheduler.switches
            await until(lambda: bool(switches) and bool(switches["default"].doing))
            assert switches["default"].doing == "compiling kernels (first start)"
            loading.clear()
            await load(services, "a")

    run(test())


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (2.5, "not done within 2.5 s (switch.first_timeout)"),
        (1.0, "not done within 2 s (switch.max_timeout)"),
    ],
)
def test_compiling_has_a_limit_too(
    first: float, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        units, limits = Compiling(), {**LIMITS, "first_timeout": first}
        async with router(monkeypatch, {"a": {}}, units, {"a"}, switch=limits) as services:
            assert message in (await refusal(services, "a")).refusal.message

    run(test())


def test_an_engine_that_hangs_after_it_has_compiled_is_ended_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        units = Compiling()
        async with router(monkeypatch, {"a": {}}, units, {"a"}, switch=LIMITS) as services:
            services.scheduler.load_in_background("a")
            await until(lambda: units.looks > 5)
            units.running = frozenset({"python3.12"})
            message = (await refusal(services, "a")).refusal.message
            assert "it compiled kernels, and no compiler has run for the last 1 s" in message

    run(test())


def test_processes_that_cannot_be_listed_are_no_reason_to_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        units, loading = Compiling(), {"a"}
        units.broken = True
        async with router(monkeypatch, {"a": {}}, units, loading) as services:
            services.scheduler.load_in_background("a")
            await until(lambda: units.looks > 2)
            loading.clear()
            await load(services, "a")

    run(test())


def test_the_programs_that_compile() -> None:
    for name in (
        "cc1plus",
        "cicc",
        "ptxas",
        "g++-12",
        "x86_64-linux-gnu-g++-12",
        "ninja",
        "clang-18",
    ):
        assert is_compiling({"python3.12", name}), name
    for name in ("python3.12", "sh", "ldconfig", "sleep", "assistant", "gcc-ar-not", "ninja-x"):
        assert not is_compiling({name}), name


@pytest.mark.parametrize(
    ("shown", "name"),
    [
        ("/usr/lib/gcc/x86_64-linux-gnu/12/cc1plus -quiet -D X=1 a.cpp", "cc1plus"),
        ("ninja -v -f /var/cache/x/build.ninja", "ninja"),
        ('"/opt/an engine/bin/ptxas" -arch "sm 90"', "ptxas"),
        ("[cc1plus]", ""),  # it has ended, and its parent has not noticed
        ("", ""),
    ],
)
def test_a_program_is_found_in_what_systemd_shows(shown: str, name: str) -> None:
    assert program_of(shown) == name


def test_the_line_of_a_load_that_compiles_leaves_the_history_again() -> None:
    line = status.loading(250, 3600, None, 0.6, "compiling kernels (first start)")
    assert line == "⏳ Loading model... 250s / 3600s (60%), compiling kernels (first start)"
    for doing in ("compiling kernels", "compiling kernels (first start)"):
        told = f"{status.loading(9, 10, doing=doing)}\n\nThe answer"
        messages, changed = strip_status([{"role": "assistant", "content": told}])
        assert changed
        assert messages[0]["content"] == "The answer"


@contextmanager
def named(directory: Path, name: str, *, session: bool) -> Iterator[subprocess.Popen[bytes]]:
    """A real process of that name, below a Python that stands for the engine."""
    program = directory / name
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    code = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([{str(program)!r}, '60'], start_new_session={session})\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    engine = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
    )
    assert engine.stdout is not None
    compiler = int(engine.stdout.readline())
    try:
        yield engine
    finally:
        for pid in (compiler, engine.pid):
            os.kill(pid, 9)
        engine.wait()
        engine.stdout.close()


@pytest.mark.parametrize("session", [False, True])
def test_a_compiler_of_a_child_is_seen_in_another_session_too(
    session: bool, tmp_path: Path
) -> None:
    with named(tmp_path, "cc1plus", session=session) as engine:
        found = programs_of(engine.pid)
    assert "cc1plus" in found
    assert "init" not in found
    assert programs_of(engine.pid) == frozenset()


def test_a_release_is_where_current_points_to(tmp_path: Path) -> None:
    (tmp_path / "abc123").mkdir()
    link = tmp_path / "current"
    link.symlink_to("abc123")
    home = str(tmp_path / "abc123")
    for command in (
        f"{link}/bin/vllm serve --host 127.0.0.1",
        f'/bin/sh -c release="$(readlink -f {link})"; exec "$release/bin/python"',
    ):
        assert release_in(command) == home
    assert release_in("/home/me/start.sh") == ""
    assert release_in(f"{tmp_path}/currently/bin/x") == ""
    assert release_in("/nowhere/current/bin/x") == ""
