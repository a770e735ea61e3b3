"""The parameters in a request's body: the router's own, and what models.yml says of them. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from llm_router.config.schema import Parameters

_DURATION = re.compile(r"(-?\d+(?:\.\d+)?)(ms|s|m|h|d|)")
_UNITS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def keep_alive(value: Any) -> float | None:
    """How long a model shall stay loaded after the request, in seconds; None when nothing is said.

    As Ollama's clients say it: a number of seconds, or text such as ``5m`` or ``24h``; 0 unloads at
    once, below 0 means for ever. Raises ValueError; for a number that is not finite too.
    """
    if value is None:
        return None
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            raise ValueError(value)
        seconds = float(match[1]) * _UNITS[match[2]]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
    else:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(value)
    return seconds if seconds >= 0 else math.inf


def shaped(body: Mapping[str, Any], *layers: Parameters) -> dict[str, Any]:
    """A new request body, as ``layers`` would have it; the first layer's word is last.

    What any layer strips is gone from what the client sent; then defaults stand where nothing
    does, and forced values in any case.
    """
    stripped = {key for layer in layers for key in layer.strip}
    made = {key: value for key, value in body.items() if key not in stripped}
    for layer in layers:
        for key, value in layer.defaults.items():
            made.setdefault(key, value)
    for layer in reversed(layers):
        made.update(layer.force)
    return made
