"""Every name that a client may use, and what it stands for. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from llm_router.config.schema import Model, ModelEntry, Parameters

Entry = TypeVar("Entry", bound=ModelEntry)


@dataclass(frozen=True)
class Name(Generic[Entry]):
    """``model`` is the entry's own name; ``place`` is where models.yml says this one."""

    name: str
    model: str
    entry: Entry
    place: tuple[str | int, ...]
    variant: Parameters | None = None


def names_of(models: Mapping[str, Entry]) -> Iterator[Name[Entry]]:
    """All names: the models' own first, so that no alias can take one."""
    for model, entry in models.items():
        yield Name(model, model, entry, ("models", model))
    for model, entry in models.items():
        for index, alias in enumerate(entry.aliases):
            yield Name(alias, model, entry, ("models", model, "aliases", index))
        for name, variant in entry.variants.items():
            yield Name(name, model, entry, ("models", model, "variants", name), variant)


def find(models: Mapping[str, Model], name: str) -> Name[Model] | None:
    """What ``name`` stands for; None where nothing has it."""
    model = models.get(name)
    if model is not None:
        return Name(name, name, model, ("models", name))
    return next((known for known in names_of(models) if known.name == name), None)
