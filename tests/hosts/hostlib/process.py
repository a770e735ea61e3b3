"""A host's processes: systemd-nspawn in a cgroup of its own, and the end of all of them.

Every host needs its own cgroup. systemd-nspawn without a service manager around it would put the
hosts of one caller into one and the same cgroup, where each systemd would manage, and kill, the
others' services.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .names import HostError
from .shell import wait_until


def hierarchy() -> Path | None:
    """Where cgroup v2 is mounted: alone, or beside v1 on a machine with hybrid cgroups."""
    for path in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        if (path / "cgroup.procs").exists() and (path / "cgroup.controllers").exists():
            return path
    return None


def _groups(group: str) -> list[Path]:
    # With hybrid cgroups systemd-nspawn mirrors its groups in systemd's own hierarchy.
    roots = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/systemd")]
    return [root / group for root in roots if (root / group).is_dir()]


def start(argv: Sequence[str], group: str, log: Path) -> int:
    """Start a command that outlives us, in a new cgroup at the top of the hierarchy; its pid."""
    root = hierarchy()
    if root is None:
        raise HostError("no cgroup v2 is mounted on this machine")
    directory = root / group
    directory.mkdir(exist_ok=True)
    # It joins the cgroup before it becomes the command, so none of its children is ever outside.
    join = 'echo $$ >"$1" && shift && exec "$@"'
    with log.open("wb") as stream:
        process = subprocess.Popen(
            ["/bin/sh", "-c", join, "sh", str(directory / "cgroup.procs"), *argv],
            # With hybrid cgroups the host would otherwise see the old hierarchy.
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd="/",
            # A session of its own: the end of the caller's task or terminal does not reach it.
            start_new_session=True,
        )
    # We do not wait for it, and Popen must not complain about that.
    process.returncode = 0
    return process.pid


def start_time(pid: int) -> int:
    """Clock ticks from boot to the start of a process; 0 if there is none, or only its zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def end_all(group: str) -> None:
    """Kill every process of a cgroup and below it, and remove the cgroup; fine if there is none."""
    directories = _groups(group)

    def gone() -> bool:
        pids = {pid for directory in directories for pid in _members(directory)}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    wait_until(f"the processes of {group} are ending", gone, seconds=20, pause=0.02)
    for directory in directories:
        below = [path for path in directory.rglob("*") if path.is_dir()]
        for child in sorted(below, key=lambda path: len(path.parts), reverse=True):
            _remove(child)
        _remove(directory)


def _members(directory: Path) -> list[int]:
    found: list[int] = []
    for path in directory.rglob("cgroup.procs"):
        with contextlib.suppress(OSError):
            found += [int(word) for word in path.read_text().split()]
    return [pid for pid in found if pid != 0 and start_time(pid)]


def _remove(directory: Path) -> None:
    def removed() -> bool:
        # A zombie that nobody has waited for yet keeps its cgroup busy for a moment.
        with contextlib.suppress(OSError):
            directory.rmdir()
        return not directory.exists()

    wait_until(f"removing cgroup {directory.name}", removed, seconds=20, pause=0.05)
