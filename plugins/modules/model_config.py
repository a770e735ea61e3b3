#!/usr/bin/python
# Copyright (c) 2026 Roundhouse contributors
# MIT License (see LICENSE)
# SPDX-License-Identifier: MIT
"""States what a model's entry and its engine's configuration must say."""

from __future__ import annotations

DOCUMENTATION = r"""
module: model_config
short_description: State what an LLM server's configuration of a model must say
version_added: 0.1.0
author:
  - Roundhouse contributors (@roundhouse-llm)
description:
  - "Keeps a model's entry of C(models.yml), and the file that its engine reads: the YAML of SGLang
    and vLLM, TabbyAPI's C(config.yml) and the model's own C(tabby_config.yml), llama.cpp's
    arguments, and for a C(script) the drop-in of its unit."
  - It writes these files with the same code as the router does when it switches. In a file that is
    there, only the keys in question change; comments, order, quotes, line ends, owner and mode
    stay.
  - A file that cannot be parsed, or not be edited without changing something else, is refused and
    left as it is, and so is every other file; the message names the line.
  - A running engine is never touched. The router takes a changed C(models.yml) over by itself.
requirements:
  - ruamel.yaml for the Python that runs it on the host. Where it is missing, the module takes
    C(/usr/bin/python3) with C(python3-ruamel.yaml), or the router's own Python, if one of them
    has it.
attributes:
  check_mode:
    support: full
    description: Says what would change, and changes nothing.
  diff_mode:
    support: full
    description: Shows the difference in every file; the values of keys and passwords are masked.
  idempotent:
    support: full
    description: Changes nothing when the files say it already, in whatever style.
  platform:
    support: full
    platforms: posix
    description: The systems that it runs on.
options:
  name:
    description:
      - The model, as clients call it.
    type: str
    required: true
  state:
    description:
      - "V(present): C(models.yml) has the entry. The engine's file says the same, unless its unit
        serves other models too: then a switch, or V(active), decides what it says."
      - "V(active): the same, and the unit serves this model when it is started next."
      - "V(absent): C(models.yml) has no such entry. Files that nothing but this model needs, and
        that are as this module made them, go too."
    type: str
    choices: [present, absent, active]
    default: present
  entry:
    description:
      - What the entry shall say, by the keys of C(models.yml).
      - Keys that are not given stay as they are, in C(settings) too. A key with the value V(null)
        goes.
      - Not needed where the entry is there already and shall stay as it is.
    type: dict
  in_models_file:
    description:
      - Whether C(models.yml) is looked at and kept at all. V(false) writes the engine's files
        alone, by O(entry), also on a host that has no router.
    type: bool
    default: true
  config:
    description:
      - The router's C(config.yml). It says where C(models.yml), the engines' files and their keys
        are; where it is missing, they are where the roles put them.
    type: path
    default: /etc/llm-router/config.yml
  models_file:
    description:
      - The list of models, where it is not the one that O(config) names.
    type: path
  unit_directory:
    description:
      - Where drop-ins of units are.
    type: path
    default: /etc/systemd/system
  backup:
    description:
      - Whether to keep a copy of each file as it was, beside it.
    type: bool
    default: false
seealso:
  - module: roundhouse.llm.model_switch
    description: Loads a model now.
  - module: roundhouse.llm.model_info
"""

EXAMPLES = r"""
- name: Have a model on SGLang
  roundhouse.llm.model_config:
    name: mistral-large-2411-awq
    entry:
      backend: sglang
      service: sglang.service
      model_path: /srv/models/Mistral-Large-2411-AWQ
      settings:
        dtype: half
        mem-fraction-static: 0.88

- name: Give it a longer context, and keep the file as it was
  roundhouse.llm.model_config:
    name: mistral-large-2411-awq
    entry:
      settings:
        context-length: 32768
    backup: true

- name: Give it two GPUs, and its engine a variable
  roundhouse.llm.model_config:
    name: mistral-large-2411-awq
    entry:
      gpus: [0, 1]
      environment:
        NCCL_DEBUG: WARN

- name: Have TabbyAPI load this model when it is started next
  roundhouse.llm.model_config:
    name: monstral-123b-exl2-4bpw
    state: active

- name: Set the model of a TabbyAPI without a router
  roundhouse.llm.model_config:
    name: monstral
    state: active
    in_models_file: false
    entry:
      backend: tabby
      service: tabbyapi.service
      model_name: Monstral-123B-v2-exl2-4.0bpw
      config_file: /opt/tabbyAPI/config.yml

- name: Take a model out
  roundhouse.llm.model_config:
    name: mistral-large-2411-awq
    state: absent
"""

