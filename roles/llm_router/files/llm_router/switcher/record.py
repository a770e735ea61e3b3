"""Which models' engines were started, and as what: so that they can be stopped as such later.

A model may be taken out of models.yml, or be changed, while its engine runs; and the router may be
restarted before it has noticed. The file says what nobody else would know then.
"""

from __future__ import annotations

import logging
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
        try:
            entries = read_notes(path)
            self.models = {name: Model.model_validate(entry) for name, entry in entries.items()}
        except ValidationError as error:
            log.warning("%s cannot be read, and is written anew: %s", path, error)

    def add(self, model: Model) -> None:
        """``model`` is about to be started, or was found running."""
        if self.models.get(model.name) != model:
            self.models[model.name] = model
            self._write()

    def remove(self, name: str) -> None:
        """The model's engine is stopped."""
        if self.models.pop(name, None) is not None:
            self._write()

    def _write(self) -> None:
        entries = {name: model.model_dump(mode="json") for name, model in self.models.items()}
        write_notes(self._path, entries)
