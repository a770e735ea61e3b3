"""The keys by which the router is let in by its engines: where they are, and what they are now."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path

from llm_router.config.schema import Config, Model
from llm_router.engine_environment import is_secret
from llm_router.engine_files import EngineFileError, read_key

log = logging.getLogger(__name__)


def key_file(model: Model, config: Config) -> str | None:
    """The file with the key of the model's engine; None where there is none to be."""
    named: str | None = getattr(config.engine_keys, model.backend)
    return model.api_key_file or named


def known_keys(models: Mapping[str, Model], config: Config) -> frozenset[str]:
    """The keys of all engines, as their files are now; none of a file that cannot be read. With
    them what models' ``environment`` has of keys and passwords.

    Blocks on the disk.
    """
    found: set[str | None] = {
        value
        for model in models.values()
        for name, value in model.environment.items()
        if is_secret(name)
    }
    for path in {key_file(model, config) for model in models.values()} - {None}:
        with contextlib.suppress(EngineFileError):
            found.add(read_key(path))
    return frozenset(key for key in found if key is not None)


class EngineKeys:
    """The headers that let a request in, by the files as they are now.

    A request costs one look at a file's date.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, ...], dict[str, str]]] = {}

    def headers(self, model: Model, config: Config) -> dict[str, str]:
        """What a request to the model's engine needs. Empty where there is no key, and where it
        cannot be read: the log says so, and the engine will refuse."""
        path = key_file(model, config)
        if path is None:
            return {}
        stamp = _stamp(path)
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            known = self._known[path] = (stamp, _read(path))
        return known[1]

    def shown(self, model: Model, config: Config) -> str:
        """For a person: which key an engine was shown."""
        path = key_file(model, config)
        if path is None:
            return "it was shown no key, as none is named by `api_key_file` or `engine_keys`"
        if not self.headers(model, config):
            return f"it was shown no key, as there is none in {path}"
        return f"it was shown the key in {path}"


def _stamp(path: str) -> tuple[int, ...]:
    try:
        status = Path(path).stat()
    except OSError as error:
        return (error.errno or 0,)
    return status.st_mtime_ns, status.st_ino, status.st_size, status.st_mode, status.st_gid


def _read(path: str) -> dict[str, str]:
    try:
        key = read_key(path)
    except EngineFileError as error:
        log.warning("%s", error)
        return {}
    return {"authorization": f"Bearer {key}"} if key is not None else {}
