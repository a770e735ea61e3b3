"""A program at a terminal, as a person has it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from typing_extensions import Self


class Terminal:
    """A context manager; the program is killed at its end."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        columns: int = 80,
        rows: int = 24,
    ) -> None:
        self._master, slave = pty.openpty()
        self._shown = ""
        self._resize(slave, columns, rows)
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**env, "TERM": "xterm"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            # its own session, with this as its terminal: Ctrl-C and Ctrl-Z arrive as signals
            preexec_fn=lambda: _own(slave),  # noqa: PLW1509 - it makes two system calls
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def resize(self, columns: int, rows: int) -> None:
        """The window's new size."""
        self._resize(self._master, columns, rows)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def read_until(self, pattern: str, seconds: float = 20.0) -> str:
        """What is shown up to a match of ``pattern``; fails the test when there is none."""
        until = time.monotonic() + seconds
        while (found := re.search(pattern, self._shown, re.DOTALL)) is None:
            if not self._read(until):
                pytest.fail(f"{pattern!r} did not come: …{self._shown[-2000:]!r}")
        seen, self._shown = self._shown[: found.end()], self._shown[found.end() :]
        return seen

    def read_rest(self, seconds: float = 20.0) -> str:
        """What is shown until the program ends."""
        until = time.monotonic() + seconds
        while self._read(until):
            pass
        if time.monotonic() >= until:
            pytest.fail(f"the program goes on: …{self._shown[-2000:]!r}")
        return self._shown

    def _read(self, until: float) -> bool:
        """Whether there was more before the program's end, and before ``until``."""
        left = max(0.0, until - time.monotonic())
        if not select.select([self._master], [], [], left)[0]:
            return False
        try:
            piece = os.read(self._master, 65536)
        except OSError:  # Linux's way to say that nobody has the terminal open any more
            return False
        self._shown += piece.decode(errors="replace")
        return True

    @staticmethod
    def _resize(descriptor: int, columns: int, rows: int) -> None:
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _own(descriptor: int) -> None:
    os.setsid()
    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
