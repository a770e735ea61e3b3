"""Other routers' configurations, as models.yml says the same. Nothing of a file is ever run."""

from __future__ import annotations

import os
from pathlib import Path

from llm_router.discovery.commands import Launch
from llm_router.discovery.identity import acting_as
from llm_router.discovery.proposal import Proposal
from llm_router.discovery.survey import engines, started_by
from llm_router.foreign.errors import Unreadable
from llm_router.foreign.llama_swap import is_llama_swap, read_llama_swap
from llm_router.foreign.mapping import find_mapping, read_mapping, read_python
from llm_router.foreign.yaml_file import Units, read_yaml

MAX_FILE = 1 << 22


def read_foreign(path: Path, units: Units) -> Proposal:
    """The models of the file, and in ``notes`` what could not be carried over.

    A llama-swap config.yaml; or an older router's mapping of models, in a Python file as ``MODELS``
    or in a config.json. ``units``: what is to run the engines. Raises `Unreadable`.
    """
    try:
        with path.open("rb") as file:
            owner = os.fstat(file.fileno()).st_uid
            data = file.read(MAX_FILE + 1)
        text = data.decode("utf-8-sig") if len(data) <= MAX_FILE else ""
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not UTF-8 at byte {error.start}") from error
    if len(data) > MAX_FILE:
        raise Unreadable(f"has more than {MAX_FILE} bytes, too many for a configuration file")

    def started(script: str) -> Launch | None:
        # the file names the script: its owner is shown nothing that he may not read himself, also
        # where he has put a link to root's file in its place meanwhile
        with acting_as(str(owner)):
            return started_by(script)

    if path.suffix == ".py":
        models, notes = read_python(text)
        return read_mapping(models, notes, engines(), started)
    document = read_yaml(text)
    if is_llama_swap(document):
        return read_llama_swap(document, units, path.parent)
    models, notes = find_mapping(document)
    return read_mapping(models, notes, engines(), started)


__all__ = ["Units", "Unreadable", "read_foreign"]
