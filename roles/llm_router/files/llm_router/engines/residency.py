"""How an engine gives up its GPU without ending, and takes it back. Descriptions.

The calls are those of engines.md §G. Some of them end the engine when they come at the wrong time:
the switcher makes them only after a drain, and takes back only what it knows to be asleep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llm_router.config.schema import Model
from llm_router.engines.tabby_load import UNSAID

Policy = Literal["sleep", "discard", "unload"]
"""What becomes of a model that has to go, short of its engine's end.

``sleep``: its weights stay in the host's memory. ``discard``: they are read from disk again, but
the process stays, with all that its start took. ``unload``: the engine stays, without a model.
"""


def _nothing(_: Model) -> Any:
    return None


@dataclass(frozen=True)
class Call:
    """One POST. It is done when its answer is 200 and, of an event stream, no event is an error."""

    path: str
    body: Callable[[Model], Any] = _nothing


@dataclass(frozen=True)
class Residency:
    """``out`` frees the device, ``back`` takes it again: calls, in order.

    ``flags``: the options without which the engine refuses.
    """

    out: tuple[Call, ...]
    back: tuple[Call, ...]
    flags: tuple[str, ...] = ()


def started_with(model: Model, flags: tuple[str, ...]) -> bool:
    """Whether models.yml says that the engine has all of these long options."""
    return all(model.settings.get(flag) is True or f"--{flag}" in model.args for flag in flags)


VLLM: Mapping[Policy, Residency] = {
    # `mode`: its default aborts what runs
    "sleep": Residency(
        (Call("/sleep?level=1&mode=wait"),), (Call("/wake_up"),), ("enable-sleep-mode",)
    ),
    "discard": Residency(
        (Call("/sleep?level=2&mode=wait"),),
        (
            Call("/wake_up?tags=weights"),
            Call("/collective_rpc", lambda _: {"method": "reload_weights"}),
            Call("/wake_up?tags=kv_cache"),
            Call("/reset_prefix_cache"),
        ),
        ("enable-sleep-mode",),
    ),
}

_RELEASE = Call("/release_memory_occupation", lambda _: {})
_RESUME = Call("/resume_memory_occupation", lambda _: {})

SGLANG: Mapping[Policy, Residency] = {
    "sleep": Residency(
        (_RELEASE,), (_RESUME,), ("enable-memory-saver", "enable-weights-cpu-backup")
    ),
    "discard": Residency(
        (_RELEASE,),
        (
            _RESUME,
            Call("/update_weights_from_disk", lambda model: {"model_path": model.model_path}),
        ),
        ("enable-memory-saver",),
    ),
}

TABBY: Mapping[Policy, Residency] = {
    "unload": Residency(
        (Call("/v1/model/unload"),),
        (Call("/v1/model/load", lambda model: {"model_name": model.upstream_name, **UNSAID}),),
    )
}
