"""What the role llamacpp installs and how it builds, by its own files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/llamacpp"
SERVER = ROOT / "roles/llm_router/files/llm_router/engines/xllamacpp_server.py"
VARS = yaml.safe_load((ROLE / "vars/main.yml").read_text(encoding="utf-8"))


def task(file: str, name: str) -> dict[str, Any]:
    tasks = yaml.safe_load((ROLE / f"tasks/{file}.yml").read_text(encoding="utf-8"))
    found: dict[str, Any] = next(each for each in tasks if each["name"] == name)
    return found


@pytest.mark.parametrize("lock", ["wheel", "build", "cuda"])
def test_nothing_is_installed_or_built_without_a_hash(lock: str) -> None:
    text = (ROLE / f"files/{lock}.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines
    for line in lines:
        assert re.match(r"[a-z0-9.-]+==[^ ]+ .*--hash=sha256:[0-9a-f]{64}", line), line
    assert re.fullmatch(r"[a-z-]+==[0-9.]+ --hash=sha256:[0-9a-f]{64}", VARS["__llamacpp_pinned"])
    assert "--require-hashes" in VARS["__llamacpp_get_pinned"]


def test_the_compiler_of_cuda_and_its_libraries_are_of_one_version() -> None:
    text = (ROLE / "files/cuda.lock").read_text(encoding="utf-8")
    versions = dict(re.findall(r"^(nvidia-[a-z-]+)==(\d+\.\d+)", text, re.MULTILINE))
    assert set(versions.values()) == {"13.0"}
    assert {"nvidia-cuda-nvcc", "nvidia-cuda-runtime", "nvidia-cublas"} <= versions.keys()


def test_a_build_has_no_network_and_no_privileges() -> None:
    started = task("compile", "Start the build")
    properties = started["vars"]["__llamacpp_properties"]
    assert {
        "User={{ __uv_builder }}",
        "PrivateNetwork=yes",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "RestrictSUIDSGID=yes",
        "RuntimeMaxSec={{ llamacpp_build_timeout }}",
    } <= set(properties)
    writable = next(each for each in properties if each.startswith("ReadWritePaths="))
    # root reads the log beside these: the account that builds must not be able to replace it
    assert writable == (
        "ReadWritePaths={{ __uv_release_dir }} {{ __uv_scratch }}/home {{ __uv_scratch }}/tmp"
    )


def test_the_commit_of_a_build_is_the_one_that_is_named(tmp_path: Path) -> None:
    origin = tmp_path / "origin"

    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run(
            ["git", "-C", str(origin), *identity, *words],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.strip()

    origin.mkdir()
    git("init", "-q")
    commits = []
    for content in ("old", "new"):
        (origin / "file").write_text(content, encoding="utf-8")
        git("add", "file")
        git("commit", "-q", "-m", content)
        commits.append(git("rev-parse", "HEAD"))
    git("config", "uploadpack.allowAnySHA1InWant", "true")

    def fetch(commit: str) -> int:
        script = ["/bin/sh", "-c", VARS["__llamacpp_get_commit"], "sh", f"file://{origin}", commit]
        ended = subprocess.run(script, cwd=tmp_path, stderr=subprocess.DEVNULL, check=False)
        return ended.returncode

    for _ in range(2):  # again, over an earlier one
        assert fetch(commits[0]) == 0
        assert (tmp_path / "checkout/file").read_text(encoding="utf-8") == "old"
    git("branch", "-m", "main")
    assert fetch("main") != 0
    assert fetch("0" * 40) != 0


def test_the_wheels_program_runs_by_the_releases_own_interpreter(tmp_path: Path) -> None:
    argv = task("launcher", "Write the program")["ansible.builtin.command"]["argv"]
    script = re.search(r"'-c', '(.*?)',\s*'sh'", argv, re.DOTALL)
    assert script is not None
    written = ["/bin/sh", "-c", script[1], "sh", sys.executable, SERVER.read_text("utf-8")]
    subprocess.run(written, cwd=tmp_path, check=True)
    said = subprocess.run(
        [tmp_path / "server", "--version"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    assert said.startswith("version: ")
