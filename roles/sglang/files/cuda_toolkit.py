"""The CUDA toolkit of a release: its layout, and the proof that it compiles.

SGLang compiles kernels while a model is loaded: with ``$CUDA_HOME/bin/nvcc``, linked by
``-L$CUDA_HOME/lib64 -lcudart`` and ``-L$CUDA_HOME/lib64/stubs -lcuda``
(``sglang/kernels/jit/utils/compile/toolchain.py``; FlashInfer, ``flashinfer/jit/cpp_ext.py``).
PyPI's wheels have the toolkit below ``site-packages/nvidia/cu13``, without the names that a linker
looks for and without the driver's stub.

    python cuda_toolkit.py link                    makes PREFIX/cuda from the wheels
    python cuda_toolkit.py check HOME 13 8.0 12.0  compiles for these compute capabilities with the
                                                   toolkit HOME, of CUDA 13
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

# CUDA's C++ library compares its version with nvcc's. Nothing here needs a GPU.
KERNEL = """
#include <cuda_runtime.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda/std/type_traits>
#include <vector>

template <typename T> __global__ void twice(T *values, int count) {
    static_assert(cuda::std::is_trivially_copyable_v<T>);
    int place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place < count) values[place] = values[place] + values[place];
}

extern "C" int roundhouse_runtime() {
    int version = 0;
    return cudaRuntimeGetVersion(&version) == cudaSuccess ? version : -1;
}

