"""vLLM's wheels for AMD GPUs, as Ansible makes it out of the role's variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/vllm"
INDEX = "https://mirror.example/rocm"


@pytest.mark.parametrize(
    ("given", "indexes", "gpu", "locked"),
    [
        ({}, [], True, True),
        ({"vllm_rocm_index_url": INDEX}, [INDEX], False, False),
        (
            {"vllm_rocm_index_url": INDEX, "vllm_extra_index_urls": ["https://other.example"]},
            [INDEX, "https://other.example"],
            False,
            False,
        ),
    ],
)
def test_wheels_for_amd_come_from_their_own_index_and_need_no_nvidia_driver(
    tmp_path: Path, given: dict[str, object], indexes: list[str], gpu: bool, locked: bool
) -> None:
    said = "{{ [__vllm_index_urls, __vllm_wish.gpu | bool, __vllm_locked | bool] | to_json }}"
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars_files": [str(ROLE / f"{part}/main.yml") for part in ("defaults", "vars")],
        "tasks": [{"ansible.builtin.copy": {"content": said, "dest": str(tmp_path / "said")}}],
    }
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("-i", "localhost,", "-e", json.dumps(given), "play.yml"),
        ],
        cwd=tmp_path,
        env=os.environ | {"ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".cache/collections")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "said").read_text()) == [indexes, gpu, locked]
