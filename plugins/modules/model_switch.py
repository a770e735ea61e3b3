#!/usr/bin/python
# Copyright (c) 2026 Roundhouse contributors
# MIT License (see LICENSE)
# SPDX-License-Identifier: MIT
"""Asks the router to switch its host to a model, or to unload one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: model_switch
short_description: Switch an LLM server to one of its models
version_added: 0.1.0
author:
  - Roundhouse contributors (@roundhouse-llm)
description:
  - Asks the router that runs on the host to load a model, and waits until the model has answered.
  - Or to unload one, and waits until its GPUs are free.
  - Or to have one fall asleep for the first time, which takes long, before somebody waits for it.
  - Or to load one for the first time, before somebody waits while kernels are compiled.
  - Answers that are being streamed by the model of before are finished first.
  - A model that is loaded already is left alone.
extends_documentation_fragment: [roundhouse.llm.router]
attributes:
  check_mode:
    support: full
    description: Says what a switch would do now, by the router's own plan, and switches nothing.
  diff_mode:
    support: full
    description: Shows the loaded model before and after.
  idempotent:
    support: full
    description: Changes nothing when the model is loaded and answers, or is not loaded.
  platform:
    support: full
    platforms: posix
    description: The systems that it runs on.
options:
  name:
    description:
      - The model, by its name in C(models.yml).
      - Needed with O(state=loaded), O(state=slept) and O(state=warmed). With O(state=unloaded),
        nothing is unloaded unless it is this model that is loaded; without a name, it is whatever
        is loaded in O(group).
    type: str
  state:
    description:
      - Whether the model shall be V(loaded) or V(unloaded).
      - V(slept) is for models whose C(residency) is V(sleep). One that has not been asleep since
        the host's boot is loaded and put to sleep. Nothing happens to any other, nor to one that
        would not fit into the memory for sleepers. What was loaded before is not brought back.
      - V(warmed) loads a model that has never been loaded by the release of its engine that is in
        use. What was loaded before is not brought back.
    type: str
    choices: [loaded, unloaded, slept, warmed]
    default: loaded
  group:
    description:
      - The device group to unload, with O(state=unloaded) and without O(name).
    type: str
    default: default
  timeout:
    description:
      - Seconds to wait at most. Without it the router's own limits for draining and loading hold.
      - A switch that has begun goes on when the time is over.
    type: float
seealso:
  - module: roundhouse.llm.model_info
  - module: roundhouse.llm.model_config
"""

EXAMPLES = r"""
- name: Have the big model ready before the working day
  roundhouse.llm.model_switch:
    name: mistral-large-2411-awq

- name: Give a slow disk more time
  roundhouse.llm.model_switch:
    name: monstral-123b-exl2-4bpw
    timeout: 900
  register: switched

- name: Say which step took how long
  ansible.builtin.debug:
    msg: '{{ item.step }} of {{ item.model }}: {{ item.seconds }} s'
  loop: '{{ switched.steps }}'

- name: Free the GPUs for the night
  roundhouse.llm.model_switch:
    state: unloaded

- name: Have a model's first sleep behind us
  roundhouse.llm.model_switch:
    name: mistral-large-2411-awq
    state: slept

- name: Compile what a model needs, once for each release of its engine
  roundhouse.llm.model_switch:
    name: mistral-large-2411-awq
    state: warmed

- name: Unload this model, but no other that may be loaded instead
  roundhouse.llm.model_switch:
    name: mistral-large-2411-awq
    state: unloaded
"""

RETURN = r"""
model:
  description: The model that is loaded now, or would be; none after O(state=unloaded).
  type: str
  returned: success
  sample: mistral-large-2411-awq
previous:
  description: The model that was loaded before in its device group; none if there was none.
  type: str
  returned: success
  sample: monstral-123b-exl2-4bpw
seconds:
  description: How long the router took.
  type: float
  returned: success, not in check mode
  sample: 44.1
steps:
  description: The steps that were taken, or would be, in order.
  type: list
  elements: dict
  returned: success
  contains:
    step:
      description: What is done.
      type: str
      sample: WaitUntilReady
    model:
      description: With which model.
      type: str
      sample: mistral-large-2411-awq
    seconds:
      description: How long it took.
      type: float
      returned: not in check mode
      sample: 41.9
    deadline:
      description: After how many seconds it would be given up.
      type: float
      returned: in check mode
      sample: 180.0
    expected_seconds:
      description: How long it takes as a rule; none where the router has not seen it often enough.
      type: float
      returned: in check mode
      sample: 42.3
  sample:
    - step: Stop
      model: monstral-123b-exl2-4bpw
      seconds: 1.2
    - step: Start
      model: mistral-large-2411-awq
      seconds: 0.1
    - step: WaitUntilReady
      model: mistral-large-2411-awq
      seconds: 41.9
log_lines:
  description: The last lines that the engine at fault logged.
  type: list
  elements: str
  returned: when the switch failed
  sample:
    - 'torch.OutOfMemoryError: CUDA out of memory.'
"""

