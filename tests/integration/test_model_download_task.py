"""model_download as a task: ansible-playbook on this machine, a slow hub on loopback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub.hub import Hub, Repository

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
TOKEN = "hf_0123456789secret"


@pytest.fixture
def play(tmp_path: Path) -> Path:
    file = tmp_path / "play.json"
    task = {
        "name": "Download",
        "roundhouse.llm.model_download": {
            "models": {"big": {"repo": "org/big"}},
            "models_dir": f"{tmp_path}/models",
            "endpoint": "{{ hub }}",
            "token": "{{ hub_token }}",
            "keep_free": 0,
            "interval": 1,
            "parallel": 1,
        },
        "environment": {"HTTP_PROXY": "", "ALL_PROXY": "", "NO_PROXY": "127.0.0.1,localhost"},
    }
    hosts = {"hosts": "localhost", "connection": "local", "gather_facts": False}
    file.write_text(json.dumps([{**hosts, "tasks": [task]}]))
    return file


def run(play: Path, hub: Hub) -> str:
    variables = play.with_name("vars.json")
    variables.write_text(json.dumps({"hub": hub.url, "hub_token": TOKEN}))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ansible", "playbook", "-vvv", "-i", "localhost,"),
            *("-e", f"ansible_python_interpreter={sys.executable}", "-e", f"@{variables}", play),
        ],
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".cache/collections"),
            "ANSIBLE_HOME": str(play.parent / "ansible"),
            "ANSIBLE_LOCALHOST_WARNING": "False",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_task_shows_how_far_it_is_and_no_token(play: Path, tmp_path: Path) -> None:
    weights = os.urandom(4_000_000)
    with Hub() as hub:
        repository = hub.repositories["org/big"] = Repository(token=TOKEN)
        repository.commit({"model.safetensors": weights})
        hub.faults.slow = 0.1  # 64 KiB each: some six seconds
        first = run(play, hub)
        assert (tmp_path / "models/org/big/model.safetensors").read_bytes() == weights
        lines = re.findall(r"^localhost: (\S+) of 4\.0 MB", first, re.MULTILINE)
        assert len(lines) >= 2, first
        assert lines == sorted(lines, key=float)
        assert lines[-1] == "4.0"
        assert " MB/s, less than a minute left" in first
        assert "changed=1 " in first
        hub.asked.clear()
        second = run(play, hub)
        assert "changed=0 " in second
        assert not hub.asked
        assert TOKEN not in first + second