RETURN = r"""
entry:
  description:
    - The entry, as C(models.yml) has it now, or would have it. Values of its C(environment) are not
      shown.
  type: dict
  returned: success, not with O(state=absent)
  sample:
    backend: tabby
    service: tabbyapi.service
    model_name: Monstral-123B-v2-exl2-4.0bpw
files:
  description: The files that were looked at.
  type: list
  elements: dict
  returned: success
  contains:
    path:
      description: Where it is.
      type: str
      sample: /etc/tabbyapi/config.yml
    changed:
      description: Whether it was changed, or would be.
      type: bool
      sample: true
    backup_file:
      description: The copy of what it was.
      type: str
      returned: changed, and with O(backup=true)
      sample: /etc/tabbyapi/config.yml.4242.2026-11-23@10:15:00~
"""

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.respawn import (
    has_respawned,
    probe_interpreters_for_module,
    respawn_module,
)
from ansible_collections.roundhouse.llm.plugins.module_utils import yaml_edit
from ansible_collections.roundhouse.llm.plugins.module_utils.engine_environment import (
    MASK,
    entry_without_values,
)
from ansible_collections.roundhouse.llm.plugins.module_utils.engine_files import (
    DEFAULT_PORTS,
    KEY_FILES,
    EngineDirs,
    EngineSpec,
    desired_files,
    has_exllamav2,
    read_key,
    spec_of_entry,
)
from ansible_collections.roundhouse.llm.plugins.module_utils.file_edits import (
    EngineFileError,
    FileEdit,
    FileResult,
    NoFile,
    WholeFile,
    apply,
    copy,
    locked,
    read,
    render,
)
from ansible_collections.roundhouse.llm.plugins.module_utils.host_gpus import read_host_gpus

ROUTER_PYTHON = "/opt/llm-router/current/venv/bin/python"
BACKENDS = (*DEFAULT_PORTS, "command")


class _Files:
    """What the module goes by: the router's configuration, and the list of models as it is."""

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        self.config_path = Path(wanted["config"])
        self.config = _mapping(self.config_path)
        named = wanted["models_file"] or self.config.get("models_file") or "models.yml"
        # a link stays a link: what it points to is edited
        self.models_path = (self.config_path.parent / named).resolve()
        files = self.config.get("engine_files") or {}
        self.dirs = EngineDirs(
            llamacpp=files.get("llamacpp") or EngineDirs.llamacpp,
            etc=files.get("etc") or EngineDirs.etc,
            units=wanted["unit_directory"],
        )
        self.text = read(self.models_path) or "" if wanted["in_models_file"] else ""
        self.models = _models(self.models_path, self.text)

    def spec(self, name: str, entry: Mapping[str, Any]) -> EngineSpec:
        """The model as the config writer sees it. Raises `EngineFileError`."""
        if entry.get("backend") not in BACKENDS:
            known = ", ".join(BACKENDS)
            raise EngineFileError(f"model {name}: backend is not one of {known}; say it in `entry`")
        keys = {**KEY_FILES, **(self.config.get("engine_keys") or {})}
        key = read_key(entry.get("api_key_file") or keys[entry["backend"]])
        others = [other for each, other in self.models.items() if each != name]
        same = [other for other in others if other.get("service") == entry.get("service")]
        folders = [each.get("model_path") for each in (entry, *same)]
        old = entry["backend"] == "tabby" and has_exllamav2(entry.get("service") or "", folders)
        gpus = entry.get("gpus") or self._gpus_of(entry.get("group") or "default")
        return spec_of_entry(
            name,
            {**entry, "gpus": gpus},
            api_key=key,
            alone=not same,
            exllamav2=old,
            host=read_host_gpus() if gpus else None,
        )

    def _gpus_of(self, group: str) -> Any:
        """The GPUs that config.yml gives to a group; none where it says nothing of it."""
        groups = self.config.get("groups") or {}
        known = groups.get(group) if isinstance(groups, dict) else None
        return (known.get("gpus") if isinstance(known, dict) else None) or []


