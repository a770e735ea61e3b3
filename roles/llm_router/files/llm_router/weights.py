"""A model's weight files, as far as the router may see them."""

from __future__ import annotations

import os
from pathlib import Path

SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt", ".pth")


def weight_files(model_path: str) -> dict[Path, int]:
    """The files and their sizes in bytes: of a folder, or the one file itself. Blocks; raises
    OSError."""
    path = Path(model_path)
    if path.is_file():
        return {path: path.stat().st_size}
    with os.scandir(path) as entries:
        return {
            Path(entry.path): entry.stat().st_size
            for entry in sorted(entries, key=lambda entry: entry.name)
            if entry.name.endswith(SUFFIXES) and entry.is_file()
        }


def weights_size(model_path: str | None) -> int | None:
    """All of them, in bytes; None when that cannot be told. Blocks."""
    if model_path is None:
        return None
    try:
        return sum(weight_files(model_path).values()) or None
    except OSError:
        return None


def host_memory() -> int:
    """The host's memory, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
