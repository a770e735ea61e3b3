"""Whether TabbyAPI's load API would give a model what a start gives it. Pure.

``POST /v1/model/load`` does not look at config.yml's ``model:`` and ``draft_model:`` sections: of
these it takes only what `model.use_as_default` names, with the values that the process was started
with, and the first ``model_dir``. A model's tabby_config.yml counts there as at a start. Read in
e632af4 and 79126f9 (`common/model.py`, `endpoints/core/utils/model.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

_OF_THE_SERVER = frozenset(
    (
        "model_dir",
        "model_name",
        "inline_model_loading",
        "use_dummy_models",
        "dummy_model_names",
        "use_as_default",
        "draft_model_dir",
    )
)
"""Keys that are no settings of a model, and the directory that the API takes from config.yml."""
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "model": {
        "cache_mode": "FP16",
        "tensor_parallel": False,
        "tensor_parallel_backend": "native",
        "gpu_split_auto": True,
        "autosplit_reserve": [96],
        "gpu_split": [],
        "cpu_moe_offload_layers": 0,
        "rope_scale": 1.0,
        "chunk_size": 2048,
        "output_chunking": True,
        "vision": False,
        "template_vars_default": {},
        "template_vars_force": {},
        "force_enable_thinking": False,
        "reasoning": False,
        "reasoning_start_token": "<think>",
        "reasoning_end_token": "</think>",
        "start_in_reasoning": "auto",
        "tool_calls_in_reasoning": True,
    },
    "draft_model": {
        "draft_mode": "model",
        "draft_rope_scale": 1.0,
        "draft_cache_mode": "FP16",
        "draft_gpu_split": [],
        "dynamic_draft": False,
        "ngram_match_min": 2,
    },
}
"""What a model has at a start and over the API alike where nobody says more (config_models.py)."""
UNSAID: Mapping[str, None] = dict.fromkeys(
    ("gpu_split", "tensor_parallel_backend", "output_chunking")
)
"""A load request that leaves these out sends TabbyAPI's own defaults for them, which win over
`use_as_default`; null does not."""


def lost_over_the_api(config: Mapping[str, Any], own: Collection[str]) -> list[str]:
    """The settings of config.yml, such as ``model.cache_mode``, that a load over the API would
    not have. ``own``: settings that the model's tabby_config.yml says, whichever way it is loaded.
    """
    found = []
    model = _section(config, "model")
    listed = model.get("use_as_default")
    kept = {str(each) for each in listed} if isinstance(listed, list) else set()
    for name, defaults in DEFAULTS.items():
        for key, value in _section(config, name).items():
            here = f"{name}.{key}"
            if key in kept or key in _OF_THE_SERVER or here in own or value is None:
                continue
            if key not in defaults or value != defaults[key]:
                found.append(here)
    return found


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    return section if isinstance(section, Mapping) else {}
