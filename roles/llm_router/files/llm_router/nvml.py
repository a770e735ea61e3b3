"""What NVIDIA's management library says of this host's GPUs. All calls block.

Where there is no driver, or its devices are not shown to this process, there is no NVML. On a host
with GPUs of AMD instead, `amd_gpus` answers the same calls.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_router.amd_gpus import open_amd

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """One GPU at one moment. ``holders``: by process id what it holds; None: nobody says."""

    index: int
    total: int
    free: int
    holders: Mapping[int, int | None]


def open_nvml() -> Any:
    """NVML, or what answers in its place, or None where there is no driver to ask."""
    try:
        import pynvml
    except ImportError:
        return open_amd()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        amd = open_amd()
        if amd is None:
            log.info("no GPU is shown: %s", error)
        return amd
    return pynvml


def read_memory(nvml: Any) -> tuple[Gpu, ...]:
    """Every GPU's memory, and who holds how much of it. Raises its NVMLError."""
    return tuple(_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    holders: dict[int, int | None] = {}
    for ask in (
        nvml.nvmlDeviceGetComputeRunningProcesses,
        nvml.nvmlDeviceGetGraphicsRunningProcesses,
    ):
        try:
            found = ask(handle)
        except nvml.NVMLError_NotSupported:
            continue
        for process in found:
            used = process.usedGpuMemory  # None where the driver does not tell: MIG, vGPU
            holders[int(process.pid)] = int(used) if used is not None else None
    return Gpu(index, int(memory.total), int(memory.free), holders)