def _mapping(path: Path) -> dict[str, Any]:
    """A YAML file's content; empty where there is none. Raises `EngineFileError`."""
    try:
        return yaml_edit.mapping(read(path) or "")
    except yaml_edit.YamlError as error:
        raise EngineFileError(f"{path}:{error.line}: {error.problem}") from error


def _models(path: Path, text: str) -> dict[str, dict[str, Any]]:
    try:
        models = yaml_edit.mapping(text).get("models") or {}
    except yaml_edit.YamlError as error:
        raise EngineFileError(f"{path}:{error.line}: {error.problem}") from error
    if not isinstance(models, dict) or not all(isinstance(each, dict) for each in models.values()):
        raise EngineFileError(f"{path}: models is not a mapping of names to entries; mend it first")
    return models


def entry_edited(text: str, path: tuple[str, ...], wanted: Mapping[str, Any]) -> str:
    """The list of models with the keys of ``wanted`` at ``path``; None takes a key away.

    Raises `yaml_edit.YamlError` and `yaml_edit.NotEditable`.
    """
    try:
        there = yaml_edit.get(yaml_edit.mapping(text), path)
    except KeyError:
        there = None
    if not isinstance(there, dict) or not there:
        return yaml_edit.set_value(text, path, _without_nulls(wanted))
    for key, value in wanted.items():
        place = (*path, key)
        if value is None:
            with contextlib.suppress(KeyError):
                text = yaml_edit.remove(text, place)
        elif isinstance(value, Mapping) and isinstance(there.get(key), dict):
            text = entry_edited(text, place, value)
        else:
            kept = _without_nulls(value) if isinstance(value, Mapping) else value
            text = yaml_edit.set_value(text, place, kept)
    return text


def _without_nulls(wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_nulls(value) if isinstance(value, Mapping) else value
        for key, value in wanted.items()
        if value is not None
    }


def planned(wanted: Mapping[str, Any]) -> tuple[Optional[dict[str, Any]], list[FileEdit], _Files]:
    """The entry as it shall be (None: no entry), and the edits that bring it about.

    Raises `EngineFileError`.
    """
    files = _Files(wanted)
    name, absent = wanted["name"], wanted["state"] == "absent"
    path = ("models", name)
    text, given = files.text, wanted["entry"] or {}
    try:
        if absent:
            entry = {**files.models.get(name, {}), **given}
            if name in files.models:
                text = yaml_edit.remove(text, path)
        else:
            text = entry_edited(text, path, given) if given or name in files.models else text
            entry = _models(files.models_path, text).get(name) or {}
    except (yaml_edit.YamlError, yaml_edit.NotEditable) as error:
        raise EngineFileError(f"{files.models_path}:{error.line}: {error}") from error
    if not entry and not absent:
        where = f"in {files.models_path}" if wanted["in_models_file"] else "to go by"
        raise EngineFileError(f"there is no entry {name} {where}; give it as `entry`")
    spec = files.spec(name, entry) if entry else None
    if spec is not None and wanted["state"] == "active":
        spec = dataclasses.replace(spec, alone=False)  # a file that decides must be there
    edits = [] if spec is None else desired_files(spec, files.dirs)
    if spec is not None and absent:
        edits = [gone for edit in edits for gone in _taken_away(edit, spec)]
    elif spec is not None and wanted["state"] == "present" and not spec.alone:
        edits = [edit for edit in edits if not edit.of_unit]
    if wanted["in_models_file"] and (files.text or text):
        whole = WholeFile(text)
        edits.append(
            FileEdit(
                str(files.models_path),
                whole,
                0o640,
                reader="llm-router",
                directory=False,
                shown=without_values,
            )
        )
    return (None if absent else entry), edits, files


def without_values(text: str) -> str:
    """A list of models as a diff shows it: a variable's value may be a password."""
    try:
        for name, entry in (yaml_edit.mapping(text).get("models") or {}).items():
            for variable in (entry or {}).get("environment") or {}:
                text = yaml_edit.set_value(text, ("models", name, "environment", variable), MASK)
    except (yaml_edit.YamlError, yaml_edit.NotEditable, AttributeError, TypeError):
        return "(not shown)"
    return text


