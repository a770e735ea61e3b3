"""SystemdUnits without a systemd: its words, and what it says when there is no bus.

What it does with one is tests/systemd's business.
"""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from llm_router.config.schema import Model
from llm_router.units.base import UnitError, UnitState
from llm_router.units.dbus import UnitFacts
from llm_router.units.systemd import SystemdUnits, state_of

MODEL = Model(name="m", backend="vllm", service="m.service")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("active", "pid", "result", "state"),
    [
        ("inactive", 0, "success", UnitState("inactive")),
        ("active", 7, "success", UnitState("active", 7)),
        ("reloading", 7, "success", UnitState("active", 7)),
        ("refreshing", 7, "success", UnitState("active", 7)),
        ("maintenance", 0, "success", UnitState("deactivating")),
        ("failed", 0, "oom-kill", UnitState("failed", 0, "oom-kill")),
        ("activating", 0, "exit-code", UnitState("activating", 0, "exit-code")),
    ],
)
def test_systemds_words_as_ours(active: str, pid: int, result: str, state: UnitState) -> None:
    assert state_of(UnitFacts("m.service", "loaded", active, pid, result, False)) == state


@pytest.mark.anyio
async def test_without_a_bus_it_says_so_and_goes_on_trying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/nothing")
    with anyio.fail_after(5):
        async with SystemdUnits({"m": MODEL}, str(tmp_path / "helper.sock")) as units:
            problem = await units.problem()
            assert problem == "the system bus cannot be reached: No such file or directory"
            with pytest.raises(UnitError, match="the system bus cannot be reached"):
                await units.state(MODEL)
            with pytest.raises(UnitError, match="the helper cannot be reached"):
                await units.start(MODEL)
