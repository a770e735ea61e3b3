# Copyright: Roundhouse contributors
# MIT License (see LICENSE)
"""Whether a version of an engine fits a host, and which one would. Pure."""

from __future__ import annotations

DOCUMENTATION = r"""
name: release_fit
short_description: Whether a version of an engine fits a host
author: Roundhouse contributors
version_added: 0.2.0
description:
  - >-
    Looks a version up in an engine's matrix of releases, and compares what it needs with what a
    host has.
  - For the engines' roles, whose preflight shows the problem as it is.
positional: _input
options:
  _input:
    description:
      - The matrix, rows of releases that need the same, the newest first.
      - >-
        Each row has C(since) and C(newest) (versions), C(glibc) (the oldest that will do) and
        C(cuda) (the major versions of CUDA that there are wheels for, PyPI's first; none for
        wheels without CUDA). It may have C(architectures) (those that there are wheels for, if not
        all), C(glibc_aarch64) (if another one is needed there) and C(nvcc) (the CUDA version of
        PyPI's compiler that fits PyPI's wheels).
    type: list
    elements: dict
    required: true
  wish:
    description:
      - >-
        C(label) (the engine's name), C(prefix) (of its role's variables), C(version), C(cuda) (its
        major version, or 0 for that of PyPI's wheels), C(gpu) (whether an NVIDIA driver must be
        there), C(compute_capability) (of the oldest GPU that the engine runs on), C(amd) (what to
        do on a host with a GPU of AMD, if there is something) and C(toolkit) (for an engine that
        compiles kernels: V(auto), V(none) or the path of a CUDA toolkit).
    type: dict
    required: true
  host:
    description:
      - >-
        C(name), C(glibc), C(driver) (an NVIDIA driver's version, or empty), C(no_driver) (why
        there is none), C(architecture), C(compute_capabilities) of its NVIDIA GPUs, C(amd) (whether
        it has a GPU of AMD) and C(toolkit) (the CUDA version of the toolkit at that path, or in
        C(/usr/local/cuda); empty if there is none).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Refuse a version that does not fit
  ansible.builtin.assert:
    that: not __fit.problem
    fail_msg: '{{ __fit.problem }}'
  vars:
    __fit: "{{ matrix | roundhouse.llm.release_fit(wish=wish, host=host) }}"
    matrix:
      - {since: 0.5.20, newest: 0.5.23, glibc: '2.34', cuda: [13]}
    wish: {label: SGLang, prefix: sglang, version: 0.5.23, cuda: 0, gpu: true}
    host: {name: gpu1, glibc: '2.39', driver: 580.65.06, no_driver: ''}
"""

RETURN = r"""
_value:
  description:
    - >-
      C(problem), one sentence, empty where the version fits; C(row), the version's row of the
      matrix, empty where there is none; C(cuda), the major version of CUDA, 0 for none; and
      C(toolkit), V(packages) (PyPI's), the path of one on the host, or empty for none.
  type: dict
"""

from collections.abc import Mapping, Sequence
from typing import Any

from packaging.version import Version

Row = Mapping[str, Any]

DRIVERS = {12: 525, 13: 580}
"""The oldest NVIDIA driver for each major version of CUDA, by its minor version compatibility."""

OLDEST_GPUS = {12: "7.0", 13: "7.5"}
"""The least compute capability that PyTorch's builds for each major version of CUDA have code for:
CUDA 13 has none for Volta (V100) and older ones."""

HOST_TOOLKIT = "/usr/local/cuda"
"""Where NVIDIA's packages and installers put the CUDA toolkit."""


def release_fit(
    matrix: Sequence[Row], wish: Mapping[str, Any], host: Mapping[str, Any]
) -> dict[str, Any]:
    """The row of the wished version, its CUDA and toolkit, and what is wrong with it here."""
    version = Version(str(wish["version"]))
    row = next((row for row in matrix if version >= Version(str(row["since"]))), None)
    cuda = (int(wish["cuda"]) or _own_cuda(row)) if row else 0
    toolkit = _toolkit(row, wish, host, cuda) if row else ""
    problem = _problem(matrix, row, wish, host) or _wrong_toolkit(toolkit, wish, host, cuda)
    return {"row": row or {}, "problem": problem, "cuda": cuda, "toolkit": toolkit}


