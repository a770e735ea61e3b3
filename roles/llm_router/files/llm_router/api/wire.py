"""JSON as bytes, whatever strange text a client or an engine put into it."""

from __future__ import annotations

import json
from typing import Any

_encode = json.JSONEncoder(ensure_ascii=False).encode


def to_json(value: Any) -> bytes:
    """``value`` as UTF-8; escaped where a lone surrogate would make that impossible."""
    try:
        return _encode(value).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()


def event(value: Any) -> bytes:
    """``value`` as one server-sent event."""
    return b"data: " + to_json(value) + b"\n\n"