def _taken_away(edit: FileEdit, spec: EngineSpec) -> list[FileEdit]:
    """What is left to do about a file of a model that is no more: nothing, or its removal where it
    is just as it was made."""
    if isinstance(edit.content, NoFile):
        return []
    if edit.of_unit and not spec.alone and not isinstance(edit.content, WholeFile):
        return []  # the unit's other models read it
    try:
        fresh = render(edit, None)
    except EngineFileError:  # it was there before the model was
        return []
    if fresh is None or read(Path(edit.path)) != fresh:
        return []
    return [FileEdit(edit.path, NoFile(), daemon_reload=edit.daemon_reload)]


def refused_by_router(module: AnsibleModule, files: _Files, edits: list[FileEdit]) -> Optional[str]:
    """What the installed router's own checker says against the list of models, if anything."""
    text = next((e.content.text for e in edits if e.path == str(files.models_path)), None)  # type: ignore[union-attr]
    if text is None or text == files.text:
        return None
    if not files.config_path.exists() or not os.access(ROUTER_PYTHON, os.X_OK):
        return None
    descriptor, candidate = tempfile.mkstemp(dir=module.tmpdir, suffix=".yml")
    with os.fdopen(descriptor, "wb") as file:
        file.write(text.encode())
    argv = [ROUTER_PYTHON, "-I", "-m", "llm_router", "check", "--config", str(files.config_path)]
    code, _, said = module.run_command([*argv, "--models", candidate])
    Path(candidate).unlink()
    return said.replace(candidate, str(files.models_path)).strip() if code else None


def run(module: AnsibleModule) -> dict[str, Any]:
    """What the module returns. Raises `EngineFileError`."""
    entry, edits, files = planned(module.params)
    if problem := refused_by_router(module, files, edits):
        raise EngineFileError(problem)
    results = apply(edits, check=True)  # nothing is copied or written unless all of it can be
    backups = {}
    if not module.check_mode:
        if module.params["backup"]:
            for result in results:
                made = copy(result.path, _backup_name(result.path)) if result.changed else None
                if made is not None:
                    backups[result.path] = made
        results = apply(edits)
        _reload_systemd(module, results)
    answer: dict[str, Any] = {
        "changed": any(result.changed for result in results),
        "files": [
            {
                "path": result.path,
                "changed": result.changed,
                **({"backup_file": backups[result.path]} if result.path in backups else {}),
            }
            for result in results
        ],
        "diff": [{"prepared": result.diff} for result in results if result.changed],
    }
    if entry is not None:
        answer["entry"] = entry_without_values(entry)
    return answer


def _backup_name(path: str) -> str:
    """As Ansible names backups."""
    when = time.strftime("%Y-%m-%d@%H:%M:%S~", time.localtime())
    return f"{Path(path).name}.{os.getpid()}.{when}"


def _reload_systemd(module: AnsibleModule, results: list[FileResult]) -> None:
    if any(result.daemon_reload for result in results) and Path("/run/systemd/system").is_dir():
        module.run_command(["systemctl", "daemon-reload"], check_rc=True)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {
                "type": "str",
                "choices": ["present", "absent", "active"],
                "default": "present",
            },
            "entry": {"type": "dict"},
            "in_models_file": {"type": "bool", "default": True},
            "config": {"type": "path", "default": "/etc/llm-router/config.yml"},
            "models_file": {"type": "path"},
            "unit_directory": {"type": "path", "default": "/etc/systemd/system"},
            "backup": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
        # it writes its parameters into the host's journal otherwise, and variables with them
        no_log=True,
    )
    given = module.params["entry"]
    shown = {**module.params, "entry": entry_without_values(given) if given else given}
    invocation = {"module_args": shown}
    if not yaml_edit.HAS_RUAMEL:
        pythons = ["/usr/bin/python3", ROUTER_PYTHON]
        other = None if has_respawned() else probe_interpreters_for_module(pythons, "ruamel.yaml")
        if other is not None:
            respawn_module(other)
        module.fail_json(msg=yaml_edit.NO_RUAMEL, invocation=invocation)
        return
    try:
        with contextlib.ExitStack() as stack:
            directory = Path(module.params["config"]).parent
            if module.params["in_models_file"] and directory.is_dir():
                stack.enter_context(locked(directory))
            answer = run(module)
    except EngineFileError as error:
        module.fail_json(msg=str(error), invocation=invocation)
        return
    module.exit_json(invocation=invocation, **answer)


if __name__ == "__main__":
    main()
