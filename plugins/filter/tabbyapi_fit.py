# Copyright: Roundhouse contributors
# MIT License (see LICENSE)
"""Whether TabbyAPI, in the flavors that its units need, fits a host. Pure."""

from __future__ import annotations

DOCUMENTATION = r"""
name: tabbyapi_fit
short_description: Whether TabbyAPI fits a host, and what its units are
author: Roundhouse contributors
version_added: 0.2.0
description:
  - Gives each unit its flavor and port, and compares what the flavors need with what a host has.
  - For the role P(roundhouse.llm.tabbyapi#role), whose preflight shows the problem as it is.
positional: _input
options:
  _input:
    description: The role's O(roundhouse.llm.tabbyapi#role:main:tabbyapi_units).
    type: list
    elements: dict
    required: true
  wish:
    description: C(flavor), C(versions), C(cuda) and C(gpu), as the role's variables have them.
    type: dict
    required: true
  known:
    description:
      - C(flavors) (C(engine), C(commit) and C(compute_capability) of each flavor).
      - C(cuda) (C(driver) and C(compute_capability) of each major version of CUDA).
      - C(glibc) and C(architecture) of the wheels.
    type: dict
    required: true
  host:
    description:
      - >-
        C(name), C(architecture), C(glibc), C(driver) (an NVIDIA driver's version, or empty),
        C(no_driver) (why there is none), C(amd) (whether it has a GPU of AMD) and
        C(compute_capabilities) of its NVIDIA GPUs.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Refuse a host that does not fit
  ansible.builtin.assert:
    that: not __fit.problem
    fail_msg: '{{ __fit.problem }}'
  vars:
    __fit: "{{ units | roundhouse.llm.tabbyapi_fit(wish=wish, known=known, host=host) }}"
    units: [{service: tabbyapi.service}]
    wish: {flavor: exl3, versions: {}, cuda: 12, gpu: true}
    known:
      flavors:
        exl3:
          engine: ExLlamaV3
          commit: e632af41eba68abeadc3437c62674360f2f8cbf1
          compute_capability: '8.0'
      cuda:
        12: {driver: 525, compute_capability: '7.0'}
      glibc: '2.35'
      architecture: x86_64
    host:
      name: gpu1
      architecture: x86_64
      glibc: '2.39'
      driver: 580.65.06
      no_driver: ''
      compute_capabilities: ['8.6']
"""

RETURN = r"""
_value:
  description:
    - C(problem), one sentence, empty where it fits.
    - >-
      C(units), each with C(service), C(stem) (its name without C(.service)), C(flavor), C(port)
      and C(config).
    - C(commits) of the flavors that they need.
  type: dict
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from packaging.version import Version

_SERVICE = re.compile(r"(?P<stem>tabbyapi[A-Za-z0-9_.-]*)\.service")
_FLAVOR = re.compile(r".*-(?P<flavor>exl[23])")
_COMMIT = re.compile(r"[0-9a-f]{40}")
PORTS = {"exl2": 5001}
"""Ports of units that are named after their flavor, so that two can run side by side."""


def tabbyapi_fit(
    units: Sequence[Mapping[str, Any]],
    wish: Mapping[str, Any],
    known: Mapping[str, Any],
    host: Mapping[str, Any],
) -> dict[str, Any]:
    """The units with nothing left to guess, their flavors' commits, and what is wrong."""
    whole = [_unit(unit, wish["flavor"]) for unit in units]
    flavors = sorted({unit["flavor"] for unit in whole})
    commits = {name: data["commit"] for name, data in known["flavors"].items()}
    commits.update(wish["versions"])
    problem = _wrong_units(whole) or _wrong_versions(commits, known)
    if not problem and wish["gpu"]:
        problem = _wrong_host(flavors, wish, known, host)
    return {
        "problem": problem,
        "units": whole,
        "commits": {flavor: commits[flavor] for flavor in flavors},
    }


def _unit(unit: Mapping[str, Any], flavor: str) -> dict[str, Any]:
    service = str(unit["service"])
    stem = service.removesuffix(".service")
    named = _FLAVOR.fullmatch(stem)
    own = named["flavor"] if named else None
    return {
        "service": service,
        "stem": stem,
        "flavor": unit.get("flavor") or own or flavor,
        "port": int(unit.get("port") or PORTS.get(own or "", 5000)),
        "config": dict(unit.get("config") or {}),
    }


