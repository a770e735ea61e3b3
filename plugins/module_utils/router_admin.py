"""The router's admin API, over its socket on the host. Standard library only."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any, Optional
from urllib.parse import quote

SOCKET = "/run/llm-router/admin.sock"
QUICK = 30.0
"""Seconds for what the router can say at once."""

_UNIT = "llm-router.service"
_MORE = "see `journalctl -u llm-router`."


class RouterError(Exception):
    """The router cannot be asked, or said no. The message is one sentence for a person."""

    def __init__(self, message: str, log_lines: Optional[list[str]] = None) -> None:
        super().__init__(message)
        self.log_lines = log_lines or []


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: Optional[float]) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def call(
    path: str, timeout: Optional[float], method: str, target: str, body: Any = None
) -> dict[str, Any]:
    """One request to the admin API over the socket at ``path``. Raises `RouterError`."""
    connection = _UnixConnection(path, timeout)
    try:
        connection.request(
            method,
            target,
            body=None if body is None else json.dumps(body),
            headers={"Content-Type": "application/json", "Accept": "application/json"},
        )
        response = connection.getresponse()
        status, text = response.status, response.read().decode("utf-8", "replace")
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise RouterError(f"{_UNIT} is not running on this host ({path}); {_MORE}") from error
    except PermissionError as error:
        raise RouterError(f"{path} is for root and llm-router: set `become: true`.") from error
    except TimeoutError as error:
        raise RouterError(f"{_UNIT} did not answer within {timeout:g} s; {_MORE}") from error
    except (OSError, http.client.HTTPException) as error:
        raise RouterError(f"{_UNIT} broke the connection off ({error!r}); {_MORE}") from error
    finally:
        connection.close()
    return _answer(status, text)


def status(path: str) -> dict[str, Any]:
    """Models, groups and running switches. Raises `RouterError`."""
    return call(path, QUICK, "GET", "/admin/status")


def plan(path: str, model: str) -> dict[str, Any]:
    """What a request for ``model`` would do now. Raises `RouterError`."""
    return call(path, QUICK, "GET", "/admin/plan?model=" + quote(model, safe=""))


def unload_plan(path: str, group: str) -> dict[str, Any]:
    """What unloading ``group`` would do now. Raises `RouterError`."""
    return call(path, QUICK, "GET", "/admin/plan?group=" + quote(group, safe=""))


def _answer(status: int, text: str) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        # /health is 503 with a full answer when the router cannot do its work
        problem = answer.get("error")
        if problem is None and (status < 400 or "current_model" in answer):
            return answer
        if isinstance(problem, dict) and problem.get("message"):
            raise RouterError(str(problem["message"]), problem.get("log_lines"))
    raise RouterError(
        f"{_UNIT} gave an answer that is not the router's (HTTP {status}, {text[:200]!r}); {_MORE}"
    )
