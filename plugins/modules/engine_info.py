#!/usr/bin/python
# Copyright (c) 2026 Roundhouse contributors
# MIT License (see LICENSE)
# SPDX-License-Identifier: MIT
"""Looks which engines and models a host has."""

from __future__ import annotations

DOCUMENTATION = r"""
module: engine_info
short_description: Find the engines and models that a host has
version_added: 0.1.0
author:
  - Roundhouse contributors (@roundhouse-llm)
description:
  - Reads the host's systemd units of SGLang, vLLM, TabbyAPI and llama.cpp, what they name, and
    folders of models, and proposes the C(models.yml) that follows.
  - Engines that run are asked on loopback what they serve.
  - Nothing has to be installed on the host. C(llm-router discover) is the same on the command line.
attributes:
  check_mode:
    support: full
    description: Changes nothing in any mode.
  diff_mode:
    support: none
    description: There is nothing to compare.
  idempotent:
    support: full
    description: Changes nothing.
  platform:
    support: full
    platforms: posix
    description: The systems that it runs on.
options:
  models_dirs:
    description:
      - Folders to look for models in, in place of the usual ones. Those that units name are always
        looked at.
    type: list
    elements: str
    default: []
  models:
    description:
      - The models of a C(models.yml) that there is already, by name, to be compared with what the
        host says.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Look what the hosts have
  roundhouse.llm.engine_info:
    models_dirs: [/data/llm]
  become: true
  register: found

- name: Keep a proposal for each of them, to edit
  ansible.builtin.copy:
    content: '{{ found.models_yml }}'
    dest: 'proposals/{{ inventory_hostname }}.yml'
    mode: '0644'
  delegate_to: localhost
"""

RETURN = r"""
models_yml:
  description: The proposed C(models.yml), with comments on what a person has to decide.
  type: str
  returned: success
models:
  description: The models of it, by name.
  type: dict
  returned: success
  sample:
    mistral-large-2411-awq:
      backend: sglang
      script: /opt/llm/start_mistral.sh
      service: sglang.service
engines:
  description: The units that start an engine.
  type: list
  elements: dict
  returned: success
  sample:
    - unit: sglang.service
      backend: sglang
      state: active
      script: /opt/llm/start_mistral.sh
      serves: mistral-large-2411-awq
      ports: [30000]
contradictions:
  description:
    - Where O(models) and the host's units say different things, so that the loaded model would be
      lost or a switch could not work; and what to do. Engines whose keys would go to one file and
      differ are among them.
  type: list
  elements: str
  returned: success
notes:
  description: What was found and is not proposed, and why.
  type: list
  elements: str
  returned: success
unread:
  description: What could not be read, and why.
  type: list
  elements: dict
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.roundhouse.llm.plugins.module_utils.discovery.answer import answer_of
from ansible_collections.roundhouse.llm.plugins.module_utils.discovery.survey import (
    read_key_of,
    survey,
)
from ansible_collections.roundhouse.llm.plugins.module_utils.engine_environment import (
    entry_without_values,
)


def main() -> None:
    """The module's run."""
    module = AnsibleModule(
        argument_spec={
            "models_dirs": {"type": "list", "elements": "str", "default": []},
            "models": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
        # else it logs its parameters, and models' variables with them, in the host's journal
        no_log=True,
    )
    models = module.params["models"]
    shown = {
        name: entry_without_values(entry) if isinstance(entry, dict) else entry
        for name, entry in models.items()
    }
    found = survey(module.params["models_dirs"])
    module.exit_json(
        changed=False,
        invocation={"module_args": {**module.params, "models": shown}},
        **answer_of(found, models, read_key_of),
    )


if __name__ == "__main__":
    main()
