"""What is read of GPUs, and what becomes of a host without any."""

from __future__ import annotations

import pytest

from llm_router import nvml
from llm_router.api import gpus
from tests.integration.with_gpus import Nvml, NVMLError


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_memory_is_in_bytes_and_a_figure_that_is_missing_is_none() -> None:
    first, second = gpus.read(Nvml())
    assert (first["index"], first["name"]) == (0, "NVIDIA RTX A6000")
    assert first["memory_used"] < first["memory_total"] == 48 * 2**30
    assert 0 <= first["utilization"] <= 100
    assert (second["name"], second["utilization"]) == ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", None)


def test_without_a_driver_there_is_none() -> None:
    assert nvml.open_nvml() is None


@pytest.mark.anyio
async def test_a_driver_that_fails_is_asked_no_more(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Nvml):
        def nvmlDeviceGetCount(self) -> int:  # noqa: N802
            raise NVMLError("GPU is lost")

    watched = gpus.Gpus()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpus, "open_nvml", Broken)
        await watched._watch()
    assert watched.latest == []
    assert "GPU is lost" in caplog.text
