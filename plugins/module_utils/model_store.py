"""A directory with files of a repository: what is there for sure, what is missing, how it gets in.

``.downloaded.json`` says which files are there, whole and checked, and what the repository has at
that commit, so that the next run needs neither hub nor hashing. What is being fetched lies in
``.partial``, by name and checksum: ``….part`` grows, and without that suffix it is whole and
checked. Files come to their places only when all that are wanted are whole: an engine never sees
half a model, and an update never a mixture for longer than renames take.

Standard library only, for the target's Python (>= 3.9).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Optional
from urllib.parse import quote

from ansible_collections.roundhouse.llm.plugins.module_utils import safe_path
from ansible_collections.roundhouse.llm.plugins.module_utils.model_files import (
    PARTIAL,
    RECORD,
    is_commit,
    safe_name,
)

_PENDING = "listing.json"
_CHUNK = 1 << 20
_MAX_RECORD = 64 << 20
_MAX_QUOTED = 220
_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}|git-sha1:[0-9a-f]{40}")


class StoreError(Exception):
    """Something on the disk is not as it must be; the message is one sentence for a person."""


@dataclass(frozen=True)
class RepoFile:
    """A file of a repository: bytes, and ``sha256:…`` or, for what git keeps, ``git-sha1:…``."""

    size: int
    checksum: str


@dataclass(frozen=True)
class Snapshot:
    """A repository at a commit, and which of its files are in the directory, checked."""

    repo: str
    commit: str
    listing: dict[str, RepoFile] = field(default_factory=dict)
    there: frozenset[str] = frozenset()


class Store:
    """One directory. Its methods raise `StoreError` and `OSError`.

    Everything in it is reached below a descriptor, and no link in it is followed: a repository, a
    mirror or another user can name nothing outside it.
    """

    def __init__(self, directory: str) -> None:
        self.path = Path(directory)

    # What it knows

    def record(self) -> Optional[Snapshot]:
        """What is there; None where nothing was ever downloaded to."""
        return self._read(RECORD)

    def pending(self) -> Optional[Snapshot]:
        """The commit that is being fetched, where it is not the record's."""
        return self._read(f"{PARTIAL}/{_PENDING}")

    def has(self, name: str, file: RepoFile) -> bool:
        """Whether a file of this name and size is there; its contents are not looked at."""
        return self._size(name) == file.size

    def matches(self, name: str, file: RepoFile) -> bool:
        """Whether the file has the right contents. Reads all of it."""
        return self.has(name, file) and self._checksum(name, file) == file.checksum

    def fetched(self, name: str, file: RepoFile) -> int:
        """How many of a file's bytes lie in ``.partial``."""
        if self.is_whole(name, file):
            return file.size
        return min(self._size(self._part(name, file)) or 0, file.size)

    def is_whole(self, name: str, file: RepoFile) -> bool:
        """Whether it lies in ``.partial``, whole and checked."""
        return self._size(self._whole(name, file)) is not None

    # What changes it

    def save(self, snapshot: Snapshot) -> None:
        """Keep what is there."""
        make_directory(self.path)
        self._write(RECORD, snapshot)

    def begin(self, snapshot: Snapshot) -> None:
        """Keep which commit is to come, until `finish`."""
        make_directory(self.path)
        self._write(f"{PARTIAL}/{_PENDING}", snapshot)

    def open_part(self, name: str, file: RepoFile) -> BinaryIO:
        """What a file is fetched into, at its end."""
        make_directory(self.path)
        with self._within(self._part(name, file), make=True) as (directory, last):
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | _SAFE
            descriptor = os.open(last, flags, 0o644, dir_fd=directory)
        stream = os.fdopen(descriptor, "ab")
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            stream.close()
            raise StoreError(f"{self.path}/{self._part(name, file)} is not a regular file")
        if stream.tell() > file.size:  # of no use, whatever it is
            stream.truncate(0)
        return stream

    def accept(self, name: str, file: RepoFile) -> None:
        """Check a part that has all its bytes; a wrong one is thrown away, and `StoreError`."""
        part = self._part(name, file)
        found = self._checksum(part, file)
        if found != file.checksum:
            self._remove(part)
            raise StoreError(
                f"what was downloaded as {name} has the checksum {found} and not {file.checksum}, "
                "and was thrown away: run this again, and if it stays so ask who runs the hub"
            )
        descriptor = self._open(part)
        try:
            os.fchmod(descriptor, 0o644)
        finally:
            os.close(descriptor)
        self._move(part, self._whole(name, file))

    def finish(self, snapshot: Snapshot, names: Iterable[str]) -> None:
        """Put the fetched files in their places, and take away what the commit has no more."""
        before = self.record()
        there = before.there if before else frozenset()
        listed = before.listing if before else {}
        kept = frozenset(n for n in there if listed[n] == snapshot.listing.get(n))
        # Whoever is interrupted from here on has files whose contents have to be looked at again.
        self.save(replace(snapshot, there=kept))
        for name in names:
            if self.is_whole(name, snapshot.listing[name]):
                self._move(self._whole(name, snapshot.listing[name]), name)
        for name in there - snapshot.listing.keys():
            self._remove(name)
        self.save(replace(snapshot, there=kept | frozenset(names)))
        with suppress(OSError), self._within(PARTIAL) as (directory, last):
            _remove_tree(last, directory)

    # How it gets there

    def _part(self, name: str, file: RepoFile) -> str:
        return self._whole(name, file) + ".part"

    def _whole(self, name: str, file: RepoFile) -> str:
        digest = file.checksum.partition(":")[2]
        quoted = quote(name, safe="")
        if len(quoted) > _MAX_QUOTED:
            quoted = hashlib.sha256(name.encode()).hexdigest()
        return f"{PARTIAL}/{quoted}.{digest[:12]}"

    @contextmanager
    def _within(self, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The directory of a name below the store, as a descriptor, and the name's last part."""
        *folders, last = name.split("/")
        with safe_path.find(f"{self.path}/{RECORD}") as place:
            current = os.dup(place.directory)
        try:
            for folder in folders:
                if make:
                    with suppress(FileExistsError):  # files are fetched side by side
                        os.mkdir(folder, 0o755, dir_fd=current)
                        os.chmod(folder, 0o755, dir_fd=current)  # noqa: S103
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                try:
                    inner = os.open(folder, flags, dir_fd=current)
                except OSError as error:
                    if error.errno in (errno.ELOOP, errno.ENOTDIR) and make:
                        raise StoreError(
                            f"{self.path}/{name}: {folder} is a link or a file where a directory "
                            "is needed; move it away"
                        ) from error
                    raise
                current, outer = inner, current
                os.close(outer)
            yield current, last
        finally:
            os.close(current)

    def _size(self, name: str) -> Optional[int]:
        """Bytes of a regular file; None where there is none."""
        with suppress(FileNotFoundError, NotADirectoryError), self._within(name) as (where, last):
            status = os.stat(last, dir_fd=where, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                return status.st_size
        return None

    def _open(self, name: str) -> int:
        with self._within(name) as (directory, last):
            descriptor = os.open(last, os.O_RDONLY | _SAFE, dir_fd=directory)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise StoreError(f"{self.path}/{name} is not a regular file; move it away")
        return descriptor

    def _checksum(self, name: str, like: RepoFile) -> str:
        with os.fdopen(self._open(name), "rb") as file:
            return checksum(file, like)

    def _move(self, old: str, new: str) -> None:
        with self._within(old) as (source, one), self._within(new, make=True) as (target, other):
            os.rename(one, other, src_dir_fd=source, dst_dir_fd=target)

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError, NotADirectoryError), self._within(name) as (where, last):
            os.unlink(last, dir_fd=where)

    def _read(self, name: str) -> Optional[Snapshot]:
        path = self.path / name
        try:
            with os.fdopen(self._open(name), encoding="utf-8") as file:
                said: Any = json.loads(file.read(_MAX_RECORD))
            return checked(
                Snapshot(
                    said["repo"],
                    said["commit"],
                    {each: RepoFile(size, what) for each, (size, what) in said["listing"].items()},
                    frozenset(said["there"]) & said["listing"].keys(),
                )
            )
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StoreError(
                f"{path} is not a record of a download ({error}); remove it, and the files beside "
                "it are looked at again"
            ) from error

    def _write(self, name: str, snapshot: Snapshot) -> None:
        text = json.dumps(
            {
                "repo": snapshot.repo,
                "commit": snapshot.commit,
                "there": sorted(snapshot.there),
                "listing": {
                    each: [file.size, file.checksum]
                    for each, file in sorted(snapshot.listing.items())
                },
            },
            indent=1,
        )
        with self._within(name, make=True) as (directory, last):
            new = f"{last}.new"
            with suppress(FileNotFoundError):
                os.unlink(new, dir_fd=directory)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE
            with os.fdopen(os.open(new, flags, 0o644, dir_fd=directory), "w") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o644)
            os.rename(new, last, src_dir_fd=directory, dst_dir_fd=directory)


