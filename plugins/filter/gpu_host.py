# Copyright: Roundhouse contributors
# MIT License (see LICENSE)
"""Whether a host keeps its NVIDIA GPUs ready for engines. Pure."""

from __future__ import annotations

DOCUMENTATION = r"""
name: gpu_host
short_description: Whether a host keeps its NVIDIA GPUs ready for engines
author: Roundhouse contributors
version_added: 0.2.0
description:
  - >-
    Judges what C(nvidia-smi), systemd and the kernel say of a host: persistence mode, fabric
    manager, MIG and the mount of the models' directory. What each of them is for is in
    C(docs/gpu-host.md).
  - For the engines' roles, whose preflight shows the problem and the notes as they are.
positional: _input
options:
  _input:
    description:
      - >-
        Lines of a word and what was found: V(gpu) with index, persistence mode, current and
        pending MIG mode; V(fabric) with index, state and status; V(nvswitch) if there is one;
        V(fabricmanager) and V(persistenced) with the state of their units; V(mount) with the mount
        point of a file system that systemd does not mount at boot.
      - Other lines are passed over.
    type: list
    elements: str
    required: true
  name:
    description: The host's name.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Refuse a host whose GPUs cannot compute
  ansible.builtin.assert:
    that: not __gpus.problem
    fail_msg: '{{ __gpus.problem }}'
  vars:
    __gpus: "{{ lines | roundhouse.llm.gpu_host(name='gpu1') }}"
    lines: ['gpu 0, Enabled, Disabled, Disabled', nvswitch, fabricmanager inactive]
"""

RETURN = r"""
_value:
  description:
    - >-
      C(problem), one sentence, empty where engines can use the GPUs; and C(notes), a list of
      sentences on what works now and will not after a reboot, or works slowly.
  type: dict
"""

from collections.abc import Sequence
from typing import Any

PAGE = "docs/gpu-host.md"
UNKNOWN = ("[N/A]", "N/A", "[Not Supported]", "[Unknown Error]")


def gpu_host(lines: Sequence[str], name: str) -> dict[str, Any]:
    """What keeps engines from the GPUs, and what an operator should know."""
    said: dict[str, list[list[str]]] = {}
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        said.setdefault(word, []).append([part.strip() for part in rest.split(",")])
    gpus = [gpu for gpu in said.get("gpu", []) if len(gpu) == 4]
    return {"problem": _problem(said, name), "notes": _notes(said, gpus, name)}


def _state(said: dict[str, list[list[str]]], unit: str) -> str:
    return said.get(unit, [[""]])[0][0]


def _problem(said: dict[str, list[list[str]]], name: str) -> str:
    late = [gpu for gpu in said.get("fabric", []) if gpu[1:2] and _is_late(gpu[1])]
    state = _state(said, "fabricmanager")
    if "nvswitch" in said and state != "active":
        reason = f"its NVSwitch needs nvidia-fabricmanager, which is {state or 'not installed'}"
    elif late:
        reason = f"the fabric of GPU {late[0][0]} is in the state {late[0][1]!r}"
    else:
        return ""
    return (
        f"{name}: no engine can use the GPUs: {reason}. Install nvidia-fabricmanager of exactly "
        f"the driver's version and run `systemctl enable --now nvidia-fabricmanager`; see {PAGE}."
    )


def _is_late(state: str) -> bool:
    return state not in (*UNKNOWN, "Completed", "Not Supported", "")


def _notes(said: dict[str, list[list[str]]], gpus: list[list[str]], name: str) -> list[str]:
    notes = []
    off = [gpu[0] for gpu in gpus if gpu[1] == "Disabled"]
    if off and _state(said, "persistenced") != "active":
        notes.append(
            f"{name}: persistence mode is off for GPU {', '.join(off)}, so the first load after a "
            "pause takes seconds longer: run `systemctl enable --now nvidia-persistenced`; see "
            f"{PAGE}."
        )
    waiting = [gpu[0] for gpu in gpus if gpu[2] != gpu[3] and gpu[2] not in UNKNOWN]
    if waiting:
        notes.append(
            f"{name}: a change of the MIG mode of GPU {', '.join(waiting)} waits for a reset of "
            f"the GPU or a reboot; see {PAGE}."
        )
    notes += [
        f"{name}: the file system at {mount[0]}, where the models are, was mounted by hand and is "
        f"gone after a reboot: give it a line in /etc/fstab; see {PAGE}."
        for mount in said.get("mount", [])
    ]
    return notes


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Any]:
        """The filter by its name."""
        return {"gpu_host": gpu_host}
