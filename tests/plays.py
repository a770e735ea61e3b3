"""Run plays of Ansible on this machine: what a role's variables, templates and tasks make."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def run_plays(
    directory: Path,
    plays: Sequence[Mapping[str, Any]],
    variables: Mapping[str, Any] | None = None,
    *,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run the plays in ``directory``, to which paths are relative. ``variables`` win over others.

    With ``check`` a failure is an AssertionError that has Ansible's output.
    """
    (directory / "play.yml").write_text(json.dumps(plays), encoding="utf-8")
    (directory / "variables.json").write_text(json.dumps(variables or {}), encoding="utf-8")
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    done = subprocess.run(
        [program, "-i", "localhost,", "-e", "@variables.json", "play.yml"],
        cwd=directory,
        env=os.environ | {"ANSIBLE_COLLECTIONS_PATH": str(ROOT / "playbooks/collections")},
        capture_output=True,
        text=True,
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done
