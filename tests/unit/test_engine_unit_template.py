"""An engine's unit, as the role's template makes it: what it waits for, and its steps as root."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.plays import run_plays

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/engine"
CASES: dict[str, dict[str, Any]] = {
    "bare": {},
    "gpus": {"engine_nvidia": True},
    "elsewhere": {"models_dir": "/mnt/nas/models"},
    "awkward": {"engine_models_dir": "/srv/my models/100%"},
}


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The unit's lines in each case, in one run of Ansible."""
    directory = tmp_path_factory.mktemp("units")
    unit = {"name": "vllm@", "description": "vLLM serving %i", "reads": "x", "exec": "/bin/vllm"}
    plays = [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars_files": [str(ROLE / "defaults/main.yml")],
            "vars": {"engine_name": "vllm", "engine_user": "vllm", "__engine_unit": unit},
            "tasks": [
                {
                    "ansible.builtin.template": {
                        "src": str(ROLE / "templates/engine.service.j2"),
                        "dest": str(directory / f"{case}.service"),
                        "mode": "0600",
                    },
                    "vars": given,
                }
            ],
        }
        for case, given in CASES.items()
    ]
    run_plays(directory, plays)
    return {
        path.stem: path.read_text(encoding="utf-8").splitlines()
        for path in directory.glob("*.service")
    }


def test_it_starts_after_the_file_systems_and_not_without_that_of_the_models(
    units: dict[str, list[str]],
) -> None:
    assert "After=network.target remote-fs.target" in units["bare"]
    assert "RequiresMountsFor=/srv/models" in units["bare"]
    assert "RequiresMountsFor=/mnt/nas/models" in units["elsewhere"]
    assert 'RequiresMountsFor="/srv/my models/100%%"' in units["awkward"]


def test_no_step_that_runs_as_root_gets_a_models_variables(units: dict[str, list[str]]) -> None:
    steps = [line.partition("=")[2] for line in units["gpus"] if line.startswith("Exec")]
    as_root = [step for step in steps if step.startswith(("+", "-+", "!", "-!"))]
    assert len(as_root) == 2
    assert all(step.startswith("-+/usr/bin/env -i /usr/bin/") for step in as_root)


def test_with_a_gpu_it_starts_after_the_drivers_own_services(units: dict[str, list[str]]) -> None:
    line = "After=nvidia-persistenced.service nvidia-fabricmanager.service"
    assert line in units["gpus"]
    assert not [each for each in units["bare"] if "nvidia" in each]
    # a host that has no NVSwitch may have the fabric manager installed, where it fails
    assert not [each for each in units["gpus"] if each.startswith(("Wants=", "Requires="))]
