"""Where the files of a model lie that models.yml has downloaded (``repo``), and which they are.

The router, the module ``model_download`` and the role ``models`` all come here, so that each of
them knows the path without asking the hub. Pure; standard library only, for the target's Python
(>= 3.9).
"""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Optional

MODELS_DIR = "/srv/models"
DEFAULT_REVISION = "main"
RECORD = ".downloaded.json"
PARTIAL = ".partial"
MAX_NAME = 1024
MAX_PART = 240
"""Bytes of one part; the rest of a file system's 255 is for what the store appends."""
REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")

_COMMIT = re.compile(r"[0-9a-f]{40}")
_PATTERN = re.compile(r"[*?\[]")


def is_commit(revision: Optional[str]) -> bool:
    """Whether it names one state of a repository for ever; a branch or a tag may move."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def safe_name(name: object) -> bool:
    """Whether a repository may call a file so: a path below its directory, of printable text, that
    is none of the names that the store uses itself, however they are spelled."""
    if not isinstance(name, str) or not name.isprintable() or "\\" in name:
        return False
    parts = name.split("/")
    if any(part in ("", ".", "..") or len(part.encode()) > MAX_PART for part in parts):
        return False
    first = unicodedata.normalize("NFKC", parts[0]).casefold()
    return len(name.encode()) <= MAX_NAME and not first.startswith((RECORD, PARTIAL))


def directory(models_dir: str, repo: str, revision: Optional[str] = None) -> str:
    """The directory that a repository's files go to.

    A branch or tag has one of its own (EXL2 repositories have one for each size). A commit has
    not: to pin what is there already must not mean to download it again.
    """
    named = revision not in (None, DEFAULT_REVISION) and not is_commit(revision)
    suffix = "@" + str(revision).replace("/", "--") if named else ""
    return f"{models_dir.rstrip('/')}/{repo}{suffix}"


def gguf_file(files: Sequence[str]) -> Optional[str]:
    """The file that llama.cpp is given: the first of ``files``, if that is a GGUF file's name.

    None where it is not, or is a pattern: the path must be known before anything is downloaded.
    """
    first = files[0] if files else ""
    return first if first.endswith(".gguf") and not _PATTERN.search(first) else None


def model_path(
    models_dir: str, backend: str, repo: str, revision: Optional[str], files: Sequence[str]
) -> Optional[str]:
    """What the engine is given: the GGUF file for llama.cpp, the directory for every other.

    None where llama.cpp's file is not named.
    """
    where = directory(models_dir, repo, revision)
    if backend != "llamacpp":
        return where
    file = gguf_file(files)
    return f"{where}/{file}" if file else None


def wanted(paths: Iterable[str], files: Sequence[str]) -> list[str]:
    """The paths that ``files`` names, in their own order; all of them where it names none.

    An entry is a path, or a pattern in which ``*`` stands for anything, ``/`` too.
    """
    return [path for path in paths if not files or any(_fits(path, entry) for entry in files)]


def unmatched(paths: Iterable[str], files: Sequence[str]) -> list[str]:
    """The entries of ``files`` for which there is no path."""
    known = list(paths)
    return [entry for entry in files if not any(_fits(path, entry) for path in known)]


def _fits(path: str, entry: str) -> bool:
    return path == entry or fnmatch.fnmatchcase(path, entry)
