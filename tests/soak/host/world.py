"""The world, asked without the router: systemd, /proc, and what the stand-ins write down."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.host.judge import Engine, Held, World
from tests.soak.host.models import JOURNALS, MODELS, UNITS

_OF_INTEREST = tuple(f'"what": "{what}"' for what in ("start", "ready", "device", "asked-wrongly"))


async def command(*argv: str, check: bool = True) -> str:
    """What a command printed. Raises RuntimeError where it fails and ``check`` is set."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        told, _ = await asyncio.wait_for(process.communicate(), 30)
    except TimeoutError:
        process.kill()
        raise RuntimeError(f"{' '.join(argv)}: not done within 30 s") from None
    text = told.decode(errors="replace")
    if check and process.returncode:
        raise RuntimeError(f"{' '.join(argv)}: exit {process.returncode}\n{text}")
    return text


async def show(units: list[str]) -> dict[str, dict[str, str]]:
    """What systemd says of units, by unit. It has a socket of its own for root, so no bus."""
    words = ["--property=Id,ActiveState,SubState,MainPID,Result,NRestarts"]
    text = await command("systemctl", "show", *words, *units)
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if line)
              for block in text.split("\n\n")]  # fmt: skip
    return {block["Id"]: block for block in blocks if block.get("Id")}


@dataclass
class Process:
    """A stand-in, by its own words. ``since``: when it took its device, None while it sleeps."""

    pid: int
    name: str
    context: int
    since: float | None = None
    ready: bool = False
    seen: float = 0.0
    """When it was last there."""


@dataclass
class Oracle:
    """Reads the journals on; `look` now and then, as it learns from /proc who was killed."""

    processes: dict[int, Process] = field(default_factory=dict)
    held: list[Held] = field(default_factory=list)
    """Who had a device, as far as that has ended."""
    wrongly: list[tuple[float, str]] = field(default_factory=list)
    """What engines were asked and must not be."""
    _read: dict[str, int] = field(default_factory=dict)

    async def look(self) -> World | None:
        """None when systemd cannot be asked just now."""
        try:
            units = await show(UNITS)
        except (RuntimeError, KeyError, ValueError):
            return None
        self._read_journals()
        self._bury()
        made = {}
        for unit in UNITS:
            told = units.get(unit, {})
            pid = int(told.get("MainPID", 0))
            process = self.processes.get(pid)
            made[unit] = Engine(
                told.get("ActiveState", "unknown"),
                pid,
                alive=process is not None,
                awake=process is not None and process.since is not None,
                serves=process.name if process else "",
                context=process.context if process else 0,
            )
        mains = {engine.pid for engine in made.values()}
        strays = tuple(
            f"process {process.pid} ({process.name})"
            for process in self.processes.values()
            if process.since is not None and process.pid not in mains
        )
        return World(made, strays)

    def all_held(self) -> list[Held]:
        """With those that still have one."""
        now = time.monotonic()
        awake = [process for process in self.processes.values() if process.since is not None]
        return [
            *self.held,
            *(Held(one.pid, one.name, one.since, now) for one in awake if one.since is not None),
        ]

    def is_ready(self, name: str) -> int:
        """The process that serves a model and has loaded it; 0 where there is none."""
        self._read_journals()
        ready = (one.pid for one in self.processes.values() if one.name == name and one.ready)
        return next(ready, 0)

    def forget(self, before: float) -> None:
        """What ended then is no longer of interest."""
        self.held = [held for held in self.held if held.end > before]

    def _read_journals(self) -> None:
        entries: list[dict[str, Any]] = []
        for path in JOURNALS:
            try:
                with Path(path).open("rb") as file:
                    file.seek(self._read.get(path, 0))
                    data = file.read()
            except OSError:
                continue
            whole = data[: data.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in whole.decode(errors="replace").splitlines():
                if any(mark in line for mark in _OF_INTEREST):
                    entries.append(json.loads(line))
        for entry in sorted(entries, key=lambda entry: float(entry["time"])):
            self._heed(entry)

    def _heed(self, entry: dict[str, Any]) -> None:
        moment, pid, name = float(entry["time"]), int(entry["pid"]), str(entry["name"])
        if entry["what"] == "start":
            self.processes[pid] = Process(pid, name, int(entry["context"]), seen=moment)
        elif entry["what"] == "asked-wrongly":
            self.wrongly.append((moment, f"{name} was asked wrongly: {entry['why']}"))
        elif (process := self.processes.get(pid)) is not None:
            if entry["what"] == "ready":
                process.ready = True
            elif entry["held"]:
                process.since = process.since or moment
            else:
                self._let_go(process, moment)

    def _bury(self) -> None:
        now = time.monotonic()
        for pid, process in list(self.processes.items()):
            if _alive(pid):
                process.seen = now
            else:
                self._let_go(process, process.seen)
                del self.processes[pid]

    def _let_go(self, process: Process, moment: float) -> None:
        if process.since is not None:
            if process.name in MODELS:
                self.held.append(Held(process.pid, process.name, process.since, moment))
            process.since = None


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
