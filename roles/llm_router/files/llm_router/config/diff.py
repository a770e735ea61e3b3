"""What a new configuration changes. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from llm_router.config.load import Settings
from llm_router.config.schema import Config, Model
from llm_router.json_codec import json_text

LIVE_MODEL_KEYS = frozenset(
    {
        "status",
        "timeout",
        "ttl",
        "preload",
        "residency",
        "warm_up",
        "repairs",
        "aliases",
        "variants",
        "defaults",
        "force",
        "strip",
        "context_length",
        "display_name",
        "description",
        "tags",
        "upstream_paths",
    }
)
"""What the router itself goes by; any other key is the engine's, and asks for its restart."""

RESTART_KEYS = (
    "listen",
    "units",
    "models_file",
    "keys_file",
    "state_dir",
    "admin_socket",
    "helper_socket",
    "llamacpp_binary",
    "recent.keep",
    "requests.client_timeout",
    "requests.header_timeout",
    "requests.max_connections",
    "requests.shutdown_timeout",
)
"""What a running router cannot change about itself."""


@dataclass(frozen=True)
class Changes:
    """Names of models, and dotted keys of config.yml.

    ``restart``: changed too, but not before the router is restarted.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    relaunch: tuple[str, ...] = ()
    """Models whose engine must be started anew to serve as they are now."""
    updated: tuple[str, ...] = ()
    """Models of which only what the router itself goes by is new."""
    config: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    keys: bool = False
    """Whether API keys changed."""

    def __bool__(self) -> bool:
        return any((self.added, self.removed, self.relaunch, self.updated, self.config, self.keys))


def compare(old: Settings, new: Settings) -> Changes:
    """What would change if ``new`` took the place of ``old``."""
    both = [name for name in new.models if name in old.models]
    different = {name: _different(old.models[name], new.models[name]) for name in both}
    config = [*_leaves(old.config, new.config)]
    restart = tuple(key for key in config if _needs_restart(key))
    return Changes(
        added=tuple(name for name in new.models if name not in old.models),
        removed=tuple(name for name in old.models if name not in new.models),
        relaunch=tuple(n for n in both if needs_relaunch(old.models[n], new.models[n])),
        updated=tuple(n for n in both if different[n] and different[n] <= LIVE_MODEL_KEYS),
        config=tuple(key for key in config if key not in restart),
        restart=restart,
        keys=old.keys != new.keys,
    )


def needs_relaunch(old: Model, new: Model | None) -> bool:
    """Whether an engine that was started as ``old`` is not what ``new`` asks for."""
    return new is None or bool(_different(old, new) - LIVE_MODEL_KEYS)


def launch_id(model: Model) -> str:
    """12 hex digits of all that its engine is started with: others, when that changes."""
    values = model.model_dump(mode="json", exclude=set(LIVE_MODEL_KEYS))
    return hashlib.sha256(json_text(values, sort_keys=True).encode()).hexdigest()[:12]


def without_restart(old: Config, new: Config) -> Config:
    """``new``, but what needs a restart stays as in ``old``."""
    made: Any = new
    for key in RESTART_KEYS:
        section, _, leaf = key.partition(".")
        if leaf:
            kept = getattr(getattr(old, section), leaf)
            made = made.model_copy(
                update={section: getattr(made, section).model_copy(update={leaf: kept})}
            )
        else:
            made = made.model_copy(update={section: getattr(old, section)})
    return Config.model_validate(made)


def _needs_restart(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in RESTART_KEYS)


def _different(old: Model, new: Model) -> set[str]:
    if old == new:  # nearly all of a thousand models, and twenty times as fast
        return set()
    return {name for name in type(new).model_fields if getattr(old, name) != getattr(new, name)}


def _leaves(old: BaseModel, new: BaseModel, prefix: str = "") -> list[str]:
    """The dotted names of all values that are not the same."""
    found: list[str] = []
    for name, field in type(new).model_fields.items():
        before, after = getattr(old, name), getattr(new, name)
        key = prefix + (field.alias or name)
        if isinstance(before, BaseModel) and isinstance(after, BaseModel):
            found += _leaves(before, after, f"{key}.")
        elif before != after:
            found.append(key)
    return found
