"""The CUDA toolkit of a release of SGLang: its layout, and what is said of one that will not do."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from .programs import load

PROGRAM = Path(__file__).resolve().parents[2] / "roles/sglang/files/cuda_toolkit.py"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    return load(PROGRAM)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """The files of PyPI's wheels, as far as they matter and an nvcc that tells its version."""
    root = tmp_path / "release/lib/python3.12/site-packages/nvidia/cu13"
    for name in ("bin", "include/crt", "lib", "nvvm/bin"):
        (root / name).mkdir(parents=True)
    nvcc = root / "bin/nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    nvcc.chmod(0o755)
    (root / "include/cuda.h").write_text(
        "CUresult CUDAAPI cuInit(unsigned int Flags);\n"
        "#define cuMemAlloc cuMemAlloc_v2\n"
        "CUresult CUDAAPI cuMemAlloc(CUdeviceptr *dptr, size_t bytesize);\n"
    )
    (root / "include/cuda_runtime_api.h").write_text("#define CUDART_VERSION  13000\n")
    for name in ("include/cuda_runtime.h", "include/crt/host_config.h", "nvvm/bin/cicc"):
        (root / name).touch()
    (root / "lib/libcudart.so.13").touch()
    return tmp_path / "release/lib/python3.12/site-packages"


def test_what_a_linker_looks_for_is_in_the_release(program: ModuleType, packages: Path) -> None:
    release = packages.parents[2]
    for _ in range(2):  # again: no failure
        program.link(release, packages)
        assert sorted(path.name for path in (release / "cuda").iterdir()) == [
            *("bin", "include", "lib64", "nvvm")
        ]
        assert (release / "cuda/lib64/libcudart.so").resolve().name == "libcudart.so.13"
        # beside the place where nvcc really is, too
        assert (packages / "nvidia/cu13/lib64/libcudart.so").exists()
    for path in release.rglob("*"):
        # a release with a link that leads out of it is rejected
        assert path.resolve().is_relative_to(release), path


def test_the_stub_has_the_drivers_names(
    program: ModuleType, packages: Path, tmp_path: Path
) -> None:
    release = packages.parents[2]
    program.link(release, packages)
    source = tmp_path / "user.c"
    source.write_text(
        "int cuInit(unsigned); int cuMemAlloc_v2(void); int f(void)"
        "{ return cuInit(0) + cuMemAlloc_v2(); }\n"
    )
    linked = ["cc", "-shared", "-fPIC", str(source), f"-L{release}/cuda/lib64/stubs", "-lcuda"]
    library = tmp_path / "user.so"
    subprocess.run([*linked, "-Wl,--as-needed,--no-undefined", "-o", str(library)], check=True)
    # what is loaded is the driver's own library
    assert b"\0libcuda.so.1\0" in library.read_bytes()


def test_wheels_without_a_compiler_are_reported(program: ModuleType, packages: Path) -> None:
    (packages / "nvidia/cu13/bin/nvcc").unlink()
    with pytest.raises(SystemExit, match="install the package nvidia-cuda-nvcc"):
        program.link(packages.parents[2], packages)


@pytest.mark.parametrize(
    "name", ["nvvm/bin/cicc", "lib/libcudart.so.13", "include/crt/host_config.h"]
)
def test_a_toolkit_that_lacks_a_file_is_reported(
    program: ModuleType, packages: Path, name: str
) -> None:
    home = packages.parents[2] / "cuda"
    program.link(packages.parents[2], packages)
    (packages / "nvidia/cu13" / name).unlink()
    with pytest.raises(SystemExit, match=r"the CUDA toolkit .* has no .*, which SGLang compiles"):
        program.check(home, "13", ["8.0"])


def test_a_compiler_of_another_cuda_is_reported(program: ModuleType, packages: Path) -> None:
    home = packages.parents[2] / "cuda"
    program.link(packages.parents[2], packages)
    with pytest.raises(SystemExit, match=r"is of CUDA 13\.0, but this release needs CUDA 12"):
        program.check(home, "12", ["8.0"])
    header = packages / "nvidia/cu13/include/cuda_runtime_api.h"
    header.write_text("#define CUDART_VERSION  13050\n")
    with pytest.raises(
        SystemExit, match=r"headers beside it are of 13\.5: install nvidia-cuda-nvcc, .*13\.5\.\*"
    ):
        program.check(home, "13", ["8.0"])


def test_a_kernel_that_does_not_compile_is_reported_with_the_first_error(
    program: ModuleType, packages: Path
) -> None:
    program.link(packages.parents[2], packages)
    nvcc = packages / "nvidia/cu13/bin/nvcc"
    nvcc.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo "release 13.0, V13.0.88"; exit; fi\n'
        "echo 'note' >&2; echo 'x.h(1): error: exception specification' >&2\n"
        "echo '1 error detected' >&2; exit 2\n"
    )
    with pytest.raises(
        SystemExit, match=r"could not compile a kernel: x\.h\(1\): error: exception"
    ):
        program.check(packages.parents[2] / "cuda", "13", ["8.0"])


@pytest.mark.parametrize(
    ("capability", "version", "target"),
    [
        ("8.0", "13.0", "80"),
        ("8.9", "12.8", "89"),
        ("9.0", "13.0", "90a"),
        ("10.0", "13.0", "100a"),
        ("12.0", "12.9", "120f"),
        ("12.0", "12.8", "120a"),
        ("12.1", "13.0", "121a"),
    ],
)
def test_the_target_is_the_one_that_sglang_compiles_for(
    program: ModuleType, capability: str, version: str, target: str
) -> None:
    assert program._arch(capability, version) == target
