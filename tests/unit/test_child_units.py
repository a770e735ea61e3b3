"""Engines as child processes: real ones that do nothing."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import anyio
import pytest

from llm_router.config.schema import Config, Model
from llm_router.units import child
from llm_router.units.base import ManagerUnavailable
from llm_router.units.child import ChildUnits
from llm_router.units.child_records import MARK, ChildRecords, start_time

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def model(name: str, service: str | None = None) -> Model:
    return Model(name=name, backend="command", service=service)


ALIKE = [
    model("a/b"),
    model("a_b"),
    model("a:b"),
    model("x", "child_a_b.service"),
    model("b.service"),
    model("y", "b.service"),
]


async def test_units_with_names_that_are_alike_share_nothing(tmp_path: Path) -> None:
    models = {each.name: each for each in ALIKE}
    config = Config.model_validate({"state_dir": str(tmp_path), "units": "child"})
    command = "echo {}; exec sleep 60"
    units = ChildUnits(config, models, lambda one: ["sh", "-c", command.format(one.name)])
    with anyio.fail_after(20):
        async with units:
            for each in ALIKE:
                await units.start(each)
            pids = {each.name: (await units.state(each)).main_pid for each in ALIKE}
            for each in ALIKE:
                while not (lines := await units.log_tail(each)):
                    await anyio.sleep(0.01)
                assert lines == [each.name]
            stems = {path.stem for path in (tmp_path / "children").glob("*.json")}
            # another router finds each by its own record
            async with ChildUnits(config, models, lambda _: []) as again:
                assert pids == {each.name: (await again.state(each)).main_pid for each in ALIKE}
    assert len(set(pids.values())) == len(stems) == len(ALIKE)
    assert {"child_a_b", "child_a%2Fb"} <= stems
    assert not list((tmp_path / "children").glob("*.json"))


async def test_no_line_of_a_child_has_a_key(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("k3y-of-the-engine")
    one = Model(name="one", backend="command", api_key_file=str(key_file))
    config = Config.model_validate({"state_dir": str(tmp_path), "units": "child"})
    command = "echo got k3y-of-the-engine; echo api_key=another-one; exec sleep 60"
    units = ChildUnits(config, {"one": one}, lambda _: ["sh", "-c", command])
    with anyio.fail_after(20):
        async with units:
            await units.start(one)
            while len(lines := await units.log_tail(one)) < 2:
                await anyio.sleep(0.01)
    assert lines == ["got ***", "api_key=***"]


async def test_a_childs_log_is_bounded_and_its_end_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "LONGEST_LOG", 200_000)
    monkeypatch.setattr(child, "KEPT_OF_LOG", 100_000)
    monkeypatch.setattr(child, "LOG_INTERVAL", 0.01)
    one = model("one")
    config = Config.model_validate({"state_dir": str(tmp_path), "units": "child"})
    # 10 MB, as fast as the log is cut, and then a last line: again and again, because what comes in
    # the moment of a cut is lost
    writes = (
        "i=0; while [ $i -lt 100 ]; do i=$((i+1)); "
        "yes xxxxxxxxx | head -c 100000; sleep 0.005; done; while sleep 0.05; do echo the end; done"
    )
    folder = tmp_path / "children"

    def on_disk() -> int:
        found = 0
        for path in folder.glob("child_one.log*"):
            with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
                found += path.stat().st_blocks * 512
        return found

    most = 0
    with anyio.fail_after(60):
        async with ChildUnits(config, {"one": one}, lambda _: ["sh", "-c", writes]) as units:
            await units.start(one)
            while (await units.log_tail(one, 1)) != ["the end"]:
                most = max(most, on_disk())
                await anyio.sleep(0.01)
            assert len(await units.log_tail(one, 20)) == 20
            await units.stop(one, 5)
            await units.start(one)
            assert not (folder / "child_one.log.1").exists()
    assert most < 3_000_000


def units_of(root: Path, *models: Model, command: str = "exec sleep 60") -> ChildUnits:
    config = Config.model_validate({"state_dir": str(root), "units": "child"})
    return ChildUnits(config, {one.name: one for one in models}, lambda _: ["sh", "-c", command])


def runs(pid: int) -> bool:
    return start_time(pid) is not None


async def test_a_child_that_no_model_names_any_more_is_stopped(tmp_path: Path) -> None:
    kept, removed = model("kept"), model("removed")
    with anyio.fail_after(20):
        async with units_of(tmp_path, kept, removed) as first:
            await first.start(kept)
            await first.start(removed)
            pid = (await first.state(removed)).main_pid
            async with units_of(tmp_path, kept) as second:
                assert not runs(pid)
                assert (await second.state(removed)).main_pid == 0
                assert (await second.state(kept)).main_pid == (await first.state(kept)).main_pid
                assert [path.stem for path in (tmp_path / "children").glob("*.json")] == [
                    "child_kept"
                ]


async def test_a_child_is_found_whose_router_ended_before_it_knew_the_pid(tmp_path: Path) -> None:
    one, records = model("a/b"), ChildRecords(tmp_path / "children")
    (tmp_path / "children").mkdir()
    token = records.about_to_start(one.unit)
    environment = {**os.environ, MARK: token}
    # its child has the token too
    left = subprocess.Popen(
        ["sh", "-c", "sleep 60 & echo; wait"],
        env=environment,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with left, anyio.fail_after(20):
        assert left.stdout is not None
        left.stdout.readline()
        async with units_of(tmp_path, one) as units:
            assert (await units.state(one)).main_pid == left.pid
        assert not list((tmp_path / "children").glob("*.json"))


async def test_a_record_without_a_process_is_removed(tmp_path: Path) -> None:
    one, records = model("a"), ChildRecords(tmp_path / "children")
    (tmp_path / "children").mkdir()
    records.about_to_start(one.unit)
    records.path("child:b", "json").write_text('{"pid": ')
    records.path("child:c", "json").write_text(f'{{"pid": {os.getpid()}, "started": "1"}}')
    async with units_of(tmp_path, one) as units:
        assert (await units.state(one)).main_pid == 0
    assert not list((tmp_path / "children").glob("*.json"))


async def test_nothing_is_started_on_a_full_disk(tmp_path: Path) -> None:
    one = model("a")
    async with units_of(tmp_path, one, command=f"touch {tmp_path}/started") as units:
        # whatever is written there fails with ENOSPC
        (tmp_path / "children/child_a.json.new").symlink_to("/dev/full")
        with pytest.raises(
            ManagerUnavailable, match=r"not started.*children.*No space left on device"
        ):
            await units.start(one)
        assert (await units.state(one)).main_pid == 0
    assert not (tmp_path / "started").exists()


async def test_a_record_is_never_half(tmp_path: Path) -> None:
    """It is written beside the old one, which stays until the new one is whole."""
    (tmp_path / "children").mkdir()
    records = ChildRecords(tmp_path / "children")
    records.about_to_start("child:a")
    before = records.path("child:a", "json").read_text()
    (tmp_path / "children/child_a.json.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        records.about_to_start("child:a")
    assert records.path("child:a", "json").read_text() == before
