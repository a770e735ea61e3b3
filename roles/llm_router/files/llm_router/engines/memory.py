"""How much of each GPU a model's own settings ask for. Pure."""

from __future__ import annotations

from llm_router.config.schema import Model


def memory_need(model: Model, option: str | None) -> float | None:
    """The part of a GPU's memory, 0 to 1, that the engine wants to find free when it starts.

    ``option`` is the engine's name for it. None where the model does not set it: the engine's own
    default differs from release to release.
    """
    if option is None:
        return None
    given = model.settings.get(option)
    for index, argument in enumerate(model.args):
        if argument == f"--{option}" and index + 1 < len(model.args):
            given = model.args[index + 1]
        elif argument.startswith(f"--{option}="):
            given = argument.partition("=")[2]
    try:
        part = float(given)  # type: ignore[arg-type]  # what is no number is none
    except (TypeError, ValueError):
        return None
    return part if 0 < part <= 1 else None
