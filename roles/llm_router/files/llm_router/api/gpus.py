"""Memory and use of this host's NVIDIA GPUs, by NVML. Where there is no driver, there are none."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio

from llm_router.background import in_background
from llm_router.events import EventStream
from llm_router.nvml import open_nvml

log = logging.getLogger(__name__)

EVERY = 2.0
"""Seconds between two looks."""
Entry = dict[str, Any]


class Gpus:
    """``latest`` is what was last seen: memory in bytes, use in percent, one entry a GPU."""

    def __init__(self) -> None:
        self.latest: list[Entry] = []

    def watching(self, events: EventStream) -> AbstractAsyncContextManager[None]:
        """Look again and again, in a thread: a driver in trouble holds up nobody."""
        return in_background("gpus", self._watch, events)

    async def _watch(self) -> None:
        nvml = await anyio.to_thread.run_sync(open_nvml, abandon_on_cancel=True)
        while nvml is not None:
            try:
                self.latest = await anyio.to_thread.run_sync(read, nvml, abandon_on_cancel=True)
            except nvml.NVMLError as error:
                log.warning("the GPUs cannot be read, and are not shown any more: %s", error)
                self.latest = []
                return
            await asyncio.sleep(EVERY)


def read(nvml: Any) -> list[Entry]:
    """What NVML says now. Raises its NVMLError."""
    entries: list[Entry] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        name = nvml.nvmlDeviceGetName(handle)
        entries.append(
            {
                "index": index,
                "name": name.decode() if isinstance(name, bytes) else name,
                "memory_used": int(memory.used),
                "memory_total": int(memory.total),
                "utilization": _utilization(nvml, handle),
            }
        )
    return entries


def _utilization(nvml: Any, handle: Any) -> int | None:
    """Percent; None where a GPU is parted (MIG) and NVML does not tell."""
    try:
        return int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except nvml.NVMLError_NotSupported:
        return None
