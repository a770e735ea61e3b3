"""A unit's last log lines."""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast

import anyio

TIMEOUT = 10.0
MAX_BYTES = 8 << 20


class JournalError(Exception):
    """The journal cannot be read; the message is one sentence."""


async def read_journal(unit: str, lines: int, since: float | None = None) -> list[str]:
    """The unit's last messages, oldest first, as they were logged: keys may be in them.

    ``since``: none before that, in seconds since 1970.
    """
    # before 254, journalctl gives the first lines since then, not the last: the newest go first
    from_then = () if since is None else ("--reverse", f"--since=@{since:.6f}")
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
            stream = cast(asyncio.StreamReader, process.stdout)
            output, cut = await _at_most(stream, MAX_BYTES, newest_first=since is not None)
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
    found = text.splitlines()
    if cut:  # in the middle of a line, and perhaps of a key
        found = found[1:] if since is None else found[:-1]
    return found[-lines:] if since is None else found[:lines][::-1]


async def _at_most(
    stream: asyncio.StreamReader, limit: int, *, newest_first: bool
) -> tuple[bytes, bool]:
    """The stream, and whether it was cut: beyond the limit, the newest bytes are kept."""
    data, cut = bytearray(), False
    while chunk := await stream.read(1 << 16):
        data += chunk
        cut = cut or len(data) > limit
        if newest_first:
            del data[limit:]
        else:
            del data[:-limit]
    return bytes(data), cut
