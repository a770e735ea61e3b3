"""JSON on the wire: see `llm_router.json_codec`; and server-sent events made of it."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from llm_router.json_codec import from_json, to_json

__all__ = ["event", "from_json", "to_json"]


class JsonResponse(JSONResponse):
    """An answer of FastAPI's routes, with `to_json`."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return to_json(content)


def event(value: Any) -> bytes:
    """``value`` as one server-sent event. Raises ValueError, as `to_json` does."""
    return b"data: " + to_json(value) + b"\n\n"
