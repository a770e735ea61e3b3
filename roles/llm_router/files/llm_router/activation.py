"""Activation: from a model to the files that its unit reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from llm_router.config.load import Settings
from llm_router.config.schema import DEFAULT_PORTS, Config, Model
from llm_router.engine_files import (
    EngineDirs,
    EngineFileError,
    EngineSpec,
    FileResult,
    apply,
    desired_files,
)


def spec_of(model: Model) -> EngineSpec:
    """What the config writer needs to know of a model."""
    return EngineSpec(
        name=model.name,
        backend=model.backend,
        unit=model.unit,
        model_path=model.model_path,
        model_name=model.model_name,
        args=tuple(model.args),
        port=model.port or DEFAULT_PORTS.get(model.backend),
        script=model.script,
    )


def dirs_of(config: Config) -> EngineDirs:
    """Where config.yml says that units read from."""
    return EngineDirs(llamacpp=config.engine_files.llamacpp)


def activate(models: Iterable[Model], dirs: EngineDirs, check: bool = False) -> list[FileResult]:
    """Write what the models' units read; with ``check``, only say what would change.

    Blocks on the disk. Raises `EngineFileError`, and then nothing was written for any model whose
    files could not be worked out.
    """
    edits = [edit for model in models for edit in desired_files(spec_of(model), dirs)]
    return apply(edits, check)


def provisioned(models: dict[str, Model]) -> list[Model]:
    """The models whose files can be written ahead of time: those on whose unit no other has a say.

    What a shared unit runs is decided by each switch; to write it from here would change the model
    under a unit that runs, or make the last one in the file the one that starts at boot.
    """
    users = Counter(model.unit for model in models.values())
    return [model for model in models.values() if users[model.unit] == 1]


def run_activate(
    settings: Settings, names: list[str] | None, check: bool = False
) -> dict[str, Any]:
    """``llm-router activate``: the answer in the form of its ``--json``.

    ``names`` None means all that can be written ahead of time (see `provisioned`). systemd is not
    told to reload; the helper sees to that before it starts a unit. Raises `EngineFileError`.
    """
    if names is None:
        models = provisioned(settings.models)
    else:
        unknown = [name for name in names if name not in settings.models]
        if unknown:
            known = ", ".join(settings.models) or "none"
            raise EngineFileError(f"there is no model {unknown[0]!r}; known models: {known}")
        models = [settings.models[name] for name in names]
    results = activate(models, dirs_of(settings.config), check)
    return {
        "changed": any(result.changed for result in results),
        "files": [
            {"path": result.path, "changed": result.changed, "diff": result.diff}
            for result in results
        ],
    }
