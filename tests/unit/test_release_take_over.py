"""A release that an unprivileged account has built becomes root's, or is rejected."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .programs import load

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/uv"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another account")

BUILDER = 54321
"""A uid that no account of the machine has."""
STRANGER = 54322


take_over: Any = load(ROLE / "files/take_over.py")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A small release that belongs to the builder."""
    made = tmp_path / "0123456789ab"
    (made / "bin").mkdir(parents=True)
    (made / "lib").mkdir()
    (made / "bin/python").symlink_to(sys.executable)
    (made / "lib64").symlink_to("lib")
    (made / "lib/a.py").write_text("")
    (made / "bin/tool").write_text("")
    (made / "bin/tool").chmod(0o4777)
    (made / "lib/a.py").chmod(0o666)
    (made / "lib").chmod(0o2777)
    give(made, BUILDER)
    return made


def give(path: Path, uid: int) -> None:
    for each in [path, *path.rglob("*")]:
        os.chown(each, uid, uid, follow_symlinks=False)


@needs_root
def test_everything_becomes_roots_and_nobody_else_may_write(release: Path) -> None:
    outside = Path(sys.executable).resolve().stat()
    take_over.take(str(release), BUILDER, sys.executable)
    for each in [release, *release.rglob("*")]:
        seen = each.lstat()
        assert (seen.st_uid, seen.st_gid) == (0, 0), each
        if not each.is_symlink():
            assert oct(seen.st_mode & 0o7777) == ("0o755" if each.name != "a.py" else "0o644"), each
    after = Path(sys.executable).resolve().stat()
    assert (after.st_uid, after.st_mode) == (outside.st_uid, outside.st_mode)


@needs_root
@pytest.mark.parametrize("kind", ["link", "dangling", "directory link", "fifo", "socket", "owner"])
def test_what_leads_out_of_the_release_is_rejected(
    release: Path, tmp_path: Path, kind: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("")
    secret.chmod(0o600)
    bad = release / "lib/bad"
    if kind == "link":
        bad.symlink_to(secret)
    elif kind == "dangling":
        bad.symlink_to("/tmp/later")
    elif kind == "directory link":
        bad.symlink_to(tmp_path)
    elif kind == "fifo":
        os.mkfifo(bad)
    elif kind == "socket":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(bad))
        listener.close()
    else:
        bad.write_text("")
    os.chown(bad, STRANGER if kind == "owner" else BUILDER, 0, follow_symlinks=False)
    with pytest.raises(take_over.Rejected, match=r"lib/bad (is|belongs)"):
        take_over.take(str(release), BUILDER, sys.executable)
    # not taken over: its directory is still the builder's
    assert release.stat().st_uid == BUILDER
    assert oct(secret.stat().st_mode & 0o777) == "0o600"


@needs_root
def test_no_process_of_the_builder_is_left() -> None:
    tree = "trap '' TERM; sleep 300 & setsid sleep 300 & echo ready; wait"
    with subprocess.Popen(
        ["/bin/sh", "-c", tree],
        user=BUILDER,
        group=BUILDER,
        extra_groups=[],
        stdout=subprocess.PIPE,
        cwd="/",
    ) as started:
        assert started.stdout
        assert started.stdout.readline() == b"ready\n"
        assert take_over.processes(BUILDER)
        take_over.stop(BUILDER)
        assert take_over.processes(BUILDER) == []


def test_root_is_never_stopped() -> None:
    with pytest.raises(take_over.Rejected, match="do not run as root"):
        take_over.stop(0)


def tasks(path: Path) -> list[dict[str, Any]]:
    """Every task of a file, those of its blocks too."""
    found: list[dict[str, Any]] = []

    def add(each: dict[str, Any]) -> None:
        found.append(each)
        for part in ("block", "rescue", "always"):
            for inner in each.get(part, []):
                add(inner)

    for task in yaml.safe_load(path.read_text(encoding="utf-8")):
        add(task)
    return found


@pytest.mark.parametrize(
    "path",
    ["uv/tasks/release_build.yml", "vllm/tasks/cpu_build.yml"]
    + [f"tabbyapi/tasks/{name}.yml" for name in ("checkout", "compile")],
)
def test_nothing_of_a_build_runs_as_root(path: str) -> None:
    commands = [
        task["ansible.builtin.command"]["argv"]
        for task in tasks(ROOT / "roles" / path)
        if "ansible.builtin.command" in task
    ]
    assert not [task for task in tasks(ROOT / "roles" / path) if "ansible.builtin.git" in task]
    of_root = [argv for argv in commands if "__uv_as_builder" not in str(argv)]
    # root runs only what it has itself
    assert [argv for argv in of_root if "__uv_take_over" not in str(argv)] == []
