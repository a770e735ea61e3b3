"""Where llama.cpp comes from on each release, with and without a GPU."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.roundhouse.llm.plugins.filter.llamacpp_source import (
    gfx_name,
    llamacpp_source,
)

PACKAGE = "llama.cpp-tools"
VULKAN = ["libvulkan-dev", "glslc", "spirv-headers"]

# release -> its glibc, and the packages that it has of those that matter (apt-cache policy)
RELEASES: dict[str, tuple[str, list[str]]] = {
    "Debian 11": ("2.31", ["libvulkan-dev", "spirv-headers"]),
    "Debian 12": ("2.36", VULKAN),
    "Debian 13": ("2.41", VULKAN),
    "Debian forky": ("2.42", [PACKAGE, *VULKAN]),
    "Ubuntu 20.04": ("2.31", ["libvulkan-dev", "spirv-headers"]),
    "Ubuntu 22.04": ("2.35", ["libvulkan-dev", "spirv-headers"]),
    "Ubuntu 24.04": ("2.39", VULKAN),
}
GPUS: dict[str, dict[str, Any]] = {
    "none": {},
    "nvidia": {"driver": "580.65.06", "compute_capabilities": ["8.6"]},
    "nvidia old driver": {"driver": "535.54.03", "compute_capabilities": ["8.6"]},
    "nvidia old driver, toolkit": {
        "driver": "535.54.03",
        "compute_capabilities": ["8.6"],
        "toolkit": "12.2",
    },
    "nvidia, three": {"driver": "580.65.06", "compute_capabilities": ["12.0", "7.0", "8.6"]},
    "volta": {"driver": "580.65.06", "compute_capabilities": ["7.0"]},
    "amd": {"amd": True, "gfx_versions": ["110000"]},
    "amd, rocm": {"amd": True, "gfx_versions": ["110000"], "hip": True},
}


def source(release: str = "Debian 12", gpu: str = "none", **wished: Any) -> dict[str, Any]:
    glibc, packages = RELEASES[release]
    host = {
        "name": "gpu1",
        "distribution": release,
        "architecture": "x86_64",
        "glibc": glibc,
        "driver": "",
        "compute_capabilities": [],
        "amd": False,
        "toolkit": "",
        "hip": False,
        "gfx_versions": [],
        "packages": packages,
        **GPUS[gpu],
    }
    wish = {
        "source": "auto",
        "backend": "auto",
        "architectures": [],
        "variant": "",
        "archive": False,
        "binary": False,
        "package": PACKAGE,
    }
    assert wished.keys() <= wish.keys()
    found: dict[str, Any] = llamacpp_source(host, {**wish, **wished})
    return found


EVERY_OTHER = "every other release"
EXPECTED: dict[str, dict[str, str]] = {
    "none": {"Debian forky": "package", EVERY_OTHER: "wheel"},
    # its C library is too new for the compiler of CUDA 13.0
    "nvidia": {"Debian forky": "package", EVERY_OTHER: "build cuda packages 86"},
    # one is too old for CUDA 13
    "nvidia, three": {"Debian forky": "package", EVERY_OTHER: "build cuda packages 86 120a"},
    "nvidia old driver": {"Debian forky": "package", EVERY_OTHER: "wheel"},
    "nvidia old driver, toolkit": {EVERY_OTHER: "build cuda /usr/local/cuda 86"},
    "volta": {"Debian forky": "package", EVERY_OTHER: "wheel"},
    "amd": {
        "Debian 11": "wheel",
        "Ubuntu 20.04": "wheel",
        "Ubuntu 22.04": "wheel",
        EVERY_OTHER: "build vulkan",
    },
    "amd, rocm": {EVERY_OTHER: "build hip gfx1100"},
}


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("release", RELEASES)
def test_auto_ends_in_something_on_every_host(release: str, gpu: str) -> None:
    found = source(release, gpu)
    said = [found["source"]]
    if found["source"] == "build":
        said += [found["backend"], found["toolkit"], *found["architectures"]]
    expected = EXPECTED[gpu]
    assert " ".join(filter(None, said)) == expected.get(release, expected[EVERY_OTHER])
    assert not found["problem"]
    assert found["reason"]


def test_the_reason_names_what_is_missing() -> None:
    found = source("Debian 12", "nvidia old driver")
    assert found["reason"] == (
        "Debian 12 has no package llama.cpp-tools, and the NVIDIA driver 535.54.03 is older than "
        "580, which CUDA 13 needs, and there is no CUDA toolkit in /usr/local/cuda"
    )
    assert source()["reason"] == "Debian 12 has no package llama.cpp-tools, and no GPU was found"


@pytest.mark.parametrize(
    ("release", "gpu", "expected"),
    [
        ("Debian 12", "none", "archive"),
        ("Debian forky", "none", "package"),
        # what was given is for the GPU, the package is not
        ("Debian forky", "nvidia", "archive"),
        ("Debian 12", "amd", "archive"),
    ],
)
def test_a_given_archive_comes_before_a_build(release: str, gpu: str, expected: str) -> None:
    assert source(release, gpu, archive=True)["source"] == expected


def test_a_missing_package_is_refused_with_what_to_set() -> None:
    assert source("Debian 13", source="package")["problem"] == (
        "Debian 13 on gpu1 has no package llama.cpp-tools: set llamacpp_source to wheel (CPU), to "
        "build, or to auto for the first that fits this host."
    )
    assert not source("Debian forky", source="package")["problem"]


@pytest.mark.parametrize("name", ["wheel", "archive", "binary", "release"])
def test_a_source_that_is_set_is_taken(name: str) -> None:
    assert source("Debian forky", "nvidia", source=name)["source"] == name


@pytest.mark.parametrize(
    ("gpu", "backend", "expected"),
    [
        ("none", "auto", "cpu"),
        ("none", "vulkan", "vulkan"),
        ("nvidia", "auto", "cuda"),
        ("nvidia", "cpu", "cpu"),
        ("nvidia", "vulkan", "vulkan"),
        ("amd", "auto", "vulkan"),
        ("amd, rocm", "vulkan", "vulkan"),
    ],
)
def test_a_build_is_for_the_gpu_or_for_what_is_set(gpu: str, backend: str, expected: str) -> None:
    found = source("Debian 12", gpu, source="build", backend=backend)
    assert (found["source"], found["backend"], found["problem"]) == ("build", expected, "")


@pytest.mark.parametrize(
    ("release", "gpu", "backend", "cause"),
    [
        ("Debian 12", "amd", "hip", "it has no ROCm compiler"),
        ("Ubuntu 22.04", "none", "vulkan", "Ubuntu 22.04 has no package glslc"),
        ("Debian 12", "volta", "auto", "the GPU has compute capability 7.0, and CUDA 13 needs 7.5"),
        ("Debian forky", "nvidia", "cuda", "glibc 2.42 is newer than 2.41"),
        ("Debian 12", "none", "cuda", "the architecture of the GPU is unknown"),
    ],
)
def test_a_build_that_cannot_be_is_refused(
    release: str, gpu: str, backend: str, cause: str
) -> None:
    problem = source(release, gpu, source="build", backend=backend)["problem"]
    assert problem.startswith("llama.cpp cannot be built for gpu1: ")
    assert cause in problem
    assert "set llamacpp_" in problem


@pytest.mark.parametrize(
    ("gpu", "wished", "variant"),
    [
        ("none", {}, ""),
        ("nvidia", {}, "vulkan"),
        ("amd", {"backend": "cpu"}, ""),
        ("amd", {"backend": "hip", "variant": "rocm-10.0"}, "rocm-10.0"),
    ],
)
def test_a_release_has_an_archive_for_each_backend(
    gpu: str, wished: dict[str, str], variant: str
) -> None:
    found = source("Debian 12", gpu, source="release", **wished)
    assert (found["variant"], found["problem"]) == (variant, "")


def test_a_release_for_cuda_needs_the_name_of_its_archive() -> None:
    problem = source("Debian 12", "nvidia", source="release", backend="cuda")["problem"]
    assert "set llamacpp_release_variant" in problem


def test_a_build_may_be_for_a_gpu_of_another_host() -> None:
    found = source("Debian 12", "none", source="build", backend="cuda", architectures=["90"])
    assert (found["architectures"], found["problem"]) == (["90"], "")


@pytest.mark.parametrize(
    ("version", "name"),
    [(110000, "gfx1100"), (90010, "gfx90a"), (90402, "gfx942"), (90006, "gfx906")],
)
def test_amds_architectures_have_the_compilers_names(version: int, name: str) -> None:
    assert gfx_name(version) == name
