"""The router's configuration: config.yml, models.yml and keys.yml, checked before use."""

from llm_router.config.errors import ConfigError, Problem
from llm_router.config.load import Settings, load_settings
from llm_router.config.schema import ApiKey, Config, Model, StatusStyle

__all__ = [
    "ApiKey",
    "Config",
    "ConfigError",
    "Model",
    "Problem",
    "Settings",
    "StatusStyle",
    "load_settings",
]
