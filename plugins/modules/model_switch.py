#!/usr/bin/python
# Copyright (c) 2026 Roundhouse contributors
# MIT License (see LICENSE)
# SPDX-License-Identifier: MIT
"""Asks the router to switch its host to a model."""

from __future__ import annotations

DOCUMENTATION = r"""
module: model_switch
short_description: Switch an LLM server to one of its models
version_added: 0.1.0
author:
  - Roundhouse contributors (@roundhouse-llm)
description:
  - Asks the router that runs on the host to load a model, and waits until the model has answered.
  - Answers that are being streamed by the model of before are finished first.
  - A model that is loaded already is left alone.
requirements:
  - the router, as the role P(roundhouse.llm.llm_router#role) installs it, running on the host
attributes:
  check_mode:
    support: full
    description: Says what a switch would do now, and switches nothing.
  diff_mode:
    support: full
    description: Shows the loaded model before and after.
  idempotent:
    support: full
    description: Changes nothing when the model is loaded and answers.
  platform:
    support: full
    platforms: posix
    description: The systems that it runs on.
options:
  name:
    description:
      - The model, by its name in C(models.yml).
    type: str
    required: true
  timeout:
    description:
      - Seconds to wait at most. Without it the router's own limits for draining and loading hold.
    type: float
  socket:
    description:
      - The router's admin socket. Whoever can open it may switch; root can.
    type: path
    default: /run/llm-router/admin.sock
"""

EXAMPLES = r"""
- name: Have the big model ready before the working day
  roundhouse.llm.model_switch:
    name: mistral-large-2411-awq

- name: Give a slow disk more time
  roundhouse.llm.model_switch:
    name: monstral-123b-exl2-4bpw
    timeout: 900
"""

RETURN = r"""
model:
  description: The model that is loaded now, or would be.
  type: str
  returned: success
  sample: mistral-large-2411-awq
previous:
  description: The model that was loaded before; none if there was none.
  type: str
  returned: success
  sample: monstral-123b-exl2-4bpw
seconds:
  description: How long the switch took.
  type: float
  returned: success, not in check mode
  sample: 44.1
steps:
  description: The steps that the switch took, or would take, in order.
  type: list
  elements: dict
  returned: success
  sample:
    - step: stop
      model: monstral-123b-exl2-4bpw
    - step: start
      model: mistral-large-2411-awq
log_lines:
  description: The last lines that the model's engine logged.
  type: list
  elements: str
  returned: when the switch failed
  sample:
    - 'torch.OutOfMemoryError: CUDA out of memory.'
"""

import http.client
import json
import socket
from typing import Any, Optional
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule

# The router's own deadline should come first: it knows why.
GRACE = 15.0
UNIT = "llm-router.service"
MORE = "see `journalctl -u llm-router`."


class RouterError(Exception):
    """The router cannot be asked, or said no. The message is one sentence for a person."""

    def __init__(self, message: str, log_lines: Optional[list[str]] = None) -> None:
        super().__init__(message)
        self.log_lines = log_lines or []


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: Optional[float]) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def call(
    path: str, timeout: Optional[float], method: str, target: str, body: Any = None
) -> dict[str, Any]:
    """One request to the admin API over the socket at ``path``. Raises `RouterError`."""
    connection = _UnixConnection(path, timeout)
    try:
        connection.request(
            method,
            target,
            body=None if body is None else json.dumps(body),
            headers={"Content-Type": "application/json", "Accept": "application/json"},
        )
        response = connection.getresponse()
        status, text = response.status, response.read().decode("utf-8", "replace")
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise RouterError(f"{UNIT} is not running on this host ({path}); {MORE}") from error
    except PermissionError as error:
        raise RouterError(f"{path} is for root and llm-router: set `become: true`.") from error
    except TimeoutError as error:
        raise RouterError(f"{UNIT} did not answer within {timeout:g} s; {MORE}") from error
    except (OSError, http.client.HTTPException) as error:
        raise RouterError(f"{UNIT} broke the connection off ({error!r}); {MORE}") from error
    finally:
        connection.close()
    return _answer(status, text)


def _answer(status: int, text: str) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        # /health is 503 with a full answer when the router cannot do its work
        problem = answer.get("error")
        if problem is None and (status < 400 or "current_model" in answer):
            return answer
        if isinstance(problem, dict) and problem.get("message"):
            raise RouterError(str(problem["message"]), problem.get("log_lines"))
    raise RouterError(
        f"{UNIT} gave an answer that is not the router's (HTTP {status}, {text[:200]!r}); {MORE}"
    )


def switch(path: str, name: str, timeout: Optional[float], check_mode: bool) -> dict[str, Any]:
    """What the module returns. Raises `RouterError`."""
    if check_mode:
        # the plan first: it refuses an unknown model
        plan = call(path, 30.0, "GET", "/admin/plan?model=" + quote(name, safe=""))
        previous = call(path, 30.0, "GET", "/health").get("current_model")
        return {
            "changed": bool(plan["changed"]),
            "model": plan.get("model", name),
            "previous": previous,
            "steps": plan.get("steps", []),
        }
    body: dict[str, Any] = {"model": name}
    if timeout is not None:
        body["timeout"] = timeout
    done = call(path, None if timeout is None else timeout + GRACE, "POST", "/admin/switch", body)
    return {
        "changed": bool(done["changed"]),
        "model": done.get("model", name),
        "previous": done.get("previous"),
        "seconds": done.get("seconds", 0.0),
        "steps": done.get("steps", []),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "timeout": {"type": "float"},
            "socket": {"type": "path", "default": "/run/llm-router/admin.sock"},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    try:
        result = switch(wanted["socket"], wanted["name"], wanted["timeout"], module.check_mode)
    except RouterError as error:
        module.fail_json(msg=str(error), log_lines=error.log_lines)
        return
    result["diff"] = {
        "before": f"{result['previous'] or 'no model'}\n",
        "after": f"{result['model'] if result['changed'] else result['previous'] or 'no model'}\n",
    }
    module.exit_json(**result)


if __name__ == "__main__":
    main()
