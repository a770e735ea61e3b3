"""Which engines an adopted host gets from a role: those without a unit of somebody else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import yaml

ROLE = Path(__file__).parents[2] / "roles/llm_router"


def test_units_of_our_roles_go_on_to_be_provisioned(tmp_path: Path) -> None:
    """Else an engine that was installed beside adopted ones would never be upgraded."""
    (tasks,) = (
        task
        for task in yaml.safe_load((ROLE / "tasks/adopt_units.yml").read_text())
        if task["name"] == "Ask systemd for the units of the models"
    )
    ours, theirs = tmp_path / "llamacpp@.service", tmp_path / "sglang.service"
    ours.write_text("# Written by the role roundhouse.llm.llamacpp. Changes: …\n[Unit]\n")
    theirs.write_text("[Unit]\n# Written by the role roundhouse.llm.llamacpp\n")
    shown = (
        f"LoadState=loaded\nFragmentPath={theirs}\n\n"
        f"FragmentPath={ours}\nLoadState=loaded\n\n"
        "LoadState=not-found\nFragmentPath=\n\n"
        f"LoadState=loaded\nFragmentPath={tmp_path}/none\n"
    )
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\necho \"$@\" >{tmp_path}/asked\ncat <<'END'\n{shown}END\n")
    systemctl.chmod(0o755)
    units = ["sglang.service", "llamacpp@a.service", "vllm.service", "x.service"]
    done = subprocess.run(
        ["/bin/sh", "-c", tasks["vars"]["__llm_router_unit_states_of"], "sh", *units],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["loaded", "ours", "not-found", "loaded"]
    asked = (tmp_path / "asked").read_text().split()
    assert asked[asked.index("--") + 1 :] == units
