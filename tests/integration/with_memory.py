"""The router on a host with one GPU, as far as NVML says: started instead of ``llm_router``.

What is stood in for is the module ``pynvml``, as far as `llm_router.nvml` uses it. What it says
stands in the file that GPUS names: ``{"total": bytes, "free": bytes, "holders": {pid: bytes}}``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

from llm_router.api import services
from llm_router.cli import main


class NVMLError(Exception):
    """NVML's own."""


class NVMLError_NotSupported(NVMLError):  # noqa: N801 - NVML's own name
    """A figure that this GPU has not."""


class Nvml:
    """One GPU. Names and shapes are pynvml's."""

    NVMLError = NVMLError
    NVMLError_NotSupported = NVMLError_NotSupported

    def __init__(self, path: Path) -> None:
        self._path = path

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, _: int) -> SimpleNamespace:  # noqa: N802
        said = json.loads(self._path.read_text(encoding="utf-8"))
        return SimpleNamespace(
            total=said["total"], free=said["free"], used=said["total"] - said["free"]
        )

    def nvmlDeviceGetComputeRunningProcesses(self, _: int) -> list[SimpleNamespace]:  # noqa: N802
        said = json.loads(self._path.read_text(encoding="utf-8"))
        return [
            SimpleNamespace(pid=int(pid), usedGpuMemory=memory)
            for pid, memory in said["holders"].items()
        ]

    def nvmlDeviceGetGraphicsRunningProcesses(self, _: int) -> list[SimpleNamespace]:  # noqa: N802
        raise NVMLError_NotSupported


def write_gpus(path: Path, total: int, free: int, holders: Mapping[int, int | None]) -> None:
    """Say this from now on; in one step, for whoever reads at this moment."""
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps({"total": total, "free": free, "holders": dict(holders)}))
    aside.replace(path)


if __name__ == "__main__":
    vars(services)["open_nvml"] = lambda: Nvml(Path(os.environ["GPUS"]))
    sys.exit(main(sys.argv[1:]))
