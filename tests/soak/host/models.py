"""The models of the soak on a host: which unit runs each, where, and in which device group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROUTER_PORT = 8002
MODELS_FILE = "/etc/llm-router/models.yml"
JOURNALS = ("/var/cache/vllm/journal.jsonl", "/var/cache/sglang/journal.jsonl")
"""What the stand-ins write down; each engine's user can write to its own cache alone."""
COMES_BACK = "vllm@beta.service"
"""A unit that systemd starts again by itself, as an adopted one often is."""


@dataclass(frozen=True)
class Entry:
    """One model; ``sleeps`` is whether its engine can give up its device and stay."""

    backend: str
    unit: str
    port: int
    group: str
    sleeps: bool = False


MODELS: Mapping[str, Entry] = {
    "alpha": Entry("vllm", "vllm@alpha.service", 8101, "one", sleeps=True),
    "beta": Entry("vllm", COMES_BACK, 8102, "one", sleeps=True),
    "gamma": Entry("sglang", "sglang.service", 30000, "one"),
    "delta": Entry("sglang", "sglang.service", 30000, "one"),
    "omega": Entry("vllm", "vllm@omega.service", 8103, "two", sleeps=True),
    "sigma": Entry("sglang", "sglang@sigma.service", 30001, "two", sleeps=True),
}
GROUPS = sorted({entry.group for entry in MODELS.values()})
UNITS = sorted({entry.unit for entry in MODELS.values()})
CONTEXT = 2048

_SLEEP: Mapping[str, Mapping[str, Any]] = {
    "vllm": {"enable-sleep-mode": True},
    "sglang": {"enable-memory-saver": True, "enable-weights-cpu-backup": True},
}
_CONTEXT = {"vllm": "max-model-len", "sglang": "context-length"}


def entry_of(name: str, context: int = CONTEXT, group: str = "") -> dict[str, Any]:
    """A model as models.yml has it; ``group`` is another one than it has at first."""
    model = MODELS[name]
    settings: dict[str, Any] = {_CONTEXT[model.backend]: context}
    if model.sleeps:
        settings |= _SLEEP[model.backend]
    return {
        "backend": model.backend,
        "service": model.unit,
        "port": model.port,
        "group": group or model.group,
        "model_path": f"/srv/models/{name}",
        "settings": settings,
        "timeout": 20,
        "residency": "sleep" if model.sleeps else "stop",
    }


def host_variables(wheels: str) -> dict[str, Any]:
    """What the inventory says of the host. ``wheels`` is the folder with the engines' wheels."""
    made: dict[str, Any] = {
        "llm_router_models": {name: entry_of(name) for name in MODELS},
        "llm_router_max_wait": 2,
        "llm_router_drain_timeout": 4,
        "llm_router_stop_timeout": 5,
        "llm_router_sleep_timeout": 2,
        "llm_router_max_failures": 1000,
        "llm_router_requests": {
            "idle_timeout": 12,
            "client_timeout": 10,
            "shutdown_timeout": 2,
        },
    }
    for engine in ("vllm", "sglang"):
        arguments = "--load 0.4 --tokens 8 --interval 0.02"
        journal = f"/var/cache/{engine}/journal.jsonl"
        made |= {
            f"{engine}_find_links": [wheels],
            f"{engine}_install_arguments": ["--no-index"],
            f"{engine}_packages": ["libnuma1"],
            f"{engine}_python_headers": False,
            f"{engine}_require_gpu": False,
            f"{engine}_stop_timeout": 5,
            f"{engine}_environment": {"STANDIN_ARGS": f"{arguments} --journal {journal}"},
        }
    return {**made, "vllm_sleep": True}
