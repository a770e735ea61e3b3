"""Which units were started for which models: these may be stopped, whatever models.yml says now.

An operator takes a model out of models.yml while its engine runs. The router must be able to stop
that engine, and still no unit that root has not named. So root remembers what it has started.
"""

from __future__ import annotations

from pathlib import Path

from llm_router.notes import read_notes, write_notes


class Started:
    """Units by model, in a file that root alone can write; None keeps them in memory."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        entries = read_notes(path) if path is not None else {}
        # of a later release's entries only those that are units
        self._units = {name: unit for name, unit in entries.items() if isinstance(unit, str)}

    def get(self, model: str) -> str | None:
        """The unit that was started for ``model`` and has not been stopped since."""
        return self._units.get(model)

    def add(self, model: str, unit: str) -> None:
        """``unit`` is about to be started for ``model``."""
        if self._units.get(model) != unit:
            self._units[model] = unit
            self._write()

    def remove(self, model: str) -> None:
        """The unit of ``model`` is stopped."""
        if self._units.pop(model, None) is not None:
            self._write()

    def _write(self) -> None:
        if self._path is not None:
            write_notes(self._path, self._units)
