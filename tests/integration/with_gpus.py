"""The router on a host with two GPUs, as far as NVML says: started instead of ``llm_router``.

No CPU has NVML. What is stood in for is the module ``pynvml``, as far as `gpus.py` uses it.
"""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

from llm_router.api import gpus
from llm_router.cli import main

GIB = 2**30


class NVMLError(Exception):
    """NVML's own."""


class NVMLError_NotSupported(NVMLError):  # noqa: N801 - NVML's own name
    """A figure that this GPU has not."""


class Nvml:
    """Two GPUs, of which the second does not tell how busy it is."""

    NVMLError = NVMLError
    NVMLError_NotSupported = NVMLError_NotSupported

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> bytes | str:  # noqa: N802
        return (b"NVIDIA RTX A6000", "NVIDIA H100 80GB HBM3 MIG 3g.40gb")[handle]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        wave = int(time.monotonic()) % 5
        used, total = ((40 * GIB + wave * GIB // 2, 48 * GIB), (12 * GIB, 40 * GIB))[handle]
        return SimpleNamespace(used=used, total=total)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:  # noqa: N802
        if handle:
            raise NVMLError_NotSupported
        return SimpleNamespace(gpu=70 + 5 * (int(time.monotonic()) % 6))


if __name__ == "__main__":
    vars(gpus)["open_nvml"] = Nvml
    sys.exit(main(sys.argv[1:]))
