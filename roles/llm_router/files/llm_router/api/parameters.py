"""The router's own parameters in a request's body. Pure."""

from __future__ import annotations

import math
import re
from typing import Any

_DURATION = re.compile(r"(-?\d+(?:\.\d+)?)(ms|s|m|h|d|)")
_UNITS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def keep_alive(value: Any) -> float | None:
    """How long a model shall stay loaded after the request, in seconds; None when nothing is said.

    As Ollama's clients say it: a number of seconds, or text such as ``5m`` or ``24h``; 0 unloads at
    once, below 0 means for ever. Raises ValueError.
    """
    if value is None:
        return None
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            raise ValueError(value)
        seconds = float(match[1]) * _UNITS[match[2]]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        seconds = math.nan
    if math.isnan(seconds):
        raise ValueError(value)
    return seconds if seconds >= 0 else math.inf
