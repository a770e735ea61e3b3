"""A model as the config writer sees it."""

from __future__ import annotations

from llm_router.config.schema import DEFAULT_PORTS, Config, Model
from llm_router.engine_files import EngineDirs, EngineSpec


def spec_of(model: Model, *, api_key: str | None = None, alone: bool = True) -> EngineSpec:
    """What the config writer needs to know of a model.

    ``alone``: whether no other model has a say in what its unit serves.
    """
    return EngineSpec(
        name=model.name,
        backend=model.backend,
        unit=model.unit,
        model_path=model.model_path,
        model_name=model.model_name,
        args=tuple(model.args),
        port=model.port or DEFAULT_PORTS.get(model.backend),
        script=model.script,
        settings=model.settings,
        config_file=model.config_file,
        api_key=api_key,
        alone=alone,
    )


def dirs_of(config: Config) -> EngineDirs:
    """Where config.yml says that units read from."""
    return EngineDirs(llamacpp=config.engine_files.llamacpp, etc=config.engine_files.etc)
