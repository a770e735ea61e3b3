"""Activation: from a model to the files that its unit reads."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llm_router import yaml_edit
from llm_router.config.load import Settings
from llm_router.config.schema import Config, Model
from llm_router.config.spec import dirs_of, spec_of
from llm_router.engine_files import (
    config_path,
    desired_files,
    has_exllamav2,
    read_key,
    tabby_settings,
)
from llm_router.engine_keys import key_file
from llm_router.engines.tabby_load import lost_over_the_api
from llm_router.file_edits import EngineFileError, FileResult, apply, read
from llm_router.model_gpus import gpus_for, see_that_no_other_group_has


def activate(
    names: Iterable[str], models: Mapping[str, Model], config: Config, check: bool = False
) -> list[FileResult]:
    """Write what the units of ``names`` read; with ``check``, only say what would change.

    ``models`` are all that there are. Blocks on the disk. Raises `EngineFileError`, and then
    nothing was written for any model whose files could not be worked out.
    """
    users = Counter(model.unit for model in models.values())
    dirs = dirs_of(config)
    host = gpus_for(models)
    edits = []
    for name in names:
        model = models[name]
        see_that_no_other_group_has(model, models, host)
        key = read_key(key_file(model, config))
        old = _has_exllamav2(model, models)
        alone = users[model.unit] == 1
        spec = spec_of(model, api_key=key, alone=alone, exllamav2=old, host=host)
        edits += desired_files(spec, dirs)
    return apply(edits, check)


def _has_exllamav2(model: Model, models: Mapping[str, Model]) -> bool:
    folders = [other.model_path for other in models.values() if other.unit == model.unit]
    return model.backend == "tabby" and has_exllamav2(model.unit, folders)


def why_restart(model: Model, models: Mapping[str, Model], config: Config) -> str:
    """Why a TabbyAPI that stays must be restarted for ``model`` all the same: its load API would
    give it other settings than a start, or another folder. Empty where it may load it so.

    Blocks on the disk. Raises `EngineFileError`.
    """
    same = [other for other in models.values() if other.unit == model.unit]
    if model.backend != "tabby" or all(other.residency != "unload" for other in same):
        return ""
    folders = [other.model_path for other in same if other.model_path]
    places = sorted({os.path.dirname(path.rstrip("/")) for path in folders})  # noqa: PTH120
    if len(places) > 1:
        return (
            f"the models of {model.unit} are in {' and '.join(places)}, and TabbyAPI loads from "
            "the directory that it was started with; put them into one, or set `residency: stop`"
        )
    if _has_exllamav2(model, models) and any(other.settings for other in same):
        return (
            "this version of TabbyAPI, with ExLlamaV2, reads a model's settings only at its start; "
            "set `residency: stop`"
        )
    path = config_path(spec_of(model), dirs_of(config))
    try:
        written = yaml_edit.mapping((read(Path(path)) if path else None) or "")
    except yaml_edit.YamlError as error:
        raise EngineFileError(f"{path}:{error.line}: {error.problem}") from error
    own = [".".join(each.path) for each in tabby_settings(spec_of(model))]
    lost = lost_over_the_api(written, own)
    if not lost:
        return ""
    names = ", ".join(name.partition(".")[2] for name in lost)
    return (
        f"TabbyAPI takes {', '.join(lost)} of {path} only at its start; add {names} to "
        "`use_as_default:` in its section `model:`, or set `residency: stop`"
    )


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
        names = [model.name for model in provisioned(settings.models)]
    else:
        unknown = [name for name in names if name not in settings.models]
        if unknown:
            known = ", ".join(settings.models) or "none"
            raise EngineFileError(f"there is no model {unknown[0]!r}; known models: {known}")
    results = activate(names, settings.models, settings.config, check)
    return {
        "changed": any(result.changed for result in results),
        "files": [
            {"path": result.path, "changed": result.changed, "diff": result.diff}
            for result in results
        ],
    }
