"""A unit's last log lines."""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast

import anyio

from llm_router.helper.protocol import MAX_LINE_LENGTH

TIMEOUT = 10.0
MAX_BYTES = 8 << 20


class JournalError(Exception):
    """The journal cannot be read; the message is one sentence."""


async def read_journal(unit: str, lines: int, since: float | None = None) -> list[str]:
    """The unit's last messages, oldest first, each cut at `MAX_LINE_LENGTH` characters.

    ``since``: none before that, in seconds since 1970.
    """
    from_then = () if since is None else (f"--since=@{since:.6f}",)
    process = await asyncio.create_subprocess_exec(
        "journalctl",
        *(f"--unit={unit}", f"--lines={lines}", "--output=cat", "--no-pager", "--quiet"),
        *from_then,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        with anyio.fail_after(TIMEOUT):
            output = await _at_most(cast(asyncio.StreamReader, process.stdout), MAX_BYTES)
            status = await process.wait()
    except TimeoutError as error:
        raise JournalError(f"journalctl did not answer within {TIMEOUT:g} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            with anyio.CancelScope(shield=True):
                await process.wait()
    if status != 0:
        raise JournalError(f"journalctl failed with exit status {status}")
    text = output.decode(errors="replace")
    return [line[:MAX_LINE_LENGTH] for line in text.splitlines()[-lines:]]


async def _at_most(stream: asyncio.StreamReader, limit: int) -> bytes:
    """All of the stream; what is beyond the limit is read and dropped, the newest is kept."""
    data = bytearray()
    while chunk := await stream.read(1 << 16):
        data += chunk
        del data[:-limit]
    return bytes(data)
