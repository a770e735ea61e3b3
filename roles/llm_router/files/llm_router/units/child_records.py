"""Which child processes run: a small file for each, so that the next router finds them.

A file is there before its process is: a router that is killed at any moment leaves none that nobody
knows. The process has the file's token in its environment until then. Each file is written aside
and renamed, so it is whole or not there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from llm_router.json_codec import json_text

log = logging.getLogger(__name__)

MARK = "LLM_ROUTER_CHILD"
"""The environment variable with the token of a child's record."""


@dataclass(frozen=True)
class Found:
    """A process that an earlier router started and that still runs."""

    unit: str
    pid: int
    started: str


class ChildRecords:
    """The records of one state directory."""

    def __init__(self, directory: Path) -> None:
        self._dir = directory

    def path(self, unit: str, suffix: str) -> Path:
        """A file of the unit's own."""
        # quoted, not replaced: no two units may share a file, a/b and a_b neither
        kind, name = ("child", unit[6:]) if unit.startswith("child:") else ("unit", unit)
        return self._dir / f"{kind}_{quote(name, safe='')}.{suffix}"

    def about_to_start(self, unit: str) -> str:
        """Note that the unit will be started; the token that its process must have as `MARK`.

        Raises OSError: then nothing may be started.
        """
        token = secrets.token_hex(16)
        self._write(unit, {"token": token})
        return token

    def started(self, unit: str, token: str, pid: int) -> str:
        """Note its process; the time at which that was started."""
        started = start_time(pid) or ""
        try:
            self._write(unit, {"token": token, "pid": pid, "started": started})
        except OSError as error:  # it can be found by its token
            log.warning("%s cannot be written: %s", self.path(unit, "json"), error.strerror)
        return started

    def forget(self, unit: str) -> None:
        """Its process has ended."""
        self.path(unit, "json").unlink(missing_ok=True)

    def found(self) -> Iterator[Found]:
        """Every process that runs, whatever is configured now; other records are removed."""
        for path in sorted(self._dir.glob("*.json")):
            kind, _, name = path.stem.partition("_")
            unit = f"child:{unquote(name)}" if kind == "child" else unquote(name)
            found = _find(unit, path)
            if found is not None:
                yield found
                continue
            with contextlib.suppress(OSError):
                path.unlink()

    def _write(self, unit: str, record: dict[str, str | int]) -> None:
        path = self.path(unit, "json")
        aside = path.with_suffix(".json.new")
        try:
            aside.write_text(json_text(record), encoding="utf-8")
            aside.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise


def _find(unit: str, path: Path) -> Found | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if "pid" not in record:
            return _with_token(unit, str(record["token"]))
        pid, started = int(record["pid"]), str(record["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Found(unit, pid, started) if start_time(pid) == started else None


def _with_token(unit: str, token: str) -> Found | None:
    """The process that was started with ``token``, whose router ended before it noted the pid."""
    entry = f"{MARK}={token}".encode()
    for directory in Path("/proc").iterdir():
        if not directory.name.isdecimal():
            continue
        pid = int(directory.name)
        with contextlib.suppress(OSError):
            # its own children have the token too, and the session that it began
            if entry in (directory / "environ").read_bytes().split(b"\0") and os.getsid(pid) == pid:
                started = start_time(pid)
                return Found(unit, pid, started) if started is not None else None
    return None


def programs_of(leader: int) -> frozenset[str]:
    """The names of the programs in the session of ``leader`` and of all descendants, 15 characters
    of each."""
    names: dict[int, str] = {}
    parents: dict[int, int] = {}
    found: list[int] = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdecimal():
            continue
        pid = int(directory.name)
        stat = _stat(pid)
        if stat is None:
            continue
        names[pid], fields = stat
        parents[pid] = int(fields[1])
        if int(fields[3]) == leader:
            found.append(pid)
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    members = set(found)
    while found:
        new = [pid for pid in children.get(found.pop(), ()) if pid not in members]
        members.update(new)
        found += new
    return frozenset(names[pid] for pid in members)


def start_time(pid: int) -> str | None:
    """When the process was started, in clock ticks since boot: with the pid it names one."""
    stat = _stat(pid)
    return stat[1][19] if stat is not None else None


def _stat(pid: int) -> tuple[str, list[str]] | None:
    """The name of a process's program, and the fields after it, of which the first is the state
    (proc_pid_stat(5)). None where the process has ended, also if its parent has yet to notice."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    before, _, after = stat.rpartition(")")
    fields = after.split()
    return None if fields[0] == "Z" else (before.partition("(")[2], fields)
