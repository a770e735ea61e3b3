"""The proxy that one usually writes: a FastAPI route and httpx. One of those that are compared.

BENCH_ENGINE=http://127.0.0.1:PORT uvicorn bench.usual:app
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

app = FastAPI()
client = httpx.AsyncClient(
    base_url=os.environ.get("BENCH_ENGINE", ""),
    timeout=httpx.Timeout(600),
    limits=httpx.Limits(max_connections=None, max_keepalive_connections=1000),
)


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    """Route by the body's model, and pass on what comes."""
    body = await request.json()
    if body["model"] != "bench":
        return Response(json.dumps({"error": {"message": "unknown model"}}), status_code=404)
    sent = client.build_request("POST", "/v1/chat/completions", json=body)
    answer = await client.send(sent, stream=True)
    kind = answer.headers.get("content-type")
    if not body.get("stream"):
        return Response(await answer.aread(), answer.status_code, media_type=kind)

    async def pieces() -> AsyncIterator[bytes]:
        try:
            async for piece in answer.aiter_bytes():
                yield piece
        finally:
            await answer.aclose()

    return StreamingResponse(pieces(), answer.status_code, media_type=kind)