extern "C" int roundhouse_twice(void *values, int count) {
    twice<<<1, 128>>>(static_cast<__half *>(values), count);
    return cudaGetLastError();
}
"""
DRIVER = """
extern "C" int cuInit(unsigned int);
extern "C" int roundhouse_init() { return cuInit(0); }
"""
NEEDED = (
    "bin/nvcc",
    "nvvm/bin/cicc",
    "include/cuda_runtime.h",
    "include/cuda_runtime_api.h",
    "include/crt/host_config.h",
    "lib64/libcudart.so",
    "lib64/stubs/libcuda.so",
)
SECONDS = 600
"""For one call of nvcc, which takes some 10 s of one core."""


def link(prefix: Path, packages: Path) -> None:
    """Make PREFIX/cuda of the wheels below `packages`."""
    nvcc = next(iter(sorted(packages.glob("nvidia/cu*/bin/nvcc"))), None)
    if nvcc is None:
        raise SystemExit(
            f"{packages} has no nvidia/cu13/bin/nvcc: install the package nvidia-cuda-nvcc"
        )
    root = nvcc.parent.parent
    # nvcc follows links, and looks for lib64 beside the place where it really is
    _point(root / "lib64", "lib")
    for library in sorted((root / "lib").glob("*.so.*")):
        _point(library.with_name(library.name.partition(".so.")[0] + ".so"), library.name)
    _make_stub(root)
    home = prefix / "cuda"
    home.mkdir(exist_ok=True)
    for name, target in {
        "bin": "bin",
        "include": "include",
        "nvvm": "nvvm",
        "lib64": "lib",
    }.items():
        _point(home / name, os.path.relpath(root / target, home))


def _point(path: Path, target: str) -> None:
    if path.is_symlink():
        path.unlink()
    if not path.exists():
        path.symlink_to(target)


def _make_stub(root: Path) -> None:
    """A libcuda.so to link with, as NVIDIA's toolkit has: the names alone, under the driver's name.

    The driver's own library would do on some hosts only: Debian has it as libcuda.so.1 alone, and
    a release may have no links that lead out of it.
    """
    header = root / "include/cuda.h"
    if not header.exists():
        raise SystemExit(f"{header} is missing: install the package nvidia-cuda-runtime")
    names = sorted(set(re.findall(r"\bcu[A-Z]\w*", header.read_text(encoding="utf-8"))))
    stub = root / "lib/stubs/libcuda.so"
    stub.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "libcuda.c"
        source.write_text("".join(f"void {name}(void) {{}}\n" for name in names), encoding="utf-8")
        _run(
            [
                *(_compiler(), "-x", "c", "-w", "-fno-builtin", "-shared", "-fPIC", str(source)),
                *("-Wl,-soname,libcuda.so.1", "-o", str(stub)),
            ]
        )


def check(home: Path, major: str, capabilities: list[str]) -> None:
    """Compile, link and load as SGLang and FlashInfer do, or say what is missing."""
    for name in NEEDED:
        if not (home / name).exists():
            raise SystemExit(f"the CUDA toolkit {home} has no {name}, which SGLang compiles with")
    nvcc = home / "bin/nvcc"
    release = re.search(r"release (\d+[.]\d+)", _run([str(nvcc), "--version"]))
    version = release[1] if release else "unknown"
    if version.partition(".")[0] != major:
        raise SystemExit(f"{nvcc} is of CUDA {version}, but this release needs CUDA {major}")
    headers = _version_of_headers(home)
    if version != headers:
        raise SystemExit(
            f"{nvcc} is of CUDA {version}, but the headers beside it are of {headers}: install "
            "nvidia-cuda-nvcc, nvidia-cuda-crt, nvidia-cuda-cccl and nvidia-nvvm of version "
            f"{headers}.*"
        )
    compiler = _compiler()
    targets = [_arch(each, version) for each in capabilities]
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        (here / "kernel.cu").write_text(KERNEL, encoding="utf-8")
        (here / "driver.cpp").write_text(DRIVER, encoding="utf-8")
        _run(
            [str(nvcc), "-std=c++20", "-O2", "-Xcompiler", "-fPIC"]
            + [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in targets]
            + ["-c", str(here / "kernel.cu"), "-o", str(here / "kernel.o")]
        )
        libraries = [f"-L{home}/lib64", f"-L{home}/lib64/stubs", "-lcudart"]
        _run(
            [compiler, "-shared", str(here / "kernel.o"), *libraries, "-o", str(here / "kernel.so")]
        )
        _run(
            [
                *(str(nvcc), "-shared", "-Xcompiler", "-fPIC", str(here / "driver.cpp")),
                *(*libraries, "-lcuda", "-Xlinker", "--no-undefined"),
                *("-o", str(here / "driver.so")),
            ]
        )
        # an engine has PyTorch's runtime loaded, of the same name
        runtime = home / f"lib64/libcudart.so.{major}"
        if runtime.exists():
            ctypes.CDLL(str(runtime), ctypes.RTLD_GLOBAL)
        found = ctypes.CDLL(str(here / "kernel.so")).roundhouse_runtime()
    if found // 1000 != int(major):
        raise SystemExit(f"{home} links with the CUDA runtime {found}, but CUDA {major} is needed")


def _version_of_headers(home: Path) -> str:
    text = (home / "include/cuda_runtime_api.h").read_text(encoding="utf-8")
    found = re.search(r"#define\s+CUDART_VERSION\s+(\d+)", text)
    number = int(found[1]) if found else 0
    return f"{number // 1000}.{number % 1000 // 10}"


def _arch(capability: str, version: str) -> str:
    """The target that SGLang compiles for on such a GPU (``kernels/jit/utils/arch.py``)."""
    major, minor = map(int, capability.split("."))
    families = tuple(map(int, version.split("."))) >= (12, 9)
    suffix = "" if major < 9 else "f" if (major, minor) == (12, 0) and families else "a"
    return f"{major}{minor}{suffix}"


def _compiler() -> str:
    found = shutil.which(os.environ.get("CXX", "c++"))
    if found is None:
        raise SystemExit("there is no C++ compiler, which nvcc needs: install the package g++")
    return found


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"{command[0]} was not done after {SECONDS} s") from None
    except OSError as error:
        raise SystemExit(f"{command[0]} could not be run: {error.strerror}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        # the first error is the cause; the last lines count the errors
        first = next((each for each in said if "error" in each or "fatal" in each), "")
        raise SystemExit(
            f"{command[0]} could not compile a kernel: "
            + " | ".join([first, *(each for each in said[-2:] if each != first)])
        )
    return done.stdout


def main(words: list[str]) -> None:
    """The command line."""
    if words == ["link"]:
        link(Path(sys.prefix), Path(sysconfig.get_paths()["purelib"]))
    elif words[:1] == ["check"] and len(words) > 3:
        check(Path(words[1]), words[2], words[3:])
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
