"""Whether a host keeps its GPUs ready, by what its tools print."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from ansible_collections.roundhouse.llm.plugins.filter.gpu_host import gpu_host

ROOT = Path(__file__).resolve().parents[4]
READY = "gpu 0, Enabled, Disabled, Disabled"
NONE = {"problem": "", "notes": []}


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [READY, "fabricmanager inactive", "persistenced active"],
        [READY, "fabric 0, Completed, Success", "nvswitch", "fabricmanager active"],
        [READY, "fabric 0, [N/A], [N/A]", "persistenced inactive"],
        ["gpu 0, [N/A], [N/A], [N/A]"],  # a desktop's GPU, and an old driver
        ["gpu 0, Disabled, [N/A], [N/A]", "persistenced active"],
        ['Field "fabric.state" is not a valid field to query.', "gpu", "gpu 0"],
    ],
)
def test_a_host_that_is_right_is_passed_over(lines: list[str]) -> None:
    assert gpu_host(lines, "gpu1") == NONE


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["nvswitch", "fabricmanager inactive"], "needs nvidia-fabricmanager, which is inactive."),
        (["nvswitch"], "needs nvidia-fabricmanager, which is not installed."),
        (
            ["fabric 0, Completed, Success", "fabric 1, In Progress, N/A", "fabricmanager active"],
            "the fabric of GPU 1 is in the state 'In Progress'.",
        ),
    ],
)
def test_gpus_that_cannot_compute_are_a_problem(lines: list[str], said: str) -> None:
    problem = gpu_host([READY, *lines], "gpu1")["problem"]
    assert problem.startswith("gpu1: no engine can use the GPUs: ")
    assert said in problem
    assert problem.endswith("; see docs/gpu-host.md.")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["gpu 0, Disabled, N/A, N/A", "gpu 1, Disabled, N/A, N/A"], "is off for GPU 0, 1, so"),
        (["gpu 3, Enabled, Disabled, Enabled"], "the MIG mode of GPU 3 waits for a reset"),
        (["mount /srv/models"], "the file system at /srv/models, where the models are, was"),
    ],
)
def test_what_a_reboot_or_a_pause_would_show_is_noted(lines: list[str], said: str) -> None:
    found = gpu_host(lines, "gpu1")
    assert found["problem"] == ""
    (note,) = found["notes"]
    assert note.startswith("gpu1: ")
    assert said in note
    assert note.endswith("; see docs/gpu-host.md.")


def test_the_roles_question_is_answered_by_such_lines(tmp_path: Path) -> None:
    """The script of the task, with programs that print what real ones do."""
    tasks = yaml.safe_load((ROOT / "roles/engine/tasks/gpu_host.yml").read_text())
    (task,) = (task for task in tasks if "ansible.builtin.command" in task)
    script = task["ansible.builtin.command"]["argv"][2]
    programs = {
        "nvidia-smi": (
            "case $1 in *persistence*) echo '0, Disabled, Disabled, Enabled' ;;"
            " *fabric*) echo '0, In Progress, N/A' ;; esac"
        ),
        "systemctl": (
            'case "$*" in *show*) ;; *fabricmanager*) echo inactive; exit 3 ;;'
            " *) echo active ;; esac"
        ),
        "findmnt": "echo /mnt/nas",
        "systemd-escape": "echo mnt-nas.mount",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", "/mnt/nas/models"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "gpu 0, Disabled, Disabled, Enabled",
        "fabric 0, In Progress, N/A",
        "fabricmanager inactive",
        "persistenced active",
        "mount /mnt/nas",
    ]
    found = gpu_host(done.stdout.splitlines(), "gpu1")
    assert "the fabric of GPU 0" in found["problem"]
    assert len(found["notes"]) == 2