from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roundhouse.llm.plugins.module_utils.router_admin import (
    SOCKET,
    RouterError,
    call,
    plan,
    status,
    unload_plan,
)

# The router's own deadline should come first: it knows why.
GRACE = 15.0


def load(path: str, name: str, timeout: Optional[float], check_mode: bool) -> dict[str, Any]:
    """Have ``name`` loaded. Raises `RouterError`."""
    if check_mode:
        foretold = plan(path, name)  # it refuses an unknown model
        now = status(path)
        group = now["models"][name]["group"]
        return {
            "changed": bool(foretold["changed"]),
            "model": name,
            "previous": now["groups"][group]["loaded"],
            "steps": foretold["steps"],
        }
    body: dict[str, Any] = {"model": name}
    if timeout is not None:
        body["timeout"] = timeout
    done = call(path, None if timeout is None else timeout + GRACE, "POST", "/admin/switch", body)
    return {
        "changed": bool(done["changed"]),
        "model": name,
        "previous": done.get("previous"),
        "seconds": done.get("seconds", 0.0),
        "steps": done.get("steps", []),
    }


def unload(
    path: str, name: Optional[str], group: str, timeout: Optional[float], check_mode: bool
) -> dict[str, Any]:
    """Have ``name`` not loaded, or nothing in ``group``. Raises `RouterError`."""
    now = status(path)
    if name is not None:
        if name not in now["models"]:
            plan(path, name)  # says which models there are
        group = now["models"][name]["group"]
    loaded = now["groups"].get(group, {}).get("loaded")
    nothing = {"changed": False, "model": loaded, "previous": loaded, "seconds": 0.0, "steps": []}
    if name is not None and loaded != name:
        return nothing
    if check_mode:
        foretold = unload_plan(path, group)
        changed = bool(foretold["changed"])
        left = None if changed else loaded
        steps = foretold["steps"]
        return {"changed": changed, "model": left, "previous": loaded, "steps": steps}
    done = call(path, timeout, "POST", "/admin/unload", {"group": group})
    return {
        "changed": bool(done["changed"]),
        "model": None,
        "previous": done.get("previous"),
        "seconds": done.get("seconds", 0.0),
        "steps": done.get("steps", []),
    }


def sleep(path: str, name: str, timeout: Optional[float], check_mode: bool) -> dict[str, Any]:
    """Have ``name`` asleep once since the boot. Raises `RouterError`."""
    done = call(path, timeout, "POST", "/admin/sleep", {"model": name, "dry_run": check_mode})
    changed = bool(done["changed"])
    return {
        "changed": changed,
        "model": None if changed else done.get("previous"),
        "previous": done.get("previous"),
        "seconds": done.get("seconds", 0.0),
        "steps": done.get("steps", []),
    }


def warm(path: str, name: str, timeout: Optional[float], check_mode: bool) -> dict[str, Any]:
    """Have ``name`` loaded once by the release of its engine. Raises `RouterError`."""
    body = {"model": name, "dry_run": check_mode}
    done = call(path, timeout, "POST", "/admin/first-load", body)
    changed = bool(done["changed"])
    return {
        "changed": changed,
        "model": name if changed else done.get("previous"),
        "previous": done.get("previous"),
        "seconds": done.get("seconds", 0.0),
        "steps": done.get("steps", []),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str"},
            "state": {
                "type": "str",
                "choices": ["loaded", "unloaded", "slept", "warmed"],
                "default": "loaded",
            },
            "group": {"type": "str", "default": "default"},
            "timeout": {"type": "float"},
            "socket": {"type": "path", "default": SOCKET},
        },
        required_if=[("state", state, ["name"]) for state in ("loaded", "slept", "warmed")],
        supports_check_mode=True,
    )
    wanted = module.params
    path, timeout = wanted["socket"], wanted["timeout"]
    try:
        if wanted["state"] == "loaded":
            result = load(path, wanted["name"], timeout, module.check_mode)
        elif wanted["state"] == "warmed":
            result = warm(path, wanted["name"], timeout, module.check_mode)
        elif wanted["state"] == "slept":
            result = sleep(path, wanted["name"], timeout, module.check_mode)
        else:
            result = unload(path, wanted["name"], wanted["group"], timeout, module.check_mode)
    except RouterError as error:
        module.fail_json(msg=str(error), log_lines=error.log_lines)
        return
    after = result["model"] if result["changed"] else result["previous"]
    result["diff"] = {
        "before": f"{result['previous'] or 'no model'}\n",
        "after": f"{after or 'no model'}\n",
    }
    module.exit_json(**result)


if __name__ == "__main__":
    main()
