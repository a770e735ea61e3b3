"""A directory with files of a repository: what is there for sure, what is missing, how it gets in.

``.downloaded.json`` says which files are there, whole and checked, and what the repository has at
that commit, so that the next run needs neither hub nor hashing. What is being fetched lies in
``.partial``, by name and checksum: ``….part`` grows, and without that suffix it is whole and
checked. Files come to their places only when all that are wanted are whole: an engine never sees
half a model, and an update never a mixture for longer than renames take.

Standard library only, for the target's Python (>= 3.9).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Optional
from urllib.parse import quote

RECORD = ".downloaded.json"
PARTIAL = ".partial"
_PENDING = "listing.json"
_CHUNK = 1 << 20


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
    """One directory. Its methods raise `StoreError` and `OSError`."""

    def __init__(self, directory: str) -> None:
        self.path = Path(directory)

    # What it knows

    def record(self) -> Optional[Snapshot]:
        """What is there; None where nothing was ever downloaded to."""
        return _read(self.path / RECORD)

    def pending(self) -> Optional[Snapshot]:
        """The commit that is being fetched, where it is not the record's."""
        return _read(self.path / PARTIAL / _PENDING)

    def has(self, name: str, file: RepoFile) -> bool:
        """Whether a file of this name and size is there; its contents are not looked at."""
        path = self.path / name
        return path.is_file() and path.stat().st_size == file.size

    def matches(self, name: str, file: RepoFile) -> bool:
        """Whether the file has the right contents. Reads all of it."""
        return self.has(name, file) and checksum(self.path / name, file) == file.checksum

    def fetched(self, name: str, file: RepoFile) -> int:
        """How many of a file's bytes lie in ``.partial``."""
        if self.is_whole(name, file):
            return file.size
        part = self._part(name, file)
        return min(part.stat().st_size, file.size) if part.exists() else 0

    def is_whole(self, name: str, file: RepoFile) -> bool:
        """Whether it lies in ``.partial``, whole and checked."""
        return self._whole(name, file).exists()

    # What changes it

    def save(self, snapshot: Snapshot) -> None:
        """Keep what is there."""
        make_directory(self.path)
        _write(self.path / RECORD, snapshot)

    def begin(self, snapshot: Snapshot) -> None:
        """Keep which commit is to come, until `finish`."""
        make_directory(self.path / PARTIAL)
        _write(self.path / PARTIAL / _PENDING, snapshot)

    def open_part(self, name: str, file: RepoFile) -> BinaryIO:
        """What a file is fetched into, at its end."""
        part = self._part(name, file)
        make_directory(part.parent)
        stream = part.open("ab")
        if stream.tell() > file.size:  # of no use, whatever it is
            stream.truncate(0)
        return stream

    def accept(self, name: str, file: RepoFile) -> None:
        """Check a part that has all its bytes; a wrong one is thrown away, and `StoreError`."""
        part = self._part(name, file)
        found = checksum(part, file)
        if found != file.checksum:
            part.unlink()
            raise StoreError(
                f"what was downloaded as {name} has the checksum {found} and not {file.checksum}, "
                "and was thrown away: run this again, and if it stays so ask who runs the hub"
            )
        part.chmod(0o644)
        part.replace(self._whole(name, file))

    def finish(self, snapshot: Snapshot, names: Iterable[str]) -> None:
        """Put the fetched files in their places, and take away what the commit has no more."""
        before = self.record()
        there = before.there if before else frozenset()
        listed = before.listing if before else {}
        kept = frozenset(n for n in there if listed[n] == snapshot.listing.get(n))
        # Whoever is interrupted from here on has files whose contents have to be looked at again.
        self.save(replace(snapshot, there=kept))
        for name in names:
            whole = self._whole(name, snapshot.listing[name])
            if whole.exists():
                make_directory((self.path / name).parent)
                whole.replace(self.path / name)
        for name in there - snapshot.listing.keys():
            (self.path / name).unlink(missing_ok=True)
        self.save(replace(snapshot, there=kept | frozenset(names)))
        shutil.rmtree(self.path / PARTIAL, ignore_errors=True)

    def _part(self, name: str, file: RepoFile) -> Path:
        whole = self._whole(name, file)
        return whole.with_name(whole.name + ".part")

    def _whole(self, name: str, file: RepoFile) -> Path:
        digest = file.checksum.partition(":")[2]
        return self.path / PARTIAL / f"{quote(name, safe='')}.{digest[:12]}"


def checksum(path: Path, like: RepoFile) -> str:
    """A file's checksum, of the kind that ``like`` has. Reads all of it."""
    kind = like.checksum.partition(":")[0]
    if kind == "sha256":
        digest = hashlib.sha256()
    else:  # how git names contents
        digest = hashlib.sha1(usedforsecurity=False)
        digest.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return f"{kind}:{digest.hexdigest()}"


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
        if not each.exists():
            with suppress(FileExistsError):  # files are fetched side by side
                each.mkdir()
                each.chmod(0o755)


def _read(path: Path) -> Optional[Snapshot]:
    try:
        said: Any = json.loads(path.read_text(encoding="utf-8"))
        return Snapshot(
            said["repo"],
            said["commit"],
            {name: RepoFile(size, what) for name, (size, what) in said["listing"].items()},
            frozenset(said["there"]) & said["listing"].keys(),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path} is not a record of a download ({error}); remove it, and the files beside it "
            "are looked at again"
        ) from error


def _write(path: Path, snapshot: Snapshot) -> None:
    text = json.dumps(
        {
            "repo": snapshot.repo,
            "commit": snapshot.commit,
            "there": sorted(snapshot.there),
            "listing": {
                name: [file.size, file.checksum] for name, file in sorted(snapshot.listing.items())
            },
        },
        indent=1,
    )
    part = path.with_name(path.name + ".new")
    with part.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.chmod(0o644)
    part.replace(path)
