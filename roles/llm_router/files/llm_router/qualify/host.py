"""Reads facts of the machine: its GPUs by NVML, its CUDA toolkit, and whether that compiles.

All functions block; run them in a thread.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_router.discovery.identity import NOBODY
from llm_router.nvml import read_memory
from llm_router.qualify.report import Status, Value
from llm_router.weights import host_memory

TOOLKITS = (Path("/opt/sglang/current/cuda"), Path("/usr/local/cuda"))
"""Where engines look for one: SGLang's release has its own, or uses the host's."""
COMPILER = Path(__file__).with_name("cuda_toolkit.py")
"""The check that a release of SGLang must pass before it is put into use."""
# Root does not run the code of an engine's packages. The check itself is ours, and is read before:
# it need not be readable for everybody.
_AS_NOBODY = """
import os, runpy, sys
user, check = int(sys.argv.pop(1)), runpy.run_path(sys.argv.pop(1))
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
check["main"](sys.argv[1:])
"""
NO_GPU = "no GPU: no driver of a GPU answers on this host"
UNKNOWN_CAPABILITIES = ("8.0", "12.0")
"""Targets without a GPU: an Ampere and a Blackwell, as in the role."""
OS_RELEASE = Path("/etc/os-release")


@dataclass(frozen=True)
class Memory:
    """Of all GPUs of the host together, in bytes."""

    used: int
    total: int


def facts() -> dict[str, Value]:
    """The kind of the machine, without its name."""
    name = ""
    with contextlib.suppress(OSError):
        found = re.search(r'^PRETTY_NAME="?([^"\n]*)', OS_RELEASE.read_text("utf-8"), re.MULTILINE)
        name = found[1] if found else ""
    return {
        "os": name,
        "machine": platform.machine(),
        "cpus": os.cpu_count() or 0,
        "memory_bytes": host_memory(),
    }


def versions() -> dict[str, str | None]:
    """Versions of the router's release, its Python and the kernel."""
    release = Path(sys.prefix).resolve().parent
    known = release.name if (release / ".complete").exists() else None
    return {
        "router_release": known,
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def release_of(backend: str, root: Path = Path("/opt")) -> str | None:
    """The release of an engine that the next start uses, where a role installed it: the version of
    its package, else the release's id."""
    current = root / backend / "current"
    with contextlib.suppress(OSError):
        for found in sorted(current.glob(f"lib/python3*/site-packages/{backend}-*.dist-info")):
            return found.name.removesuffix(".dist-info").partition("-")[2]
        if current.is_symlink():
            return Path(os.readlink(current)).name  # noqa: PTH115 - the name alone, wherever it leads
    return None


def read_gpus(nvml: Any) -> tuple[list[dict[str, Value]], dict[str, str | None]]:
    """Each GPU, and the versions of driver and CUDA. Raises its NVMLError."""
    gpus = [_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    driver = _told(nvml, "nvmlSystemGetDriverVersion")
    cuda = _told(nvml, "nvmlSystemGetCudaDriverVersion")
    return gpus, {
        "driver": _text(driver) if driver is not None else None,
        "driver_cuda": f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda is not None else None,
    }


def _told(nvml: Any, name: str, *arguments: Any) -> Any:
    """None where the GPU or the driver does not tell; not each has every one of these calls."""
    call = getattr(nvml, name, None)
    if call is None:
        return None
    try:
        return call(*arguments)
    except nvml.NVMLError:
        return None


def _gpu(nvml: Any, index: int) -> dict[str, Value]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    capability = _told(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
    persistence = _told(nvml, "nvmlDeviceGetPersistenceMode", handle)
    mig = _told(nvml, "nvmlDeviceGetMigMode", handle)
    limit = _told(nvml, "nvmlDeviceGetEnforcedPowerLimit", handle)
    return {
        "index": index,
        "name": _text(nvml.nvmlDeviceGetName(handle)),
        "memory_total_bytes": int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
        "compute_capability": ".".join(map(str, capability)) if capability else None,
        "persistence": bool(persistence) if persistence is not None else None,
        "mig": bool(mig[0]) if mig is not None else None,
        "power_limit_watts": limit / 1000 if limit is not None else None,
        "pcie_generation": _told(nvml, "nvmlDeviceGetMaxPcieLinkGeneration", handle),
        "pcie_width": _told(nvml, "nvmlDeviceGetMaxPcieLinkWidth", handle),
    }


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def memory(nvml: Any) -> Memory | None:
    """Of all GPUs; None where there is none, or the driver does not say."""
    if nvml is None:
        return None
    try:
        gpus = read_memory(nvml)
    except nvml.NVMLError:
        return None
    return Memory(sum(gpu.total - gpu.free for gpu in gpus), sum(gpu.total for gpu in gpus))


def find_toolkit(places: Sequence[Path] = TOOLKITS) -> tuple[Path, str] | None:
    """The first CUDA toolkit with a working nvcc, and its version; None: there is none."""
    on_path = shutil.which("nvcc")
    others = [Path(on_path).resolve().parent.parent] if on_path else []
    for home in (*places, *others):
        nvcc = home / "bin/nvcc"
        if not nvcc.exists():
            continue
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            nobody: dict[str, Any] = (
                {"user": NOBODY, "group": NOBODY, "extra_groups": []} if _is_root() else {}
            )
            done = subprocess.run(
                [nvcc, "--version"],
                **_bare(),
                **nobody,
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            )
            found = re.search(r"release (\d+[.]\d+)", done.stdout)
            if found:
                return home, found[1]
    return None


def compile_kernel(
    home: Path, version: str, capabilities: Sequence[str], seconds: float
) -> tuple[Status, str]:
    """Compile, link and load a kernel as SGLang does, for these GPUs. No GPU is needed."""
    wanted = sorted(set(capabilities)) or list(UNKNOWN_CAPABILITIES)
    major = version.partition(".")[0]
    about = f"for compute capability {', '.join(wanted)} with {home / 'bin/nvcc'}"
    program = ["-c", _AS_NOBODY, str(NOBODY), str(COMPILER)] if _is_root() else [str(COMPILER)]
    argv = [sys.executable, "-I", *program, "check", str(home), major, *wanted]
    try:
        done = subprocess.run(
            argv, **_bare(), capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return "failed", f"not compiled {about} within {seconds:.0f} s"
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return "failed", said[-1] if said else f"not compiled {about}"
    return "passed", f"a kernel was compiled, linked and loaded {about}"


def _is_root() -> bool:
    return os.geteuid() == 0


def _bare() -> dict[str, Any]:
    """Where a compiler runs, and the variables that it needs of root's."""
    if not _is_root():
        return {}
    kept = {name: os.environ[name] for name in ("PATH", "CXX") if name in os.environ}
    return {"cwd": "/", "env": {**kept, "LC_ALL": "C.UTF-8"}}
