"""Which models sleep, as far as anybody can be sure of it: kept over restarts of the router.

An engine that is between awake and asleep, because a call to it is under way or went wrong, is
noted as unsure before the call is made. What is unsure is restarted and never called again: a
second release, or a resume of what is awake, would end some engines and confuse others.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

from llm_router.engines.residency import Policy
from llm_router.notes import read_notes, write_notes
from llm_router.switcher.residency import Sleeper

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Sleepers:
    """By unit. A unit whose main process is another one is not what was put to sleep."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._boot = _boot_id()
        self._asleep: dict[str, Sleeper] = {}
        self._unsure: set[str] = set()
        self._slept: dict[str, str] = {}
        """By model: what its engine was, when it first slept since the boot."""
        notes = read_notes(path)
        if notes.get("boot") != self._boot:
            return
        unsure, asleep, slept = (notes.get(key) for key in ("unsure", "asleep", "slept"))
        if isinstance(unsure, list):
            self._unsure = {str(unit) for unit in unsure}
        for entry in asleep if isinstance(asleep, list) else ():
            self._take(entry)
        if isinstance(slept, dict):
            self._slept = {str(model): str(launch) for model, launch in slept.items()}

    def _take(self, entry: Any) -> None:
        """An entry that this or another release has written. Of one that is not understood, nobody
        knows how its unit would be woken."""
        unit = entry.get("unit") if isinstance(entry, dict) else None
        if not isinstance(unit, str):
            return
        known = {one.name: entry.get(one.name) for one in fields(Sleeper)}
        numbers = all(
            isinstance(known[key], (int, float)) for key in ("main_pid", "memory", "since")
        )
        if numbers and isinstance(known["model"], str) and known["policy"] in get_args(Policy):
            self._asleep[unit] = Sleeper(**known)
        else:
            self._unsure.add(unit)

    def all(self) -> list[Sleeper]:
        """All that sleep."""
        return list(self._asleep.values())

    def names(self) -> set[str]:
        """The models that sleep."""
        return {sleeper.model for sleeper in self._asleep.values()}

    def find(self, unit: str, main_pid: int) -> Sleeper | None:
        """Who sleeps in the unit, if that is still the process that fell asleep."""
        sleeper = self._asleep.get(unit)
        if sleeper is not None and sleeper.main_pid != main_pid:
            self.forget(unit)
            return None
        return sleeper

    def is_unsure(self, unit: str) -> bool:
        """Whether nobody knows if the unit's engine sleeps."""
        return unit in self._unsure

    def unsure(self, unit: str) -> None:
        """From here until `add` or `awake`, nobody knows."""
        self._asleep.pop(unit, None)
        self._unsure.add(unit)
        self._write()

    def has_slept(self, model: str, launch: str) -> bool:
        """Whether the model slept since the boot, as the same engine; it need not do so now."""
        return self._slept.get(model) == launch

    def add(self, sleeper: Sleeper, launch: str) -> None:
        """It sleeps; ``launch`` as `config.diff.launch_id` says."""
        self._slept[sleeper.model] = launch
        self._unsure.discard(sleeper.unit)
        self._asleep[sleeper.unit] = sleeper
        self._write()

    def forget(self, unit: str) -> None:
        """The unit's engine is awake, or is no more."""
        before = self._asleep.pop(unit, None)
        if before is not None or unit in self._unsure:
            self._unsure.discard(unit)
            self._write()

    def _write(self) -> None:
        asleep = [asdict(sleeper) for sleeper in self._asleep.values()]
        notes = {"boot": self._boot, "asleep": asleep, "unsure": sorted(self._unsure)}
        write_notes(self._path, {**notes, "slept": self._slept})


def _boot_id() -> str:
    """A process id means nothing after the next boot."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