def checked(snapshot: Snapshot) -> Snapshot:
    """The same, if every name, size and checksum has its form. Raises ValueError."""
    commit: Any = snapshot.commit
    if not isinstance(commit, str) or not is_commit(commit):
        raise ValueError(f"has the commit {commit!r}")
    for name, file in snapshot.listing.items():
        size: Any = file.size
        what: Any = file.checksum
        if not safe_name(name):
            raise ValueError(f"has the file name {name if name.isprintable() else ascii(name)}")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ValueError(f"has the size {size!r} for {name}")
        if not isinstance(what, str) or not _CHECKSUM.fullmatch(what):
            raise ValueError(f"has the checksum {what!r} for {name}")
    return snapshot


def checksum(file: BinaryIO, like: RepoFile) -> str:
    """A file's checksum, of the kind that ``like`` has. Reads all of it."""
    kind = like.checksum.partition(":")[0]
    if kind == "sha256":
        digest = hashlib.sha256()
    else:  # how git names contents
        digest = hashlib.sha1(usedforsecurity=False)
        digest.update(b"blob %d\0" % os.fstat(file.fileno()).st_size)
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return f"{kind}:{digest.hexdigest()}"


def give(directory: str, uid: int, gid: int) -> None:
    """Give what root has of a store to the account that downloads: its directories, and what lies
    in ``.partial``. Model files stay root's: who owns the directory can replace them."""
    make_directory(Path(directory))
    with safe_path.find(f"{directory}/{RECORD}") as place:
        top = os.dup(place.directory)
    try:
        walk = os.fwalk(".", dir_fd=top, follow_symlinks=False)
        for folder, _folders, names, descriptor in walk:
            if os.fstat(descriptor).st_uid == 0:
                os.fchown(descriptor, uid, gid)
            if not folder.startswith(f"./{PARTIAL}"):
                continue
            for name in names:
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_uid == 0 and status.st_nlink == 1:
                    os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)
    finally:
        os.close(top)


def _remove_tree(name: str, directory: int) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    inner = os.open(name, flags, dir_fd=directory)
    try:
        for each in os.listdir(inner):  # noqa: PTH208 (a descriptor)
            with suppress(IsADirectoryError):
                os.unlink(each, dir_fd=inner)
                continue
            _remove_tree(each, inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=directory)


def free_bytes(path: Path) -> int:
    """What root's users may still write to the disk that ``path`` is, or will be, on."""
    status = os.statvfs(nearest(path))
    return status.f_bavail * status.f_frsize


def nearest(path: Path) -> Path:
    """The path, or the nearest directory above it that exists."""
    while not path.exists():
        path = path.parent
    return path


def make_directory(path: Path) -> None:
    """With all above it: everybody may read, as engines run as users of their own."""
    for each in reversed([path, *path.parents]):
        if not each.exists() and not each.is_symlink():
            with suppress(FileExistsError):  # files are fetched side by side
                each.mkdir()
                each.chmod(0o755)
