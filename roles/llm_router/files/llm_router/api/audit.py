"""Log lines for calls that administer and for refused keys; strangers cannot raise their rate."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from llm_router.logs import Event as Line

log = logging.getLogger(__name__)

CALLER = "llm_router.caller"
"""The key of the caller's name in a request's ASGI scope."""
BURST, EVERY = 20, 5.0
"""Lines for refused keys at once, and seconds for each further one."""
_READS_LOGS = ("/admin/logs", "/admin/recent")


def address_of(scope: Mapping[str, Any]) -> str:
    """Where a request comes from; ``socket`` for the admin socket."""
    client = scope.get("client")
    return str(client[0]) if client else "socket"


class Audit:
    """Times are seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left, self._since = float(BURST), clock()
        self._suppressed = 0

    def answered(self, scope: Mapping[str, Any], status: int) -> None:
        """Take note of an answer that is no proxied one."""
        path, method = scope["path"], scope["method"]
        if status == 401:
            if self.may_note_refusal():
                fields = {"from": address_of(scope), "method": method, "path": path[:200]}
                log.warning(Line("key_refused", {**fields, "suppressed": self._suppressed or None}))
                self._suppressed = 0
        elif path.startswith("/admin/") and (
            method not in ("GET", "HEAD") or path in _READS_LOGS or status == 403
        ):
            who = scope.get(CALLER)
            fields = {"key": who, "from": address_of(scope), "method": method, "path": path[:200]}
            log.info(Line("admin_call", {**fields, "status": status}))

    def may_note_refusal(self) -> bool:
        """Whether one more line about a refused key may be written; if not, it is counted."""
        now = self._clock()
        self._left = min(float(BURST), self._left + (now - self._since) / EVERY)
        self._since = now
        if self._left < 1:
            self._suppressed += 1
            return False
        self._left -= 1
        return True
