"""YAML and JSON files of others, as plain values."""

from __future__ import annotations

from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from llm_router.foreign.errors import Unreadable
from llm_router.yaml_bounds import YamlBoundError, bound

Units = Literal["systemd", "child"]
MOST_VALUES = 50_000
"""Values of such a file: the one with most models has some 2,000."""


def read_yaml(text: str) -> dict[str, Any]:
    """The document, which must be a mapping. Raises `Unreadable`."""
    try:
        document = bound(YAML(typ="safe", pure=True), MOST_VALUES).load(text)
    except YamlBoundError as error:
        raise Unreadable(f"line {error.problem_mark.line + 1}: has {error.problem}") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" in line {mark.line + 1}" if mark else ""
        raise Unreadable(f"is not valid YAML{line}: {error.problem or error.context}") from error
    except (YAMLError, ValueError) as error:
        raise Unreadable(f"is not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(document, dict):
        raise Unreadable("is not a mapping of keys to values")
    return document
