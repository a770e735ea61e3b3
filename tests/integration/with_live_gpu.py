"""The router, or its command, on a host with one GPU: started instead of ``llm_router``.

What is stood in for is the module ``pynvml``, as far as it is used. Each engine that runs holds
memory, for as long as its process is there: LIVE_GPU names the router's directory of children.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

from llm_router.api import gpus, services
from llm_router.cli import main, qualify

GIB = 2**30
TOTAL, HELD = 24 * GIB, 8 * GIB


class NVMLError(Exception):
    """NVML's own."""


class NVMLError_NotSupported(NVMLError):  # noqa: N801 - NVML's own name
    """A figure that this GPU has not."""


class Nvml:
    """One GPU. Names and shapes are pynvml's."""

    NVMLError = NVMLError
    NVMLError_NotSupported = NVMLError_NotSupported

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.65.06"

    def nvmlSystemGetCudaDriverVersion(self) -> int:  # noqa: N802
        return 13000

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, _: int) -> str:  # noqa: N802
        return "NVIDIA RTX 4090"

    def nvmlDeviceGetCudaComputeCapability(self, _: int) -> tuple[int, int]:  # noqa: N802
        return 8, 9

    def nvmlDeviceGetMemoryInfo(self, _: int) -> SimpleNamespace:  # noqa: N802
        used = HELD * len(_running())
        return SimpleNamespace(total=TOTAL, free=TOTAL - used, used=used)

    def nvmlDeviceGetUtilizationRates(self, _: int) -> SimpleNamespace:  # noqa: N802
        raise NVMLError_NotSupported

    def nvmlDeviceGetComputeRunningProcesses(self, _: int) -> list[SimpleNamespace]:  # noqa: N802
        return [SimpleNamespace(pid=pid, usedGpuMemory=HELD) for pid in _running()]

    def nvmlDeviceGetGraphicsRunningProcesses(self, _: int) -> list[SimpleNamespace]:  # noqa: N802
        raise NVMLError_NotSupported


def _running() -> list[int]:
    """The engines' processes that have not ended."""
    found = []
    for record in Path(os.environ["LIVE_GPU"]).glob("*.json"):
        try:
            pid = int(json.loads(record.read_text(encoding="utf-8")).get("pid", 0))
            state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2]
        except (OSError, ValueError):
            continue
        if state.split()[0] != "Z":
            found.append(pid)
    return found


if __name__ == "__main__":
    for module in (gpus, services, qualify):
        vars(module)["open_nvml"] = Nvml
    sys.exit(main(sys.argv[1:]))
