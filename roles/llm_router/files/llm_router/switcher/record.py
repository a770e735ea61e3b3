"""Which models' engines were started, and as what: so that they can be stopped as such later.

A model may be taken out of models.yml, or be changed, while its engine runs; and the router may be
restarted before it has noticed. The file says what nobody else would know then.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

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
        for name, entry in read_notes(path).items():
            model = _read(name, entry)
            if model is None:
                log.warning("%s: the entry of %r cannot be read, and is left out", path, name)
            else:
                self.models[name] = model
        units = Counter(model.unit for model in self.models.values())
        self.ambiguous = {unit for unit, count in units.items() if count > 1}
        self._last = {model.unit: name for name, model in self.models.items()}

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


def _read(name: str, entry: Any) -> Model | None:
    """What another release, or an earlier configuration, has written of a model.

    A key or a value that is unknown here is left out: after a rollback the engine of a later
    release must still be stopped as what it was started as. None without what that takes.
    """
    if not isinstance(entry, dict):
        return None
    known = {key: value for key, value in entry.items() if key in Model.model_fields}
    known["name"] = name
    try:
        return Model.model_validate(known)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_context=False, include_input=False):
            known.pop(str(problem["loc"][0]), None)
    known["name"] = name
    try:
        return Model.model_validate(known)
    except ValidationError:
        return None
