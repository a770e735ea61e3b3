"""What the demo says while it works: every line with the seconds since its start."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

START = time.monotonic()
HEARTBEAT = 10.0
TASK = re.compile(r"^(?:TASK|RUNNING HANDLER) \[(?:roundhouse\.llm\.)?(.+?)\]")
PLAY = re.compile(r"^PLAY \[(.+?)\]")
RECAP = re.compile(r"^(\S+)\s+: (ok=\d+\s+changed=\d+\s+unreachable=\d+\s+failed=\d+)")


class DemoError(Exception):
    """What was wrong, where, and what to do about it, for a person."""


def say(text: str) -> None:
    print(f"{time.monotonic() - START:4.0f} s  {text}", flush=True)


class Ticker:
    """Shows what runs now: on a terminal a line that counts, elsewhere a line now and then."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._changed = time.monotonic()
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._terminal = sys.stdout.isatty()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Ticker:
        if not self._terminal:
            say(self._text)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self._clear()

    def now(self, text: str) -> None:
        """Another thing runs now; the one before stays on the screen if it took its time."""
        with self._lock:
            self._clear()
            if time.monotonic() - self._changed >= 1:
                say(f"{self._text} ({time.monotonic() - self._changed:.0f} s)")
            self._text, self._changed = text, time.monotonic()

    def _tick(self) -> None:
        while not self._done.wait(0.2 if self._terminal else HEARTBEAT):
            with self._lock:
                if self._terminal:
                    line = f"{time.monotonic() - START:4.0f} s  {self._text}"
                    print(
                        f"\r\033[K{line[: shutil.get_terminal_size().columns - 1]}",
                        end="",
                        flush=True,
                    )
                else:
                    say(f"{self._text} ...")

    def _clear(self) -> None:
        if self._terminal:
            print("\r\033[K", end="", flush=True)


def playbook(argv: Sequence[str], environment: Mapping[str, str], log: Path) -> str:
    """Run ansible-playbook, its tasks as one moving line; returns its recap."""
    recap = "no host was reached"
    with log.open("w") as out, Ticker("site.yml: starting") as ticker:
        process = subprocess.Popen(
            argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None  # noqa: S101 (for the type checker: it is a pipe)
        for line in process.stdout:
            out.write(line)
            if found := TASK.match(line) or PLAY.match(line):
                ticker.now(f"site.yml: {found[1]}")
            elif found := RECAP.match(line):
                recap = re.sub(r"\s+", " ", found[2])
        code = process.wait()
    if code:
        tail = "\n".join(log.read_text().splitlines()[-30:])
        raise DemoError(
            f"{tail}\n\nplaybooks/site.yml failed (exit {code}); all it said is in {log}"
        )
    return recap
