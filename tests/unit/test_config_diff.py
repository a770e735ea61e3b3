"""What a new configuration changes, and what must wait for a restart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_router.config.diff import Changes, compare, without_restart
from llm_router.config.load import Settings
from llm_router.config.schema import ApiKey, Config, Model

HERE = Path("/nowhere")


def settings(models: dict[str, dict[str, Any]] | None = None, **config: Any) -> Settings:
    made = {
        name: Model.model_validate({"name": name, "backend": "vllm", **entry})
        for name, entry in (models or {}).items()
    }
    return Settings(Config.model_validate(config), made, (), HERE, HERE, HERE)


def test_the_same_again_is_no_change() -> None:
    made = settings({"a": {"args": ["x"]}}, scheduler={"max_wait": 5})
    assert not compare(made, made)
    assert compare(made, made) == Changes()


def test_models_by_what_became_of_them() -> None:
    old = settings({"gone": {}, "same": {}, "live": {"ttl": 5}, "engine": {"args": ["1"]}})
    new = settings({"new": {}, "same": {}, "live": {"ttl": 6}, "engine": {"args": ["2"]}})
    changes = compare(old, new)
    assert changes
    assert changes.added == ("new",)
    assert changes.removed == ("gone",)
    assert changes.updated == ("live",)
    assert changes.relaunch == ("engine",)


def test_names_and_parameters_are_the_routers_own_matter() -> None:
    after = {
        "aliases": ["b"],
        "variants": {"c": {"force": {"seed": 1}}},
        "defaults": {"temperature": 0.5},
        "force": {"top_k": 1},
        "strip": ["logit_bias"],
        "context_length": 4096,
        "display_name": "A",
        "description": "Good at it",
        "tags": ["chat"],
        "upstream_paths": ["GET /x"],
    }
    changes = compare(settings({"a": {}}), settings({"a": after}))
    assert changes.updated == ("a",)
    assert changes.relaunch == ()


def test_a_change_of_both_kinds_is_the_engines() -> None:
    changes = compare(settings({"a": {"ttl": 5}}), settings({"a": {"ttl": 6, "port": 1}}))
    assert changes.relaunch == ("a",)
    assert changes.updated == ()


def test_what_a_running_router_cannot_change_is_named_and_stays() -> None:
    old = settings(listen={"port": 1}, scheduler={"max_wait": 5})
    new = settings(
        listen={"port": 2},
        scheduler={"max_wait": 6},
        requests={"client_timeout": 1, "keepalive": 2},
    )
    changes = compare(old, new)
    assert changes.config == ("scheduler.max_wait", "requests.keepalive")
    assert changes.restart == ("listen.port", "requests.client_timeout")
    made = without_restart(old.config, new.config)
    assert made.listen.port == 1
    assert made.requests.client_timeout == old.config.requests.client_timeout
    assert made.requests.keepalive == 2
    assert made.scheduler.max_wait == 6


def test_keys() -> None:
    old = settings()
    key = ApiKey(name="x", sha256="0" * 64)
    assert compare(old, replace(old, keys=(key,))).keys
