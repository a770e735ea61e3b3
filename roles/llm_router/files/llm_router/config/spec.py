"""A model as the config writer sees it."""

from __future__ import annotations

from llm_router.config.schema import Config, Model
from llm_router.engine_files import EngineDirs, EngineSpec, spec_of_entry


def spec_of(model: Model, *, api_key: str | None = None, alone: bool = True) -> EngineSpec:
    """What the config writer needs to know of a model.

    ``alone``: whether no other model has a say in what its unit serves.
    """
    entry = model.model_dump(exclude_none=True)
    return spec_of_entry(model.name, entry, api_key=api_key, alone=alone)


def dirs_of(config: Config) -> EngineDirs:
    """Where config.yml says that units read from."""
    return EngineDirs(llamacpp=config.engine_files.llamacpp, etc=config.engine_files.etc)
