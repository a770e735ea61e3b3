"""Pack llama.cpp's real server as an archive like those of its releases; print the archive's path.

    llamacpp_archive.py [--python=PROGRAM] [COPY.tar.gz]

For hosts whose distribution has no package of it. The server is PyPI's xllamacpp out of the
environment that runs this (one wheel for every Python 3, nothing else needed), behind an executable
called `llama-server` that takes llama-server's arguments and is run by PROGRAM, the host's Python.
The same contents give the same bytes; the archive is kept in the cache under a name made of them,
and copied to where a fixed name is wanted.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.metadata
import io
import os
import shutil
import sys
import tarfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.hosts.hostlib.base import cache_dir

CHECKOUT = Path(__file__).resolve().parents[2]
SERVER = CHECKOUT / "roles/llm_router/files/llm_router/engines/xllamacpp_server.py"

LAUNCHER = """\
#!{python} -I
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "lib"))
if sys.argv[1:] == ["--version"]:
    import xllamacpp

    sys.exit(print("version:", xllamacpp.__version__))
from xllamacpp_server import main

sys.exit(main())
"""


def contents(python: str) -> dict[str, tuple[int, bytes]]:
    """Every file of the archive: its path -> mode and bytes."""
    package = importlib.metadata.distribution("xllamacpp")
    if "abi3" not in (package.read_text("WHEEL") or ""):
        raise SystemExit("the installed xllamacpp is for one Python only: take its abi3 wheel")
    top = f"llama-xllamacpp-{package.version}"
    files = {
        f"{top}/llama-server": (0o755, LAUNCHER.format(python=python).encode()),
        f"{top}/lib/xllamacpp_server.py": (0o644, SERVER.read_bytes()),
    }
    for entry in package.files or []:
        if entry.parts[0] == ".." or entry.suffix == ".pyc" or ".dist-info" in entry.parts[0]:
            continue
        files[f"{top}/lib/{entry.as_posix()}"] = (0o644, Path(entry.locate()).read_bytes())
    return files


def pack(files: dict[str, tuple[int, bytes]]) -> bytes:
    """A .tar.gz of the files without dates, owners or any other thing that differs between runs."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, (mode, data) in sorted(files.items()):
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(data), mode
            archive.addfile(member, io.BytesIO(data))
    return gzip.compress(raw.getvalue(), compresslevel=1, mtime=0)


def make(python: str) -> Path:
    """The archive in the cache, packed if it is not there yet."""
    files = contents(python)
    digest = hashlib.sha256()
    for path, (mode, data) in sorted(files.items()):
        digest.update(f"{path} {mode} {hashlib.sha256(data).hexdigest()}\n".encode())
    target = cache_dir() / "llamacpp" / f"llama-server-{digest.hexdigest()[:12]}.tar.gz"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}")
        partial.write_bytes(pack(files))
        partial.replace(target)
    return target


def main(argv: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", default="/usr/bin/python3")
    parser.add_argument("copies", nargs="*", type=Path)
    given = parser.parse_args(argv)
    path = make(given.python)
    for copy in given.copies:
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        path = copy
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
