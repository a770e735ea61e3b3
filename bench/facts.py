"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
import resource
from pathlib import Path


def machine() -> str:
    """The machine in one line."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    models = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    cpu = models[0] if models else platform.machine()
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} × {cpu}, Linux {platform.release()}, "
        f"Python {platform.python_version()}, load {load:.1f} before"
    )


def rss(pid: int) -> float:
    """Resident memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def most_rss(pid: int) -> float:
    """The most that was resident of a process, in MB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def raise_file_limit(wanted: int) -> int:
    """Let this process and its children open so many files, where that is allowed; the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted)


def quantile(values: list[float], part: float) -> float:
    """The value that so large a part of ``values`` does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")
