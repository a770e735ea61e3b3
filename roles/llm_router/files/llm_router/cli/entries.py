"""models.yml as text: how an entry is added, and how one is taken away. Pure.

Whatever is not the entry itself keeps every byte: see `llm_router.yaml_edit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_router import yaml_edit
from llm_router.yaml_edit import NotEditable, YamlError

__all__ = ["NotEditable", "YamlError", "add", "names", "remove"]


def names(text: str) -> list[str]:
    """The models' names, in the file's order, unchecked. Raises `YamlError`."""
    return [str(name) for name in _models(text)]


def add(text: str, name: str, fields: Mapping[str, Any]) -> str:
    """The text with an entry ``name`` behind the last one. The name must not be there yet.

    ``fields``: text, numbers, booleans and lists of text. Raises `NotEditable` and `YamlError`.
    """
    return yaml_edit.set_value(text, ("models", name), dict(fields))


def remove(text: str, name: str) -> str:
    """The text without the entry ``name``. Raises KeyError when it is not there, and what `add`
    raises."""
    return yaml_edit.remove(text, ("models", name))


def _models(text: str) -> dict[str, Any]:
    document = yaml_edit.load(text)
    models = document.get("models") if isinstance(document, dict) else None
    return dict(models) if isinstance(models, dict) else {}
