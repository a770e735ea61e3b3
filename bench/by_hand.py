"""The same switch without a router: what the engines alone take for it.

Each does one after the other what a switch does, and looks for readiness every millisecond.
"""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

LOOK = 0.001
WITHIN = 30.0
WARM_UP = {"prompt": "Hi", "max_tokens": 1, "stream": False}


class Engine:
    """A stand-in, as ``entry`` of models.yml has it."""

    def __init__(self, name: str, entry: dict[str, Any], probes: Sequence[str]) -> None:
        self._name = name
        self._argv = [str(part) for part in entry["command"]]
        self._port = int(entry["port"])
        self._probes = probes
        self._process: subprocess.Popen[bytes] | None = None
        self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)

    def start(self) -> None:
        """Start it and wait for its first token."""
        self._process = subprocess.Popen(
            self._argv, stdout=subprocess.DEVNULL, start_new_session=True
        )
        until = time.monotonic() + WITHIN
        while not self._answers():
            if time.monotonic() > until:
                raise TimeoutError(f"{self._name} is not ready within {WITHIN:g} s")
            time.sleep(LOOK)
        self.first_token()

    def first_token(self) -> None:
        self.post("/v1/completions", {"model": self._name, **WARM_UP})

    def ready(self) -> None:
        """All probes, once; for one that is ready."""
        if not self._answers():
            raise RuntimeError(f"{self._name} is not ready")

    def post(self, path: str, body: Any = None) -> None:
        """Raises RuntimeError for what is not 200."""
        text = json.dumps(body)
        self._connection.request("POST", path, text, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path} of {self._name} answers {answer.status}")

    def stop(self) -> None:
        """SIGTERM, and wait until it is gone."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(WITHIN)
            self._process = None
        self._connection.close()

    def _answers(self) -> bool:
        for probe in self._probes:
            try:
                self._connection.request("GET", probe)
                answer = self._connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                self._connection.close()
                return False
            if answer.status != 200:
                return False
        return True
