"""Build llama-server from source, and tell how far a build is.

    llama_build.py build JSON                     configure, compile, install; a plan, see `Plan`
    llama_build.py wait UNIT LOG SEEN SECONDS     until UNIT is 10 % further than SEEN, or ends
    llama_build.py prune RELEASE                  remove what only compiles

`build` runs in a transient unit as an account without privileges, and writes to its standard output
alone, which is LOG. `wait` runs as root and prints one line of JSON. Standard library only, for
Python 3.8 and newer.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    # what would be fetched from the network: models, certificates for them, the server's page
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    # a version of llama.cpp need not have all of these
    "--no-warn-unused-cli",
)
BACKENDS: dict[str, tuple[str, ...]] = {
    "cpu": (),
    # without NO_VMM the program needs the driver's library to start
    "cuda": ("-DGGML_CUDA=ON", "-DGGML_CUDA_NO_VMM=ON", "-DGGML_CUDA_NCCL=OFF"),
    "vulkan": ("-DGGML_VULKAN=ON",),
    "hip": ("-DGGML_HIP=ON",),
}
MEMORY_OF_A_JOB = {"cuda": 3 << 30}
"""Bytes that one compiler may need; for the others a gigabyte."""
STEP = 10
POLL = 1.0
_PROGRESS = re.compile(r"^\[(\d+)/(\d+)\] ", re.MULTILINE)
_ERROR = re.compile(
    r"\b(error|fatal|FAILED|Killed|No space left|not find|not found)\b", re.IGNORECASE
)


class Plan(NamedTuple):
    """What is built. `architectures` are GPUs as CMake names them, `toolkit` CUDA's directory,
    `libraries` where the program finds CUDA's libraries, `jobs` 0 for as many as fit."""

    source: str
    work: str
    release: str
    backend: str
    architectures: Sequence[str] = ()
    toolkit: str = ""
    libraries: str = ""
    arguments: Sequence[str] = ()
    jobs: int = 0


def configuration(plan: Plan) -> list[str]:
    """CMake's arguments. Later ones win: the operator's are last."""
    arguments = [*FLAGS, *BACKENDS[plan.backend]]
    if plan.backend == "cuda":
        targets = [each if "-" in each else f"{each}-real" for each in plan.architectures]
        arguments += [
            f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(targets)}",
            f"-DCUDAToolkit_ROOT={plan.toolkit}",
            f"-DCMAKE_CUDA_COMPILER={plan.toolkit}/bin/nvcc",
            "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
            f"-DCMAKE_INSTALL_RPATH={plan.libraries}",
        ]
    if plan.backend == "hip":
        arguments.append(f"-DGPU_TARGETS={';'.join(plan.architectures)}")
    return [*arguments, *plan.arguments]


