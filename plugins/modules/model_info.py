#!/usr/bin/python
# Copyright (c) 2026 Roundhouse contributors
# MIT License (see LICENSE)
# SPDX-License-Identifier: MIT
"""Asks the router which models its host has, and in which state they are."""

from __future__ import annotations

DOCUMENTATION = r"""
module: model_info
short_description: Which models an LLM server has, which is loaded, and what a switch would do
version_added: 0.1.0
author:
  - Roundhouse contributors (@roundhouse-llm)
description:
  - Asks the router that runs on the host, over its admin socket. It changes nothing.
extends_documentation_fragment: [roundhouse.llm.router]
attributes:
  check_mode:
    support: full
    description: It changes nothing in either mode.
  diff_mode:
    support: N/A
    description: It changes nothing.
  idempotent:
    support: full
    description: It changes nothing.
  platform:
    support: full
    platforms: posix
    description: The systems that it runs on.
options:
  name:
    description:
      - Only this model, by its name in C(models.yml). Without it, all of them.
    type: str
  plans:
    description:
      - Whether to say too what a request for each model would do now.
    type: bool
    default: false
seealso:
  - module: roundhouse.llm.model_switch
  - module: roundhouse.llm.model_config
"""

EXAMPLES = r"""
- name: Look at the models
  roundhouse.llm.model_info:
  register: llm

- name: Say which one answers
  ansible.builtin.debug:
    msg: '{{ llm.current_model }}'

- name: Refuse to go on when a model cannot be loaded
  ansible.builtin.assert:
    that: "llm.models | selectattr('failure', 'defined') | list | length == 0"

- name: Look how long a switch to the big model would take now
  roundhouse.llm.model_info:
    name: mistral-large-2411-awq
    plans: true
  register: big
"""

RETURN = r"""
status:
  description: The router's health; V(healthy), V(degraded) when a model failed, or V(unhealthy).
  type: str
  returned: success
  sample: healthy
problem:
  description: Why the router cannot do its work.
  type: str
  returned: when RV(status=unhealthy)
current_model:
  description: The model that is loaded in the default device group; none if there is none.
  type: str
  returned: success
  sample: mistral-large-2411-awq
loaded:
  description: The loaded model of each device group; none where there is none.
  type: dict
  returned: success
  sample:
    default: mistral-large-2411-awq
models:
  description: The models, in the order of C(models.yml).
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: What clients call it.
      type: str
      sample: mistral-large-2411-awq
    state:
      description: V(loaded), V(loading), V(stopped), or V(failed) after a switch that went wrong.
      type: str
      sample: loaded
    backend:
      description: The kind of engine that serves it.
      type: str
      sample: sglang
    group:
      description: Its device group.
      type: str
      sample: default
    unit:
      description: The unit that runs its engine.
      type: str
      sample: sglang.service
    in_flight:
      description: How many of its answers run now.
      type: int
      sample: 2
    waiting:
      description: How many requests wait for it.
      type: int
      sample: 0
    failure:
      description: Why it could not be loaded.
      type: dict
      returned: when its last switches failed
      sample:
        message: the engine ended while it loaded (exit code 1)
        count: 1
        log_lines: ['torch.OutOfMemoryError: CUDA out of memory.']
    plan:
      description: What a request for it would do now.
      type: dict
      returned: with O(plans=true)
      sample:
        changed: true
        expected_seconds: 44.1
        steps:
          - {step: Start, model: mistral-large-2411-awq, deadline: 180.0, expected_seconds: 0.1}
switches:
  description: The switches that run now.
  type: list
  elements: dict
  returned: success
  sample: []
"""

from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roundhouse.llm.plugins.module_utils.router_admin import (
    QUICK,
    SOCKET,
    RouterError,
    call,
    plan,
    status,
)


def info(path: str, name: Optional[str], plans: bool) -> dict[str, Any]:
    """What the module returns. Raises `RouterError`."""
    health = call(path, QUICK, "GET", "/health")
    now = status(path)
    if name is not None and name not in now["models"]:
        plan(path, name)  # says which models there are
    models = []
    for each, state in now["models"].items():
        if name is None or each == name:
            model = {"name": each, **state}
            if plans:
                foretold = plan(path, each)
                keys = ("changed", "expected_seconds", "steps")
                model["plan"] = {key: foretold[key] for key in keys if key in foretold}
            models.append(model)
    loaded = {group: entry["loaded"] for group, entry in now["groups"].items()}
    result = {
        "status": health["status"],
        "current_model": loaded.get("default"),
        "loaded": loaded,
        "models": models,
        "switches": now["switches"],
    }
    if "problem" in health:
        result["problem"] = health["problem"]
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str"},
            "plans": {"type": "bool", "default": False},
            "socket": {"type": "path", "default": SOCKET},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    try:
        result = info(wanted["socket"], wanted["name"], wanted["plans"])
    except RouterError as error:
        module.fail_json(msg=str(error))
        return
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
