"""Which GPUs of this host the models list, and that no two groups list the same one."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from llm_router.config.schema import Model
from llm_router.engine_environment import HostGpu, UnknownGpu, resolve
from llm_router.file_edits import EngineFileError
from llm_router.host_gpus import read_host_gpus


def gpus_for(models: Mapping[str, Model]) -> list[HostGpu]:
    """The GPUs of this host if one of ``models`` lists some; else nobody asks. Blocks on files."""
    return read_host_gpus() if any(model.gpus for model in models.values()) else []


def notes_on_groups(models: Mapping[str, Model]) -> list[str]:
    """Groups whose engines see the GPUs of other groups, because they list none: right for models
    on the CPU, and else a forgotten key or a misspelled group."""
    listed = list(dict.fromkeys(model.group for model in models.values() if model.gpus))
    found: dict[str, str] = {}
    for name, model in models.items():
        others = [group for group in listed if group != model.group]
        if others and not model.gpus and model.group not in found:
            found[model.group] = (
                f"model {name} in group {model.group} lists no GPUs, so its engine sees all, also "
                f"those of group {', '.join(others)}; check its `group:`, or list its `gpus:`"
            )
    return list(found.values())


def see_that_no_other_group_has(
    model: Model, models: Mapping[str, Model], host: Sequence[HostGpu]
) -> None:
    """Two groups run side by side: a GPU is one group's, by whichever of its names it is listed.

    Raises `EngineFileError`.
    """
    mine = _listed(model, host)
    for other in models.values() if mine else ():
        both = mine & _listed(other, host) if other.group != model.group else frozenset()
        if both:
            raise EngineFileError(
                f"model {model.name}: gpus has the GPU {min(both)}, which {other.name} in group "
                f"{other.group} uses too; give both models one `group:`, or other GPUs"
            )


def _listed(model: Model, host: Sequence[HostGpu]) -> frozenset[str]:
    """Each GPU that it lists, by one name; none that is not there."""
    found = set()
    for gpu in model.gpus:
        with contextlib.suppress(UnknownGpu):
            found |= {one.uuid or one.address for one in resolve([gpu], host)}
    return frozenset(found)