def jobs(plan: Plan, cores: int, memory: int) -> int:
    """As many compilers as there are cores, and memory for."""
    return plan.jobs or max(1, min(cores, memory // MEMORY_OF_A_JOB.get(plan.backend, 1 << 30)))


def build(plan: Plan) -> None:
    """The whole build. The release has ``server``, a link into ``llama.cpp/``, afterwards. What an
    interrupted build of the same release compiled is not compiled again."""
    work = Path(plan.work)
    begun = work / "plan.json"
    if not begun.exists() or begun.read_text(encoding="utf-8") != json.dumps(plan):
        shutil.rmtree(str(work), ignore_errors=True)
        work.mkdir(parents=True)
        unpack(Path(plan.source), work / "source")
        begun.write_text(json.dumps(plan), encoding="utf-8")
    source = find_source(work / "source")
    made = work / "build"
    _run(["cmake", "-G", "Ninja", "-S", str(source), "-B", str(made), *configuration(plan)])
    count = jobs(plan, os.cpu_count() or 1, available_memory())
    _run(["cmake", "--build", str(made), "--target", "llama-server", "--parallel", str(count)])
    install(source, made, Path(plan.release))
    shutil.rmtree(str(work), ignore_errors=True)


def unpack(archive: Path, directory: Path) -> None:
    """The sources as a directory; a checkout is one already."""
    if archive.is_dir():
        archive.rename(directory)
        return
    with tarfile.open(str(archive)) as packed:
        if hasattr(tarfile, "data_filter"):
            packed.extractall(str(directory), filter="data")
        else:  # an older Python; this account can write to its own directories alone
            packed.extractall(str(directory))  # noqa: S202


def find_source(directory: Path) -> Path:
    """llama.cpp's tree, wherever an archive has it."""
    found = [
        Path(folder)
        for folder, folders, files in os.walk(str(directory))
        if "CMakeLists.txt" in files and {"ggml", "src", "tools"} <= set(folders)
    ]
    if not found:
        raise SystemExit(f"error: {directory} has no sources of llama.cpp (CMakeLists.txt, ggml)")
    return min(found, key=lambda path: len(path.parts))


def install(source: Path, made: Path, release: Path) -> None:
    """The program, libraries that were made beside it, and the licence."""
    program = made / "bin/llama-server"
    if not program.is_file():
        raise SystemExit("error: the build made no bin/llama-server")
    target = release / "llama.cpp"
    shutil.rmtree(str(target), ignore_errors=True)
    target.mkdir()
    for file in [program, *sorted(made.glob("bin/*.so*")), *source.glob("LICENSE")]:
        shutil.copy2(str(file), str(target / file.name), follow_symlinks=False)
    server = release / "server"
    if server.is_symlink():
        server.unlink()
    server.symlink_to("llama.cpp/llama-server")


def available_memory() -> int:
    """Bytes that the kernel can give to new processes."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 30


def _run(command: list[str]) -> None:
    sys.stdout.write("+ " + " ".join(command) + "\n")
    sys.stdout.flush()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(f"error: {command[0]} ended with status {done.returncode}")


def progress(text: str) -> tuple[int, int] | None:
    """Done and all, of ninja's last count; None before the first."""
    found = _PROGRESS.findall(text)
    return (int(found[-1][0]), int(found[-1][1])) if found else None


def reason(text: str) -> str:
    """What a log says of a failure: its first error, and its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # the commands themselves name options and files with such words
    errors = [line for line in lines[:-1] if _ERROR.search(line) and line[0] not in "+["]
    # ninja names the file of a failed step before the compiler's own words
    errors = [line for line in errors if not line.startswith("FAILED:")] or errors
    return " | ".join(dict.fromkeys(errors[:1] + lines[-1:])) or "the build said nothing"


def state(properties: dict[str, str]) -> str:
    """`running`, `done` or `failed`, of a unit that remains after its end."""
    active = properties.get("ActiveState", "inactive")
    if active in ("activating", "reloading", "deactivating"):
        return "running"
    if active == "active":
        return "running" if properties.get("SubState") == "running" else "done"
    return "failed"


def wait(unit: str, log: Path, seen: int, seconds: float) -> dict[str, object]:
    """Return once there is something to tell."""
    end = time.monotonic() + seconds
    while True:
        properties = _show(unit)
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        now, count = state(properties), progress(text)
        percent = 100 * count[0] // count[1] if count else 0
        if now != "running" or percent >= seen + STEP or time.monotonic() > end:
            break
        time.sleep(POLL)
    told = f"{count[0]} of {count[1]} steps, {percent} %" if count else "configuring"
    if now == "failed":
        result = properties.get("Result", "")
        told = ("" if result in ("exit-code", "success") else f"{result} | ") + reason(text)
    return {"state": now, "percent": percent, "text": told}


def _show(unit: str) -> dict[str, str]:
    shown = subprocess.run(
        ["systemctl", "show", unit, "--property=ActiveState,SubState,Result"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    ).stdout
    return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


def prune(release: Path) -> None:
    """Compilers and headers are most of a release, and nothing that serves loads them."""
    packages = "lib/python3*/site-packages"
    for pattern in (
        f"{packages}/cmake",
        f"{packages}/ninja",
        f"{packages}/nvidia/cu*/bin",
        f"{packages}/nvidia/cu*/include",
        f"{packages}/nvidia/cu*/nvvm",
        f"{packages}/nvidia/cu*/lib/*.a",
        f"{packages}/nvidia/cu*/lib/stubs",
        "cuda/bin",
        "cuda/include",
        "cuda/nvvm",
        "bin/cmake",
        "bin/cpack",
        "bin/ctest",
        "bin/ninja",
    ):
        for path in release.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(str(path))
            else:
                path.unlink()


def main(words: list[str]) -> None:
    """The command line."""
    if words[:1] == ["build"] and len(words) == 2:
        build(Plan(**json.loads(words[1])))
    elif words[:1] == ["wait"] and len(words) == 5:
        told = wait(words[1], Path(words[2]), int(words[3]), float(words[4]))
        sys.stdout.write(json.dumps(told) + "\n")
    elif words[:1] == ["prune"] and len(words) == 2:
        prune(Path(words[1]))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
