"""Commands with progress: whoever runs the tool sees what it does and that it is still alive."""

from __future__ import annotations

import contextlib
import fcntl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from .names import HostError

HEARTBEAT = 8.0
"""Seconds of silence after which a waiting step says that it still waits."""


def say(text: str) -> None:
    """One progress line, on stderr: stdout belongs to what a command was asked to print."""
    print(f"hosts: {text}", file=sys.stderr, flush=True)


def output(argv: Sequence[str], *, stdin: str | None = None) -> str:
    """Standard output of a short command; HostError with its last words if it fails."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines()
        reason = words[-1] if words else f"exit status {done.returncode}"
        raise HostError(f"{' '.join(argv[:4])} failed: {reason}")
    return done.stdout


def succeeds(argv: Sequence[str]) -> bool:
    """Whether a short command exits 0; what it prints is thrown away."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError:
        return False
    return done.returncode == 0


def run_long(what: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
    """Run a command that takes long, with a heartbeat; its output is shown only if it fails."""
    start = time.monotonic()
    say(f"{what} …")
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env
        )
        try:
            while (status := _wait(process)) is None:
                say(f"{what}: {time.monotonic() - start:.0f} s{_last_line(log.fileno())}")
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if status != 0:
            log.seek(0)
            for line in log.read().splitlines()[-30:]:
                say(f"  | {line}")
            raise HostError(f"{what} failed: {argv[0]} ended with status {status}")
    say(f"{what}: done in {time.monotonic() - start:.1f} s")


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(timeout=HEARTBEAT)
    except subprocess.TimeoutExpired:
        return None


def _last_line(descriptor: int) -> str:
    # Through /proc, so that reading does not move the file position that the command writes at.
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/self/fd/{descriptor}").read_bytes()[-400:].decode(errors="replace")
        words = [line.strip() for line in lines.replace("\r", "\n").splitlines() if line.strip()]
        if words:
            return f" ({words[-1][:80]})"
    return ""


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold an exclusive lock on a file, saying so while another process has it.

    The kernel lets go of it when the holder dies, however it dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        start = said = time.monotonic()
        waited = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                now = time.monotonic()
                if (not waited and now - start > 1) or now - said > HEARTBEAT:
                    say(f"waiting for another process: {what} ({now - start:.0f} s)")
                    waited, said = True, now
                time.sleep(0.1)
        yield


def wait_until(what: str, ready: Callable[[], bool], *, seconds: float, pause: float) -> None:
    """Poll an observed fact; HostError when it does not come true within `seconds`."""
    start = said = time.monotonic()
    while not ready():
        now = time.monotonic()
        if now - start > seconds:
            raise HostError(f"{what}: not within {seconds:.0f} s")
        if now - said > HEARTBEAT:
            say(f"{what}: {now - start:.0f} s")
            said = now
        time.sleep(pause)
