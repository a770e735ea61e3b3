"""The vocabulary of gpt-oss: what the role sglang installs of it, and what openai-harmony reads."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from tests.plays import run_plays

ROOT = Path(__file__).resolve().parents[2]
TASKS = ROOT / "roles/sglang/tasks/vocabulary.yml"


def install(directory: Path, given: Path, digest: str) -> subprocess.CompletedProcess[str]:
    """Run the role's own tasks."""
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars_files": [
            str(ROOT / f"roles/sglang/{part}/main.yml") for part in ("defaults", "vars")
        ],
        "tasks": [{"ansible.builtin.import_tasks": str(TASKS)}],
    }
    extra = {
        "__sglang_root": str(directory / "opt"),
        "__sglang_vocabulary_sum": digest,
        "sglang_harmony_vocabulary": str(given),
    }
    (directory / "opt").mkdir(exist_ok=True)
    return run_plays(directory, [play], extra, check=False)


@pytest.mark.parametrize("right", [True, False])
def test_a_vocabulary_with_another_hash_is_not_installed(right: bool, tmp_path: Path) -> None:
    # openai-harmony checks what it fetches, not what it finds in a directory
    given = tmp_path / "given.tiktoken"
    given.write_text("IQ== 0\n")
    digest = hashlib.sha256(given.read_bytes() if right else b"another").hexdigest()
    done = install(tmp_path, given, digest)
    found = tmp_path / "opt/vocabularies/o200k_base.tiktoken"
    assert (done.returncode == 0) is right, done.stdout
    assert found.exists() is right
