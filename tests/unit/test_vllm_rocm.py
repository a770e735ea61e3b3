"""vLLM's wheels for AMD GPUs, as Ansible makes it out of the role's variables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.plays import run_plays

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
    run_plays(tmp_path, [play], given)
    assert json.loads((tmp_path / "said").read_text()) == [indexes, gpu, locked]
