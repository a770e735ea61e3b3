"""Take a finished build over from the account that made it.

    take_over.py stop ACCOUNT
    take_over.py take ACCOUNT DIRECTORY INTERPRETER

`stop` ends every process of ACCOUNT, so that nothing can change a file through a descriptor that
it still holds. `take` does that first, then gives everything below DIRECTORY to the caller (root)
and removes the write permission of all others. DIRECTORY itself is last: while ACCOUNT owns it,
the build is not taken over.

Rejected, without following a link: devices, FIFOs and sockets; files of a third account; links
that lead out of DIRECTORY to anything but INTERPRETER.
"""

from __future__ import annotations

import os
import pwd
import signal
import stat
import sys
import time
from pathlib import Path

DEADLINE = 20.0
"""Seconds in which killed processes must have ended."""


class Rejected(Exception):
    """The build, or the account, is not acceptable."""


def processes(uid: int) -> list[int]:
    """The processes that run as `uid`, by any of their four ids; zombies have no descriptors."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            lines = (process / "status").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue  # it has ended
        status = dict(line.split(":", 1) for line in lines if ":" in line)
        if status["State"].split()[0] not in "ZX" and str(uid) in status["Uid"].split():
            found.append(int(process.name))
    return found


def stop(uid: int, deadline: float = DEADLINE) -> None:
    """Kill every process of `uid`, and wait until none is left."""
    if uid == 0:
        raise Rejected("builds do not run as root; the account must be another one")
    end = time.monotonic() + deadline
    while left := processes(uid):
        if time.monotonic() > end:
            raise Rejected(f"these processes of uid {uid} do not end: {left}")
        child = os.fork()
        if child == 0:
            # One signal to all that this user may signal: no process can fork away from it.
            try:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(uid, uid, uid)
                os.kill(-1, signal.SIGKILL)
            except ProcessLookupError:
                pass
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        time.sleep(0.05)


def take(directory: str, builder: int, interpreter: str) -> None:
    """Give `directory` to the caller, see the module."""
    root = os.path.realpath(directory)
    allowed = os.path.realpath(interpreter)
    own = os.geteuid()
    for folder, names, files, opened in os.fwalk(directory, topdown=True, onerror=_raise):
        for name in names + files:
            path = Path(folder, name)
            seen = os.stat(name, dir_fd=opened, follow_symlinks=False)
            if seen.st_uid not in (builder, own):
                raise Rejected(f"{path} belongs to uid {seen.st_uid}, not to the build's account")
            if stat.S_ISLNK(seen.st_mode):
                target = os.path.realpath(path)
                if target not in (root, allowed) and not target.startswith(root + os.sep):
                    raise Rejected(f"{path} is a link to {target}, which is outside the release")
                os.chown(name, own, os.getegid(), dir_fd=opened, follow_symlinks=False)
            elif stat.S_ISREG(seen.st_mode) or stat.S_ISDIR(seen.st_mode):
                _own(name, opened, own)
            else:
                raise Rejected(f"{path} is neither a file, a directory nor a link")
    _own(directory, None, own)


def _own(name: str, opened: int | None, own: int) -> None:
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=opened)
    try:
        seen = os.fstat(file)
        os.fchown(file, own, os.getegid())
        executable = stat.S_ISDIR(seen.st_mode) or seen.st_mode & stat.S_IXUSR
        os.fchmod(file, 0o755 if executable else 0o644)
    finally:
        os.close(file)


def _raise(error: OSError) -> None:
    raise error


def main(action: str, account: str, *rest: str) -> int:
    """The command line."""
    try:
        uid = pwd.getpwnam(account).pw_uid
    except KeyError:
        if action == "stop":
            return 0  # no account, no processes
        sys.stderr.write(f"there is no account {account}\n")
        return 1
    try:
        stop(uid)
        if action == "take":
            directory, interpreter = rest
            take(directory, uid, interpreter)
    except (Rejected, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
