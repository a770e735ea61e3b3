"""JSON as bytes, whatever strange text a client or an engine put into it."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import JSONResponse

_encode = json.JSONEncoder(ensure_ascii=False).encode
_decode = json.JSONDecoder().decode


def from_json(data: bytes | bytearray) -> Any:
    """What ``data`` says: `json.loads`, without its look at the encoding where it is UTF-8.

    Raises ValueError, RecursionError.
    """
    try:
        return _decode(data.decode())
    except ValueError:
        return json.loads(data)  # with a byte order mark, or wrong; then it says where


def to_json(value: Any) -> bytes:
    """``value`` as UTF-8; escaped where a lone surrogate would make that impossible."""
    try:
        return _encode(value).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()


class JsonResponse(JSONResponse):
    """An answer of FastAPI's routes, with `to_json`."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return to_json(content)


def event(value: Any) -> bytes:
    """``value`` as one server-sent event."""
    return b"data: " + to_json(value) + b"\n\n"
