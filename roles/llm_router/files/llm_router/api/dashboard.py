"""The dashboard: its files, and the live picture that they draw."""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from llm_router.api.admin import Admin
from llm_router.api.board import Board
from llm_router.api.errors import ApiError

UI = Path(__file__).resolve().parent.parent / "ui"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    # asked for anew each time, and answered with 304: a new release is never half old
    "cache-control": "no-cache",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

pages = APIRouter(include_in_schema=False)
router = APIRouter(prefix="/admin")


@pages.get("/")
@pages.get("/ui")
async def page(request: Request) -> Response:
    """The dashboard. It holds nothing but itself: what it shows it asks the admin API for."""
    return await file(request, "index.html")


@pages.get("/ui/")
async def with_a_slash() -> Response:
    """The page's own links are relative."""
    return RedirectResponse("../ui")


@pages.get("/ui/{name}")
async def file(request: Request, name: str) -> Response:
    """One of the page's files."""
    found = _file(name)
    if found is None:
        raise ApiError(404, "not_found", f"The dashboard has no file {name[:100]!r}.")
    content, kind, etag = found
    headers = {**_HEADERS, "etag": etag}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)


def _file(name: str) -> tuple[bytes, str, str] | None:
    """A file's content, type and tag. Strangers may ask for it: a thread for each request would
    take the interpreter from the event loop."""
    if name not in _names():
        return None
    path = UI / name
    return _content(path, path.stat().st_mtime_ns)


@cache
def _names() -> frozenset[str]:
    return frozenset(path.name for path in UI.iterdir() if path.suffix in _TYPES)


@lru_cache(maxsize=64)
def _content(path: Path, changed: int) -> tuple[bytes, str, str]:
    content = path.read_bytes()
    return content, _TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:16]}"'


@router.get("/live")
async def live(request: Request, services: Admin) -> StreamingResponse:
    """The state of everything as server-sent events: a ``snapshot``, then ``delta`` after
    ``delta`` with what changed, five a second at most. For the dashboard: its form may change."""
    board: Board = request.app.state.board
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(board.follow(), media_type="text/event-stream", headers=headers)


@router.get("/recent")
async def recent(
    services: Admin, limit: Annotated[int, Query(ge=1, le=10_000)] = 50
) -> dict[str, Any]:
    """The last requests that ended, newest first; what they asked only with ``recent.capture``."""
    newest = list(reversed(services.activity.recent))
    return {"requests": newest[:limit]}


@router.get("/series")
async def series(request: Request, services: Admin) -> dict[str, Any]:
    """Ten minutes of figures, a point a second, oldest first: seconds since the epoch, tokens per
    second, median time to the first token (s), requests that wait and that are answered, and by
    GPU percent of memory and of time."""
    board: Board = request.app.state.board
    fields = ["time", "tokens_per_second", "ttft", "waiting", "answering"]
    return {"fields": [*fields, "gpu_memory", "gpu_utilization"], "points": board.points}


@router.get("/gpus")
async def gpus(services: Admin) -> dict[str, Any]:
    """The host's NVIDIA GPUs: memory in bytes, use in percent. None where there is no driver."""
    return {"gpus": services.gpus.latest}
