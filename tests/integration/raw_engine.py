"""An engine that answers a test's own bytes: ``raw_engine.py PORT NAME ANSWER``.

It lists NAME, gives a first token, and answers each other request with what the file ANSWER has,
head and body, and closes the connection.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

PORT, NAME, ANSWER = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
OWN = {"data": [{"id": NAME}], "choices": [{"text": "x"}]}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request on one connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        size = re.search(rb"(?i)content-length: (\d+)", head)
        body = await reader.readexactly(int(size[1]) if size else 0)
        if head.startswith(b"GET /v1/models") or b'"prompt":"Hi"' in body.replace(b" ", b""):
            answer = json.dumps(OWN).encode()
            length = f"content-length: {len(answer)}\r\n"
            writer.write(f"HTTP/1.1 200 OK\r\n{length}\r\n".encode() + answer)
        else:
            writer.write(ANSWER.read_bytes())
        await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    writer.close()


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.start_server(serve, "127.0.0.1", PORT)
    await server.serve_forever()


asyncio.run(main())
