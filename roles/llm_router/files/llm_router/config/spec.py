"""A model as the config writer sees it."""

from __future__ import annotations

from collections.abc import Sequence

from llm_router.config.schema import Config, Model
from llm_router.engine_environment import HostGpu
from llm_router.engine_files import EngineDirs, EngineSpec, spec_of_entry


def spec_of(
    model: Model,
    *,
    api_key: str | None = None,
    alone: bool = True,
    exllamav2: bool = False,
    host: Sequence[HostGpu] | None = None,
) -> EngineSpec:
    """What the config writer needs to know of a model.

    ``alone``: whether no other model has a say in what its unit serves. ``exllamav2``: see
    `has_exllamav2`. ``host``: the GPUs that its own are looked up in, and `SpecError` is raised
    for one that is not there; None: they are not.
    """
    entry = model.model_dump(exclude_none=True)
    return spec_of_entry(
        model.name, entry, api_key=api_key, alone=alone, exllamav2=exllamav2, host=host
    )


def dirs_of(config: Config) -> EngineDirs:
    """Where config.yml says that units read from."""
    return EngineDirs(llamacpp=config.engine_files.llamacpp, etc=config.engine_files.etc)
