"""Make a git repository that stands for TabbyAPI's, and print its commits as JSON.

    tabbyapi_repository.py DIRECTORY

DIRECTORY gets `tabbyapi.git`, a bare repository of two commits: the last one with ExLlamaV2, and on
top of it one without, as in TabbyAPI's own history. Beside it lies `wheels` with what it needs, as
an air-gapped mirror would have it: the checkout itself names addresses that nobody reaches. The
same sources give the same commits.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.hosts.engine_wheels import installed, wheel

STANDIN = Path(__file__).resolve().parents[1] / "standin"
LIBRARIES = ("loguru", "ruamel.yaml")
INFERENCE = {"exl2": "exllamav2", "exl3": "exllamav3"}

PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "tabbyAPI"
version = "0.0.1"
requires-python = ">=3.10"
dependencies = {dependencies}

[project.optional-dependencies]
cu12 = ["{inference} @ https://wheels.invalid/{inference}-1.4.2+cu128-cp312-cp312-linux_x86_64.whl"]
cu13 = ["{inference} @ https://wheels.invalid/{inference}-1.4.2+cu132-cp312-cp312-linux_x86_64.whl"]
"""
BACKEND = """\
\"\"\"Builds the distribution, which has metadata only, as TabbyAPI's own does.\"\"\"

import zipfile

INFO = "tabbyapi-0.0.1.dist-info"
METADATA = "Metadata-Version: 2.1\\nName: tabbyAPI\\nVersion: 0.0.1\\n"
WHEEL = "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"


def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "tabbyapi-0.0.1-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as archive:
        archive.writestr(f"{INFO}/METADATA", METADATA)
        archive.writestr(f"{INFO}/WHEEL", WHEEL)
        archive.writestr(f"{INFO}/RECORD", "")
    return name
"""


def git(*arguments: str, tree: Path) -> str:
    """One git command, by nobody's settings and always at the same time."""
    who = {"NAME": "Stand-in", "EMAIL": "standin@example.invalid", "DATE": "2026-08-13T00:00:00Z"}
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    for role in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{role}_{key}": value for key, value in who.items()}
    done = subprocess.run(
        ["git", *arguments], cwd=tree, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def write_tree(tree: Path, flavor: str) -> None:
    """The files of a checkout."""
    shutil.copy(STANDIN / "tabbyapi/main.py", tree)
    dependencies = json.dumps(LIBRARIES)
    (tree / "FLAVOR").write_text(f"{flavor}\n")
    (tree / "pyproject.toml").write_text(
        PYPROJECT.format(dependencies=dependencies, inference=INFERENCE[flavor])
    )
    (tree / "backend.py").write_text(BACKEND)
    for name in ("journal.py", "options.py", "wire.py"):
        target = tree / "standin" / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(STANDIN / name, target)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(
        STANDIN / "contracts", tree / "standin/contracts", ignore=ignored, dirs_exist_ok=True
    )
    for name in ("templates/chatml.jinja", "sampler_overrides/safe_defaults.yml"):
        target = tree / name
        target.parent.mkdir(exist_ok=True)
        target.write_text("")


def make(directory: Path) -> dict[str, str]:
    """The repository and the wheels; returns the commit of each flavor."""
    wheels = directory / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    for library in LIBRARIES:
        installed(wheels, library)
    for module in INFERENCE.values():
        wheel(wheels, module, "1.4.2", {f"{module}/__init__.py": b""})
    commits = {}
    bare = directory / "tabbyapi.git"
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary)
        git("init", "--quiet", "--initial-branch=main", tree=tree)
        for flavor in INFERENCE:
            write_tree(tree, flavor)
            git("add", "--all", tree=tree)
            git("commit", "--quiet", f"--message={flavor}", tree=tree)
            commits[flavor] = git("rev-parse", "HEAD", tree=tree)
        if not bare.exists():
            git("init", "--quiet", "--bare", "--initial-branch=main", str(bare), tree=tree)
        git("push", "--quiet", "--force", str(bare), "main", tree=tree)
    return commits


if __name__ == "__main__":
    json.dump(make(Path(sys.argv[1]).absolute()), sys.stdout)
