"""Which GPUs this host has, as its drivers show them in /proc and /sys.

NVIDIA's library would say the same, but it needs the GPUs' device files, which the router's root
helper is kept away from, and a Python package that a host which Ansible manages has not got.

* NVIDIA: ``/proc/driver/nvidia/gpus/<PCI address>/information``, whose lines name the GPU's UUID.
  `nvidia-smi` numbers the GPUs in the order of their PCI addresses. A driver that has not used a
  GPU since the boot writes ``?`` in its UUID.
* AMD: ``/sys/class/drm/card*/device`` with the vendor 0x1002 and ``mem_info_vram_total``;
  ``unique_id`` is what ROCm calls ``GPU-…``, where the GPU has one.

Reads files; standard library only, for the target's Python (>= 3.9).
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from .engine_environment import HostGpu

AMD = "0x1002"
_ADDRESS = re.compile(r"[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]")


def read_host_gpus(root: Path = Path("/")) -> list[HostGpu]:
    """All GPUs, NVIDIA's first; none where there is no driver. ``root``: of /proc and /sys."""
    return [*_nvidia(root), *_amd(root)]


def amd_cards(root: Path = Path("/")) -> list[Path]:
    """The directories of AMD's GPUs below /sys, by PCI address."""
    cards: dict[str, Path] = {}
    with contextlib.suppress(OSError):
        for card in sorted((root / "sys/class/drm").glob("card*")):
            device = card / "device"
            if not re.fullmatch(r"card[0-9]+", card.name) or _text(device / "vendor") != AMD:
                continue
            if (device / "mem_info_vram_total").exists():
                cards[_address_of(device)] = device
    return [cards[address] for address in sorted(cards)]


def _nvidia(root: Path) -> list[HostGpu]:
    found = []
    with contextlib.suppress(OSError):
        for place in (root / "proc/driver/nvidia/gpus").iterdir():
            if _ADDRESS.fullmatch(place.name):
                said = re.search(r"(?m)^GPU UUID:\s*(\S+)", _text(place / "information"))
                uuid = said[1] if said is not None and "?" not in said[1] else ""
                found.append((place.name.lower(), uuid))
    found.sort()
    return [HostGpu("nvidia", n, uuid, address) for n, (address, uuid) in enumerate(found)]


def _amd(root: Path) -> list[HostGpu]:
    found = []
    for index, device in enumerate(amd_cards(root)):
        unique = _text(device / "unique_id")
        uuid = f"GPU-{unique.lower()}" if re.fullmatch(r"[0-9a-fA-F]{16}", unique) else ""
        found.append(HostGpu("amd", index, uuid, _address_of(device)))
    return found


def _address_of(device: Path) -> str:
    """The PCI address: the name of the directory that ``device`` is a link to."""
    with contextlib.suppress(OSError):
        return device.resolve(strict=True).name
    return str(device)


def _text(path: Path) -> str:
    """A file's text; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
