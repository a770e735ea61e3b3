"""AMD's GPUs, by the calls of NVML that the router makes: it asks a driver, whoever made it.

Figures are files of the amdgpu driver below ``/sys/class/drm/card*/device``, as the kernel's
documentation has them (gpu/amdgpu): ``mem_info_vram_total`` and ``mem_info_vram_used`` in bytes,
``gpu_busy_percent``. Which process holds memory stands in /proc of that process alone, which other
users cannot read, so nobody is named: then memory counts as free when it has not moved for a while.
All calls block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from llm_router.host_gpus import amd_cards


class AmdError(Exception):
    """A figure that cannot be read."""


class AmdNotSupported(AmdError):
    """A figure that there is not."""


@dataclass(frozen=True)
class MemoryInfo:
    """In bytes."""

    total: int
    used: int
    free: int


@dataclass(frozen=True)
class Utilization:
    """In percent."""

    gpu: int


class AmdGpus:
    """In place of the module ``pynvml``; a GPU's handle is its directory."""

    NVMLError = AmdError
    NVMLError_NotSupported = AmdNotSupported

    def __init__(self, cards: Sequence[Path]) -> None:
        self._cards = tuple(cards)

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self._cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Path:  # noqa: N802
        return self._cards[index]

    def nvmlDeviceGetName(self, card: Path) -> str:  # noqa: N802
        try:
            name = (card / "product_name").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            name = ""
        return name or f"AMD GPU {card.resolve().name}"

    def nvmlDeviceGetMemoryInfo(self, card: Path) -> MemoryInfo:  # noqa: N802
        total, used = (_number(card / f"mem_info_vram_{name}") for name in ("total", "used"))
        return MemoryInfo(total, used, max(0, total - used))

    def nvmlDeviceGetUtilizationRates(self, card: Path) -> Utilization:  # noqa: N802
        path = card / "gpu_busy_percent"
        if not path.exists():
            raise AmdNotSupported(f"{path} does not exist")
        return Utilization(_number(path))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def missing(*_: object) -> NoReturn:
            raise AmdNotSupported(f"the driver of AMD has no {name}")

        return missing


def open_amd(root: Path = Path("/")) -> AmdGpus | None:
    """The host's AMD GPUs, or None where there are none. ``root``: of /sys."""
    cards = amd_cards(root)
    return AmdGpus(cards) if cards else None


def _number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise AmdError(f"{path} cannot be read: {error}") from error
