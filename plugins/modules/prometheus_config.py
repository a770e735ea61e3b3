#!/usr/bin/python
# Copyright (c) 2026 Roundhouse contributors
# MIT License (see LICENSE)
# SPDX-License-Identifier: MIT
"""Enters jobs and rules into a prometheus.yml that is somebody else's."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prometheus_config
short_description: Enter jobs and rules into a Prometheus' configuration
version_added: 0.1.0
author:
  - Roundhouse contributors (@roundhouse-llm)
description:
  - Puts jobs and the names of rule files into a C(prometheus.yml), between two comments, or takes
    them out again. Everything else in the file stays as it is.
  - The new file is checked by promtool, in the directory of the old one, and takes its place only
    if promtool finds nothing wrong.
  - Prometheus is not reloaded.
requirements:
  - promtool on the host (the package C(prometheus) of Debian and Ubuntu has it)
attributes:
  check_mode:
    support: full
    description: Does not ask promtool, since what the entries name may not be there yet.
  diff_mode:
    support: full
    description: Shows the entries alone. The rest of the file may hold secrets.
  idempotent:
    support: full
    description: A file that has the entries as they should be is not touched, nor checked.
  platform:
    support: full
    platforms: posix
    description: The systems that it runs on.
options:
  path:
    description:
      - Prometheus' configuration. It must be there.
    type: path
    default: /etc/prometheus/prometheus.yml
  scrape_configs:
    description:
      - Jobs, as Prometheus documents them.
    type: list
    elements: dict
    default: []
  rule_files:
    description:
      - Files with rules. Relative names are below the directory of O(path).
    type: list
    elements: str
    default: []
  state:
    description:
      - Whether the entries shall be there (V(present)), or none of them (V(absent)).
    type: str
    choices: [present, absent]
    default: present
  promtool:
    description:
      - The checker, a path or a name to find in E(PATH).
    type: str
    default: promtool
seealso:
  - module: roundhouse.llm.model_info
"""

EXAMPLES = r"""
- name: Watch the routers
  roundhouse.llm.prometheus_config:
    scrape_configs:
      - job_name: roundhouse
        file_sd_configs:
          - files: [roundhouse/targets.yml]
    rule_files: [roundhouse/rules.yml]
  notify: Reload Prometheus

- name: Watch them no more
  roundhouse.llm.prometheus_config:
    state: absent
  notify: Reload Prometheus
"""

RETURN = r"""
path:
  description: The file, with links followed.
  type: str
  returned: success
  sample: /etc/prometheus/prometheus.yml
"""

import os
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roundhouse.llm.plugins.module_utils.prometheus_yaml import (
    NotEditable,
    our_entries,
    with_entries,
    without_entries,
)


def put_in_place(module: AnsibleModule, path: Path, text: str) -> None:
    """Write ``text`` to ``path`` if promtool takes it; the module fails where it does not."""
    # relative names in it are below its directory
    descriptor, candidate = tempfile.mkstemp(dir=path.parent, prefix=".prometheus.yml.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        promtool = module.params["promtool"]
        status, out, err = module.run_command([promtool, "check", "config", candidate])
        if status:
            said = [line.strip() for line in (err + out).splitlines() if line.strip()]
            wrong = " ".join(line for line in said if "SUCCESS" not in line)
            module.fail_json(
                msg=f"{path} stays as it is, since {promtool} refuses what it would become: {wrong}"
            )
        module.atomic_move(candidate, str(path))
    finally:
        Path(candidate).unlink(missing_ok=True)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/etc/prometheus/prometheus.yml"},
            "scrape_configs": {"type": "list", "elements": "dict", "default": []},
            "rule_files": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "promtool": {"type": "str", "default": "promtool"},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    path = Path(wanted["path"]).resolve()
    try:
        with path.open(encoding="utf-8", newline="") as file:
            before = file.read()
        if wanted["state"] == "present":
            entries = {key: wanted[key] for key in ("rule_files", "scrape_configs")}
            after = with_entries(before, entries)
        else:
            after = without_entries(before)
        ours = {"before": our_entries(before), "after": our_entries(after)}
    except (OSError, UnicodeDecodeError) as error:
        module.fail_json(msg=f"{path} cannot be read: {error}")
        return
    except NotEditable as error:
        module.fail_json(msg=f"{path}:{error.line}: {error}; write it so, or enter them by hand")
        return
    if before != after and not module.check_mode:
        put_in_place(module, path, after)
    module.exit_json(changed=before != after, path=str(path), diff=ours)


if __name__ == "__main__":
    main()
