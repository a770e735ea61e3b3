"""The helper's own reading of config.yml and models.yml: root's files, or no files at all."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from llm_router.config.errors import ConfigError
from llm_router.config.load import load_config, load_models
from llm_router.config.schema import Config, Model


class CatalogError(Exception):
    """The configuration cannot be trusted or used; the message is one sentence."""


@dataclass(frozen=True)
class Contents:
    """What the files say."""

    config: Config
    models: dict[str, Model]


class Catalog:
    """Reads the files anew whenever one of them was changed or replaced.

    ``owner`` is the user who must own the files and their directories; only a test has another
    than root. The methods block on the disk: call them in a thread.
    """

    def __init__(self, config_path: Path, owner: int = 0) -> None:
        self._config_path = config_path
        self._owner = owner
        self._stamp: tuple[object, ...] = ()
        self._models_path: Path | None = None
        self._contents: Contents | None = None

    def read(self) -> Contents:
        """Raises `CatalogError`."""
        if self._contents is not None and self._models_path is not None:
            if self._stamp == (self._check(self._config_path), self._check(self._models_path)):
                return self._contents
        self._contents = None
        config_stamp = self._check(self._config_path)
        try:
            config = load_config(self._config_path)
            if config.units != "systemd":
                raise CatalogError(f"{self._config_path} says `units: {config.units}`, not systemd")
            models_path = self._config_path.parent / config.models_file
            # before reading: a change in between is then seen the next time
            models_stamp = self._check(models_path)
            models = load_models(models_path, config)
        except ConfigError as error:
            raise CatalogError(str(error.problems[0])) from error
        self._models_path, self._stamp = models_path, (config_stamp, models_stamp)
        self._contents = Contents(config, models)
        return self._contents

    def _check(self, path: Path) -> tuple[int, ...]:
        """What changes whenever the file does. Raises `CatalogError` if others could change it."""
        try:
            real = path.resolve(strict=True)
            for place in dict.fromkeys((path.parent, real.parent, real)):
                self._check_owner(place)
            status = real.stat()
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise CatalogError(f"{path} cannot be read: {reason}") from error
        return (
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )

    def _check_owner(self, place: Path) -> None:
        status = place.stat()
        if status.st_uid != self._owner:
            raise CatalogError(
                f"{place} belongs to user {status.st_uid}, so the helper does not believe it: "
                f"`chown root {place}`"
            )
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise CatalogError(
                f"{place} can be written by others than its owner, so the helper does not believe "
                f"it: `chmod go-w {place}`"
            )
