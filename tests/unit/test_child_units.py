"""Engines as child processes: real ones that do nothing."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from llm_router.config.schema import Config, Model
from llm_router.units import child
from llm_router.units.child import ChildUnits

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
    # 10 MB, as fast as the log is cut, and then a last line
    writes = (
        "i=0; while [ $i -lt 100 ]; do i=$((i+1)); "
        "yes xxxxxxxxx | head -c 100000; sleep 0.005; done; echo the end; exec sleep 60"
    )
    folder = tmp_path / "children"

    def on_disk() -> int:
        return sum(path.stat().st_blocks * 512 for path in folder.glob("child_one.log*"))

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
