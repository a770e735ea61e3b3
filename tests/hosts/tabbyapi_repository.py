"""Make a git repository that stands for TabbyAPI's, and print its commits as JSON.

    tabbyapi_repository.py DIRECTORY

DIRECTORY gets `tabbyapi.git`, a bare repository of two commits: the last one with ExLlamaV2, and on
top of it one without, as in TabbyAPI's own history. Beside it lies `wheels`, with the inference
library that a GPU host would fetch from GitHub. The same sources give the same commits.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

STANDIN = Path(__file__).resolve().parents[1] / "standin"
WHEEL = "exllamav3-1.4.2-py3-none-any.whl"

PYPROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[tool.setuptools]
py-modules = []

[project]
name = "tabbyAPI"
version = "0.0.1"
requires-python = ">=3.10"
dependencies = ["loguru", "ruamel.yaml"]

[project.optional-dependencies]
cu12 = ["exllamav3 @ https://wheels.invalid/exllamav3-1.4.2+cu128.torch2.9.0-cp312-cp312-linux_x86_64.whl"]
cu13 = ["exllamav3 @ https://wheels.invalid/exllamav3-1.4.2+cu132.torch2.11.0-cp312-cp312-linux_x86_64.whl"]
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


def write_tree(tree: Path) -> None:
    """The files of a checkout, all but FLAVOR."""
    shutil.copy(STANDIN / "tabbyapi/main.py", tree)
    (tree / "pyproject.toml").write_text(PYPROJECT)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("journal.py", "options.py", "wire.py"):
        target = tree / "standin" / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(STANDIN / name, target)
    shutil.copytree(STANDIN / "contracts", tree / "standin/contracts", ignore=ignored)
    for name in ("templates/chatml.jinja", "sampler_overrides/safe_defaults.yml"):
        target = tree / name
        target.parent.mkdir()
        target.write_text("")


def write_wheel(path: Path) -> None:
    """An empty package of the inference library's name."""
    info = "exllamav3-1.4.2.dist-info"
    files = {
        "exllamav3/__init__.py": "",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: exllamav3\nVersion: 1.4.2\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in [*files.items(), (f"{info}/RECORD", record)]:
            archive.writestr(zipfile.ZipInfo(name, (2026, 8, 13, 0, 0, 0)), text)


def make(directory: Path) -> dict[str, str]:
    """The repository and the wheel; returns the commit of each flavor."""
    commits = {}
    (directory / "wheels").mkdir(parents=True, exist_ok=True)
    write_wheel(directory / "wheels" / WHEEL)
    bare = directory / "tabbyapi.git"
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary)
        git("init", "--quiet", "--initial-branch=main", tree=tree)
        write_tree(tree)
        for flavor in ("exl2", "exl3"):
            (tree / "FLAVOR").write_text(f"{flavor}\n")
            git("add", "--all", tree=tree)
            git("commit", "--quiet", f"--message={flavor}", tree=tree)
            commits[flavor] = git("rev-parse", "HEAD", tree=tree)
        if not bare.exists():
            git("init", "--quiet", "--bare", "--initial-branch=main", str(bare), tree=tree)
        git("push", "--quiet", "--force", str(bare), "main", tree=tree)
    return commits


if __name__ == "__main__":
    json.dump(make(Path(sys.argv[1]).absolute()), sys.stdout)
