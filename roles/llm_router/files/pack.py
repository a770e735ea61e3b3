"""Names a release of the router and packs what it is built from, on the control machine.

    pack.py PYTHON                  print the id of the release for a target's Python
    pack.py PYTHON TAR [WHEELHOUSE] also write the sources (and the wheels) as a gzipped tar

The id is the first 12 hex digits of a sha256 over the sorted sources, the lock and PYTHON, so it
changes exactly when something has to be built anew. Links are followed: engine_files.py lies in
plugins/module_utils.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def sources() -> dict[str, bytes]:
    """What a release is built from, by path inside its ``app`` directory."""
    files = {
        path.relative_to(HERE).as_posix(): path.read_bytes()
        for path in sorted((HERE / "llm_router").rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    files["requirements.lock"] = (HERE / "requirements.lock").read_bytes()
    return files


def release_id(files: dict[str, bytes], python: str) -> str:
    """12 hex digits; equal for equal sources, lock and Python."""
    digest = hashlib.sha256(python.encode())
    for name, content in sorted(files.items()):
        digest.update(f"\n{name} {hashlib.sha256(content).hexdigest()}".encode())
    return digest.hexdigest()[:12]


def pack(files: dict[str, bytes], target: Path) -> None:
    """Write ``files`` as a tar that unpacks the same for everyone."""
    with tarfile.open(target, "w:gz", compresslevel=1) as tar:
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))


def main(python: str, target: str = "", wheelhouse: str = "") -> int:
    app = sources()
    if target:
        files = {f"app/{name}": content for name, content in app.items()}
        wheels = sorted(Path(wheelhouse).expanduser().glob("*.whl")) if wheelhouse else []
        if wheelhouse and not wheels:
            sys.stderr.write(f"llm_router_wheelhouse {wheelhouse} has no wheels (*.whl) here\n")
            return 1
        files.update({f"wheelhouse/{wheel.name}": wheel.read_bytes() for wheel in wheels})
        pack(files, Path(target))
    sys.stdout.write(release_id(app, python) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
