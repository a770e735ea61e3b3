"""The router's side of the helper's protocol."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio

from llm_router.helper.protocol import (
    MAX_ANSWER,
    MAX_TIMEOUT,
    ProtocolError,
    Request,
    decode_answer,
    encode_request,
)
from llm_router.units.base import ManagerUnavailable, UnitError

ACTIVATE_TIMEOUT = 60.0
PREWARM_TIMEOUT = 900.0
LOGS_TIMEOUT = 20.0
START_MARGIN = 15.0
STOP_MARGIN = 40.0
"""Seconds beyond a stop's own timeout: what SIGKILL and processes left behind may take."""


class HelperClient:
    """Asks the helper. Every call has a deadline and raises `UnitError` with one sentence, which is
    a `ManagerUnavailable` where the host is at fault."""

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path

    async def activate(self, model: str) -> bool:
        """Whether a file changed."""
        answer = await self._ask(Request("activate", model), ACTIVATE_TIMEOUT)
        return answer.get("changed") is True

    async def check(self, model: str) -> str:
        """Whether the files could be written: nothing is, and it raises as `activate` would.

        Why an engine that stays must be restarted for the model; empty if it need not."""
        answer = await self._ask(Request("activate", model, check=True), ACTIVATE_TIMEOUT)
        reason = answer.get("restart")
        return reason if isinstance(reason, str) else ""

    async def prewarm(self, model: str) -> int:
        """Bytes of the model's weights that were read; ends when it is cancelled."""
        answer = await self._ask(Request("prewarm", model), PREWARM_TIMEOUT)
        size = answer.get("bytes")
        return size if isinstance(size, int) else 0

    async def start(self, model: str, seconds: float) -> None:
        """Start the model's unit; ``seconds`` is what systemd's job may take."""
        timeout = _allowed(seconds)
        await self._ask(Request("start", model, timeout=timeout), timeout + START_MARGIN)

    async def stop(self, model: str, seconds: float) -> None:
        """Stop the model's unit, by force past ``seconds``."""
        timeout = _allowed(seconds)
        await self._ask(Request("stop", model, timeout=timeout), timeout + STOP_MARGIN)

    async def logs(self, model: str, lines: int, since: float | None = None) -> list[str]:
        """The unit's last lines, oldest first; none before ``since``, seconds since 1970."""
        answer = await self._ask(Request("logs", model, lines=lines, since=since), LOGS_TIMEOUT)
        found = answer.get("lines")
        return [str(line) for line in found] if isinstance(found, list) else []

    async def _ask(self, request: Request, deadline: float) -> dict[str, Any]:
        try:
            with anyio.fail_after(deadline):
                # a helper that ends (idle, an upgrade) at this very moment drops the connection;
                # every verb is safe to repeat, and systemd starts the next helper
                line = await self._exchange(request) or await self._exchange(request)
                answer = decode_answer(line)
        except TimeoutError as error:
            raise ManagerUnavailable(
                f"the helper did not {_DOING[request.verb]} {request.model} within {deadline:g} s"
            ) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ManagerUnavailable(
                f"the helper cannot be reached at {self._path} ({reason}); "
                "see `systemctl status llm-router-helper.socket`"
            ) from error
        except ProtocolError as error:
            raise ManagerUnavailable(
                f"the helper gave no answer for {request.model} ({error}); "
                "see `journalctl -u llm-router-helper`"
            ) from error
        if not answer["ok"]:
            if answer.get("kind") == "host":
                raise ManagerUnavailable(answer["error"])
            raise UnitError(answer["error"])
        return answer

    async def _exchange(self, request: Request) -> bytes:
        """The answer's line; empty if the helper closed the connection without one."""
        reader, writer = await asyncio.open_unix_connection(self._path, limit=MAX_ANSWER)
        try:
            writer.write(encode_request(request))
            await writer.drain()
            return await reader.readline()
        except (BrokenPipeError, ConnectionResetError):
            return b""
        finally:
            writer.close()


_DOING = {
    "activate": "activate",
    "prewarm": "read the weights of",
    "start": "start",
    "stop": "stop",
    "logs": "read the log of",
}


def _allowed(seconds: float) -> float:
    """What the protocol takes; a deadline that has just passed still gets its moment."""
    return min(max(seconds, 0.1), MAX_TIMEOUT)
