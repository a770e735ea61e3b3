"""Paths through directories of other users, walked by descriptor from ``/``.

Root that follows such a path by its name can be sent anywhere: a user who owns a directory on the
way replaces it by a link between the check and the use. Here each directory is opened below the
one before it, and everything after that is relative to the descriptor:

* the directories belong to root, to the calling user, or all to one other user, who also owns the
  file where it is not root's. Nobody gains from this path what he could not do himself;
* nobody but the owner and the group may write to a directory, except where it is sticky (/tmp);
* a symbolic link is followed where root or the calling user made it in a directory of its own;
* a FIFO or a device never blocks, and is refused.

For the target's Python (>= 3.9), since Ansible modules import this file. Standard library only.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from types import TracebackType

MAX_LINKS = 40
_WALK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class PathRefused(PermissionError):
    """Another user could direct this path elsewhere; ``strerror`` is a sentence for a person."""

    def __init__(self, sentence: str) -> None:
        super().__init__(errno.EPERM, sentence)

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass
class Place:
    """A name in a directory that is held open. A context manager, which closes it."""

    directory: int
    """Descriptor of the directory."""
    name: str
    path: str
    """For messages."""
    other: Optional[int]
    """The user who owns directories on the way, where that is neither root nor the caller."""

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the directory; once more does no harm."""
        if self.directory >= 0:
            os.close(self.directory)
            self.directory = -1

    def status(self) -> os.stat_result:
        """Of the name itself, a link not followed. Raises OSError."""
        return os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)

    def open(self) -> int:
        """The regular file, for reading. Raises `PathRefused` and OSError."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        mode = self.status().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.path)
        if not stat.S_ISREG(mode):  # to open a device may do something
            raise PathRefused(f"{self.path} is not a regular file; move it away")
        descriptor = os.open(self.name, flags, dir_fd=self.directory)
        try:
            self._check(os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _check(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise PathRefused(f"{self.path} is not a regular file; move it away")
        owner = status.st_uid
        if self.other is not None and owner not in (*_trusted(), self.other):
            raise PathRefused(
                f"{self.path} belongs to {user_name(owner)} and lies in a directory of "
                f"{user_name(self.other)}; give both to one user"
            )
        # a user's second name for a file of somebody else's
        if status.st_nlink > 1 and owner != os.fstat(self.directory).st_uid:
            raise PathRefused(
                f"{self.path} has a second name (a hard link) and another owner than its "
                "directory; replace it by a copy"
            )


def user_name(uid: int) -> str:
    """The account's name, or ``user 1234``."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def find(path: str, *, follow: bool = False) -> Place:
    """The last name of an absolute path, in its directory; it need not exist.

    ``follow``: whether the name may be a link (of root's or the caller's). Raises `PathRefused`,
    and OSError where a directory is missing.
    """
    pending = _parts(path)
    current = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    other: Optional[int] = None
    shown, links = "/", 0
    try:
        other = _next_owner(os.fstat(current), shown, other, path)
        while pending:
            name = pending.pop(0)
            if not pending and not (follow and _is_link(name, current)):
                return Place(_readable(current), name, path, other)
            child = os.open(name, _WALK, dir_fd=current)
            try:
                status = os.fstat(child)
                if stat.S_ISLNK(status.st_mode):
                    links += 1
                    target = _target(child, status, current, os.path.join(shown, name))  # noqa: PTH118
                    if links > MAX_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                    pending = _parts(target) + pending
                    if not target.startswith("/"):
                        continue
                    os.close(child)
                    child = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                    shown = "/"
                elif not stat.S_ISDIR(status.st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
                else:
                    shown = os.path.join(shown, name)  # noqa: PTH118
                    other = _next_owner(status, shown, other, path)
                current, child = child, current
            finally:
                os.close(child)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    finally:
        os.close(current)


def open_file(path: str, *, follow: bool = True) -> int:
    """Descriptor of a regular file, for reading. Raises `PathRefused` and OSError."""
    with find(path, follow=follow) as place:
        return place.open()


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _trusted() -> tuple[int, ...]:
    return 0, os.geteuid()


def _is_link(name: str, directory: int) -> bool:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISLNK(status.st_mode)


def _readable(directory: int) -> int:
    """A descriptor that can be synchronized, or else one that can only be searched."""
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    except PermissionError:
        return os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)


def _target(link: int, status: os.stat_result, directory: int, shown: str) -> str:
    trusted = _trusted()
    if status.st_uid not in trusted or os.fstat(directory).st_uid not in trusted:
        raise PathRefused(
            f"{shown} is a symbolic link that {user_name(status.st_uid)} can change; "
            "use the path that it leads to"
        )
    return os.readlink("", dir_fd=link)


def _next_owner(
    status: os.stat_result, shown: str, other: Optional[int], path: str
) -> Optional[int]:
    """The one other user that the walk has met, this directory included."""
    if status.st_mode & 0o002 and not status.st_mode & stat.S_ISVTX:
        raise PathRefused(
            f"{shown} is open to all users for writing, so {path} could be anyone's; "
            f"`chmod o-w {shown}`"
        )
    owner = status.st_uid
    if owner in _trusted():
        return other
    if other not in (None, owner):
        raise PathRefused(
            f"{shown} belongs to {user_name(owner)} and a directory above it to "
            f"{user_name(other or 0)}; give both to one user"
        )
    return owner