def _problem(
    matrix: Sequence[Row], row: Row | None, wish: Mapping[str, Any], host: Mapping[str, Any]
) -> str:
    label = f"{wish['label']} {wish['version']}"
    if row is None:
        return (
            f"{wish['prefix']}_version is {wish['version']}, but this role knows {wish['label']} "
            f"{matrix[-1]['since']} and newer."
        )
    cuda = int(wish["cuda"]) or _own_cuda(row)
    if cuda and cuda not in row["cuda"]:
        having = next((other["newest"] for other in matrix if cuda in other["cuda"]), None)
        return f"{label} has no wheels for CUDA {cuda}: " + (
            f"set {wish['prefix']}_version to {having}, the last that has."
            if having
            else f"leave {wish['prefix']}_cuda at 0."
        )
    if not _built_for(host, row):
        remedies = _remedies(matrix, wish, host)
        return (
            f"{host['name']} is {host['architecture']}, but PyPI has {label} for "
            f"{' and '.join(row['architectures'])} only: "
            f"{', or '.join(remedies) or 'no version that this role knows fits'}."
        )
    if wish["gpu"] and cuda and not host["driver"]:
        return _no_driver(label, wish, host, cuda)
    has, needs = [], []
    glibc = _glibc(host, row)
    if not _new_enough(host["glibc"], glibc):
        has.append(f"glibc {host['glibc']}")
        needs.append(f"{glibc} or newer")
    if not _drives(host, wish, cuda):
        has.append(f"NVIDIA driver {host['driver']}")
        needs.append(f"{DRIVERS[cuda]} or newer for CUDA {cuda}")
    if not _computes(host, wish, cuda):
        has.append(f"no GPU of more than compute capability {_best_gpu(host)}")
        needs.append(f"{_least_gpu(wish, cuda)} or newer with CUDA {cuda}")
    if not has:
        return ""
    remedies = _remedies(matrix, wish, host)
    if has[0].startswith("NVIDIA") and len(has) == 1:
        remedies.insert(0, "install a newer driver")
    return (
        f"{host['name']} has {' and '.join(has)}, but {label} needs {' and '.join(needs)}: "
        f"{', or '.join(remedies) or 'no version that this role knows fits'}."
    )


def _no_driver(label: str, wish: Mapping[str, Any], host: Mapping[str, Any], cuda: int) -> str:
    without = f"set {wish['prefix']}_require_gpu to false if no GPU is meant to be there"
    if host.get("amd"):
        return (
            f"{host['name']} has a GPU of AMD and no working NVIDIA driver ({host['no_driver']}), "
            f"but PyPI's {label} is for NVIDIA GPUs: {_for_amd(wish)}; or "
            f"install the NVIDIA driver {DRIVERS[cuda]} or newer if there is an NVIDIA GPU, too; "
            f"or {without}."
        )
    return (
        f"{host['name']} has no working NVIDIA driver ({host['no_driver']}), but {label} "
        f"needs {DRIVERS[cuda]} or newer: install it (docs/gpu-host.md), or {without}."
    )


def _for_amd(wish: Mapping[str, Any]) -> str:
    other = "use llama.cpp, which has builds for AMD"
    return f"{wish['amd']}, or {other}" if wish.get("amd") else other


def _toolkit(row: Row, wish: Mapping[str, Any], host: Mapping[str, Any], cuda: int) -> str:
    """Where the engine's CUDA compiler comes from: PyPI before the host, alike on all hosts."""
    wished = wish.get("toolkit", "none")
    if wished == "none" or not wish["gpu"] or not cuda:
        return ""
    if wished != "auto":
        return str(wished)
    return "packages" if row.get("nvcc") and cuda == _own_cuda(row) else HOST_TOOLKIT


