"""The admin API over the router's UNIX socket.

The standard library's HTTP client: the one that the router itself uses takes a third of a second
to import, which is longer than any of these calls.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlencode

from llm_router.cli.exits import Exit, Failed
from llm_router.json_codec import STRICT, json_text

PROMPT = 30.0
"""Seconds within which calls that wait for nothing must be answered."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("router", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class AdminClient:
    """Calls of the admin API; ``path`` is the socket's."""

    def __init__(self, path: str) -> None:
        self.path = path

    def call(
        self,
        method: str,
        target: str,
        *,
        query: dict[str, Any] | None = None,
        body: dict[str, Any] | None = None,
        timeout: float | None = PROMPT,
    ) -> dict[str, Any]:
        """The answer. ``timeout``: seconds, None to wait for ever.

        Raises `Failed`: with `Exit.UNREACHABLE` when the router does not answer, with
        `Exit.TIMEOUT` when it says that what was asked takes longer than the caller would wait.
        """
        if query is not None:
            target += "?" + urlencode(_as_text(query))
        content = None if body is None else json_text(_as_text(body))
        connection = _Connection(self.path, timeout)
        try:
            connection.request(method, target, content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            status, text = answer.status, answer.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()
        return _read(status, text)

    def _unreachable(self, error: Exception) -> Failed:
        if isinstance(error, PermissionError):
            message = f"{self.path} is for root and the router's user: run this as root"
        elif isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
            message = f"the router does not run ({self.path}); see systemctl status llm-router"
        else:
            reason = str(error) or type(error).__name__
            message = (
                f"the router does not answer on {self.path}: {reason}; "
                "see systemctl status llm-router"
            )
        return Failed(message, Exit.UNREACHABLE, {"code": "router_unreachable"})


def _as_text(values: dict[str, Any]) -> dict[str, Any]:
    """``values`` with texts that can be sent. Python keeps bytes of the command line that are not
    of the locale's encoding as half characters; nearly always they are UTF-8."""
    return {
        name: value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        if isinstance(value, str)
        else value
        for name, value in values.items()
    }


def _read(status: int, text: str) -> dict[str, Any]:
    try:
        body = json.loads(text, **STRICT)
    except ValueError:
        body = None
    if isinstance(body, dict):
        if status < 400:
            return body
        error = body.get("error")
        if isinstance(error, dict) and "message" in error:
            late = error.get("code") in ("switch_timeout", "drain_timeout")
            raise Failed(
                str(error["message"]),
                Exit.TIMEOUT if late else Exit.NOT_DONE,
                error,
                error.get("log_lines"),
            )
    raise Failed(f"the router gave an answer that is not its own: HTTP {status}, {text[:200]!r}")
