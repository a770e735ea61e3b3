"""AMD's GPUs on the dashboard and in the wait for memory, by files as their driver has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_router import nvml
from llm_router.amd_gpus import AmdError, AmdGpus, AmdNotSupported, open_amd
from llm_router.api import gpus
from llm_router.nvml import Gpu, read_memory
from llm_router.switcher.memory import claims_on, lacking

from .test_engine_environment import amd

GIB = 1 << 30


@pytest.fixture
def host(tmp_path: Path) -> Path:
    amd(
        tmp_path,
        "card1",
        "0000:83:00.0",
        mem_info_vram_total=str(16 * GIB),
        mem_info_vram_used=str(3 * GIB),
    )
    amd(
        tmp_path,
        "card0",
        "0000:03:00.0",
        mem_info_vram_total=str(192 * GIB),
        mem_info_vram_used=str(150 * GIB),
        gpu_busy_percent="87",
        product_name="AMD Instinct MI300X",
    )
    return tmp_path


def driver(root: Path) -> AmdGpus:
    found = open_amd(root)
    assert found is not None
    return found


def test_the_dashboard_shows_memory_use_and_name(host: Path) -> None:
    assert gpus.read(driver(host)) == [
        {
            "index": 0,
            "name": "AMD Instinct MI300X",
            "memory_used": 150 * GIB,
            "memory_total": 192 * GIB,
            "utilization": 87,
        },
        {
            "index": 1,
            "name": "AMD GPU 0000:83:00.0",
            "memory_used": 3 * GIB,
            "memory_total": 16 * GIB,
            "utilization": None,
        },
    ]


def test_a_switch_waits_until_memory_moves_no_more(host: Path) -> None:
    before = read_memory(driver(host))
    assert before[0] == Gpu(0, 192 * GIB, 42 * GIB, {})
    # nobody says who holds it: the process ids of the engine are on no list
    claims = claims_on(before, frozenset({4711}))
    assert [claim.gpu for claim in claims] == [0, 1]
    readings = []
    for when, used in enumerate((90, 20, 1, 1, 1)):
        (host / "sys/devices/0000:03:00.0/mem_info_vram_used").write_text(f"{used * GIB}\n")
        readings.append((when / 2, read_memory(driver(host))))
        waits = bool(lacking(claims, readings))
        assert waits == (when < 3), when


def test_what_cannot_be_read_is_an_error_that_is_told(host: Path) -> None:
    (host / "sys/devices/0000:03:00.0/mem_info_vram_used").write_text("-\n")
    with pytest.raises(AmdError, match="mem_info_vram_used cannot be read"):
        read_memory(driver(host))
    (host / "sys/devices/0000:03:00.0/mem_info_vram_used").unlink()
    with pytest.raises(AmdError, match="mem_info_vram_used cannot be read"):
        read_memory(driver(host))
    with pytest.raises(AmdNotSupported):
        driver(host).nvmlDeviceGetMaxPcieLinkGeneration(None)


def test_it_is_asked_where_there_is_no_driver_of_nvidia(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "open_amd", lambda: open_amd(host))
    assert isinstance(nvml.open_nvml(), AmdGpus)


def test_a_host_without_any_has_no_driver(tmp_path: Path) -> None:
    assert open_amd(tmp_path) is None
