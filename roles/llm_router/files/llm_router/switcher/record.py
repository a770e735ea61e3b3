"""Which models' engines were started, and as what: so that they can be stopped as such later.

A model may be taken out of models.yml, or be changed, while its engine runs; and the router may be
restarted before it has noticed. The file says what nobody else would know then.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

from pydantic import ValidationError

from llm_router.config.schema import Model
from llm_router.notes import read_notes, write_notes

log = logging.getLogger(__name__)


class Record:
    """Models by name, kept in a file: see `notes`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.models: dict[str, Model] = {}
        self.ambiguous: set[str] = set()
        """Units for which the file names several models: nobody knows which of them runs."""
        self._last: dict[str, str] = {}
        """By unit: the model that it was last started as, also while it is at rest."""
        try:
            entries = read_notes(path)
            self.models = {name: Model.model_validate(entry) for name, entry in entries.items()}
            units = Counter(model.unit for model in self.models.values())
            self.ambiguous = {unit for unit, count in units.items() if count > 1}
            self._last = {model.unit: name for name, model in self.models.items()}
        except ValidationError as error:
            log.warning("%s cannot be read, and is written anew: %s", path, error)

    def add(self, model: Model) -> None:
        """``model`` is about to be started, or was found running."""
        before = list(self.models.items())
        # a unit runs one model, and the last that was started stands last
        for name in [name for name, other in before if other.unit == model.unit]:
            del self.models[name]
        self.models[model.name] = model
        self._last[model.unit] = model.name
        self.ambiguous.discard(model.unit)
        if list(self.models.items()) != before:
            self._write()

    def of(self, unit: str) -> Model | None:
        """What the unit was started as; None where the record does not say."""
        if unit in self.ambiguous:
            return None
        return next((model for model in self.models.values() if model.unit == unit), None)

    def last(self, unit: str) -> str | None:
        """The model that the unit's files name: nothing has changed them since its last start."""
        return None if unit in self.ambiguous else self._last.get(unit)

    def place(self, unit: str) -> int:
        """The later the unit was started, the higher; -1 where it never was."""
        units = [model.unit for model in self.models.values()]
        return units.index(unit) if unit in units else -1

    def at_rest(self, unit: str) -> None:
        """Nothing runs in the unit: forget what it was started as."""
        names = [name for name, model in self.models.items() if model.unit == unit]
        for name in names:
            del self.models[name]
        self.ambiguous.discard(unit)
        if names:
            self._write()

    def _write(self) -> None:
        entries = {name: model.model_dump(mode="json") for name, model in self.models.items()}
        write_notes(self._path, entries)