def _wrong_toolkit(
    toolkit: str, wish: Mapping[str, Any], host: Mapping[str, Any], cuda: int
) -> str:
    """What is wrong with a toolkit on the host; PyPI's is checked once it is installed."""
    if toolkit in ("", "packages"):
        return ""
    has = str(host.get("toolkit") or "")
    if has.partition(".")[0] == str(cuda):
        return ""
    label = f"{wish['label']} {wish['version']}"
    reason = f"; PyPI has no compiler for CUDA {cuda}" if wish["toolkit"] == "auto" else ""
    return (
        f"{host['name']} has {f'CUDA {has}' if has else 'no CUDA toolkit'} in {toolkit}, but "
        f"{label} compiles kernels for CUDA {cuda} on the host{reason}: install NVIDIA's CUDA "
        f"{cuda} toolkit, or set {wish['prefix']}_cuda_toolkit to the path of one, or to none if "
        "the models need no kernel that is compiled."
    )


def _remedies(matrix: Sequence[Row], wish: Mapping[str, Any], host: Mapping[str, Any]) -> list[str]:
    """The newest version on PyPI that fits, and a newer one that another index has wheels of."""
    fits = [
        (row, cuda)
        for row in matrix
        if _new_enough(host["glibc"], _glibc(host, row)) and _built_for(host, row)
        for cuda in row["cuda"] or [0]
        if _drives(host, wish, cuda) and _computes(host, wish, cuda)
    ]
    setting = f"set {wish['prefix']}_version to"
    on_pypi = next((row for row, cuda in fits if cuda == _own_cuda(row)), None)
    remedies = []
    if on_pypi:
        remedies.append(f"{setting} {on_pypi['newest']}, the newest on PyPI that fits")
    if fits and fits[0][0] is not on_pypi:
        row, cuda = fits[0]
        remedies.append(
            f"{setting} {row['newest']} and {wish['prefix']}_cuda to {cuda} with an index that has "
            "such wheels"
        )
    return remedies


def _own_cuda(row: Row) -> int:
    """The CUDA that PyPI's wheels are for; 0: none."""
    return int(row["cuda"][0]) if row["cuda"] else 0


def _drives(host: Mapping[str, Any], wish: Mapping[str, Any], cuda: int) -> bool:
    """Whether the host's driver will do for that CUDA; without one there is nothing to compare."""
    if not wish["gpu"] or not cuda or not host["driver"]:
        return True
    return _new_enough(host["driver"], DRIVERS[cuda])


def _glibc(host: Mapping[str, Any], row: Row) -> str:
    """The oldest C library that the wheels for the host's architecture are for."""
    return str(row.get(f"glibc_{host.get('architecture')}", row["glibc"]))


def _built_for(host: Mapping[str, Any], row: Row) -> bool:
    """Whether there are wheels for the host's architecture."""
    return "architecture" not in host or host["architecture"] in row.get(
        "architectures", [host["architecture"]]
    )


def _computes(host: Mapping[str, Any], wish: Mapping[str, Any], cuda: int) -> bool:
    """Whether one of the GPUs will do: of several, the unit says which an engine sees. A driver
    that does not tell is believed."""
    if not wish["gpu"] or not cuda or not host.get("compute_capabilities"):
        return True
    return _new_enough(_best_gpu(host), _least_gpu(wish, cuda))


def _best_gpu(host: Mapping[str, Any]) -> str:
    return max(map(str, host["compute_capabilities"]), key=Version)


def _least_gpu(wish: Mapping[str, Any], cuda: int) -> str:
    """The oldest GPU that both the engine and its PyTorch run on."""
    return max(str(wish.get("compute_capability", "0")), OLDEST_GPUS[cuda], key=Version)


def _new_enough(has: object, needs: object) -> bool:
    return Version(str(has)) >= Version(str(needs))


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Each filter by its name."""
        return {"release_fit": release_fit}