def _wrong_units(units: Sequence[Mapping[str, Any]]) -> str:
    names = [unit["service"] for unit in units]
    for name in names:
        if not _SERVICE.fullmatch(name):
            return (
                f"tabbyapi_units has {name}: a unit's name must begin with tabbyapi and end with "
                ".service, with letters, digits and _ . - between them."
            )
        if names.count(name) > 1:
            return f"tabbyapi_units has {name} twice: keep one of the two."
    return ""


def _wrong_versions(commits: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """A branch or a short name could be another program tomorrow."""
    for flavor, commit in commits.items():
        if flavor not in known["flavors"]:
            return (
                f"tabbyapi_versions has {flavor}, but the flavors are "
                f"{' and '.join(known['flavors'])}."
            )
        if not _COMMIT.fullmatch(str(commit)):
            return (
                f"tabbyapi_versions has {commit} for {flavor}: name one of TabbyAPI's commits by "
                "its 40 hexadecimal digits."
            )
    return ""


def _wrong_host(
    flavors: Sequence[str],
    wish: Mapping[str, Any],
    known: Mapping[str, Any],
    host: Mapping[str, Any],
) -> str:
    name, cuda = host["name"], int(wish["cuda"])
    build = known["cuda"][cuda]
    if host["architecture"] != known["architecture"]:
        return (
            f"{name} is {host['architecture']}, but the wheels of ExLlama are for "
            f"{known['architecture']} only."
        )
    if not _new_enough(host["glibc"], known["glibc"]):
        return (
            f"{name} has glibc {host['glibc']}, but the wheels of ExLlama need {known['glibc']} or "
            "newer: use Debian 12, Ubuntu 22.04 or a later release, or llama.cpp or vLLM here."
        )
    needs = f"TabbyAPI with CUDA {cuda} needs {build['driver']} or newer"
    if not host["driver"] and host.get("amd"):
        return (
            f"{name} has a GPU of AMD and no working NVIDIA driver ({host['no_driver']}), but the "
            "wheels of ExLlama are for NVIDIA GPUs: use llama.cpp, which has builds for AMD; or "
            f"install the NVIDIA driver {build['driver']} or newer if there is an NVIDIA GPU, too; "
            "or set tabbyapi_require_gpu to false if no GPU is meant to be there."
        )
    if not host["driver"]:
        return (
            f"{name} has no working NVIDIA driver ({host['no_driver']}), but {needs}: install it "
            "(docs/gpu-host.md), "
            "or set tabbyapi_require_gpu to false if no GPU is meant to be there."
        )
    if not _new_enough(host["driver"], build["driver"]):
        remedies = ["install a newer driver"]
        for other, data in known["cuda"].items():
            if _new_enough(host["driver"], data["driver"]):
                remedies.append(f"set tabbyapi_cuda to {other}")
        return f"{name} has NVIDIA driver {host['driver']}, but {needs}: {', or '.join(remedies)}."
    if not host["compute_capabilities"]:
        return f"{name} has an NVIDIA driver, but it shows no GPU: see what nvidia-smi says."
    return next(filter(None, (_wrong_gpu(each, wish, known, host) for each in flavors)), "")


def _wrong_gpu(
    flavor: str, wish: Mapping[str, Any], known: Mapping[str, Any], host: Mapping[str, Any]
) -> str:
    """Of several GPUs one that will do is enough: its unit says which of them an engine sees."""
    best = max(host["compute_capabilities"], key=lambda each: Version(str(each)))
    cuda = int(wish["cuda"])
    builds = known["cuda"]
    least = _least(known["flavors"][flavor], builds[cuda])
    if _new_enough(best, least):
        return ""
    runs = [
        f"{data['engine']} (flavor {name}) with CUDA {each}"
        for name, data in known["flavors"].items()
        for each in builds
        if _new_enough(best, _least(data, builds[each]))
        and _new_enough(host["driver"], builds[each]["driver"])
    ]
    return (
        f"{host['name']} has no GPU of more than compute capability {best}, but "
        f"{known['flavors'][flavor]['engine']} with CUDA {cuda} needs {least} or newer; "
        f"what runs there: {', '.join([*runs, 'llama.cpp'])}."
    )


def _least(flavor: Mapping[str, Any], build: Mapping[str, Any]) -> str:
    """The oldest GPU for both ExLlama and its PyTorch."""
    needs = (str(flavor["compute_capability"]), str(build["compute_capability"]))
    return max(needs, key=Version)


def _new_enough(has: object, needs: object) -> bool:
    return Version(str(has)) >= Version(str(needs))


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Each filter by its name."""
        return {"tabbyapi_fit": tabbyapi_fit}
