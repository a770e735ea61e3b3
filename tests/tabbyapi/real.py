"""TabbyAPI itself, of the commits that the role installs, on `fakes` in the place of ExLlama.

Its code is not part of this repository: ROUNDHOUSE_TABBYAPI_REPOSITORY names a git repository that
has it (a checkout, a mirror or an address). What it needs besides comes from PyPI, once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
FAKES = Path(__file__).parent / "fakes"
VARIABLE = "ROUNDHOUSE_TABBYAPI_REPOSITORY"


def repository() -> str | None:
    return os.environ.get(VARIABLE) or None


def commits() -> dict[str, str]:
    """By flavor, as the role has them."""
    known = yaml.safe_load((ROOT / "roles/tabbyapi/vars/main.yml").read_text())["__tabbyapi_known"]
    return {name: flavor["commit"] for name, flavor in known["flavors"].items()}


def _cache() -> Path:
    named = os.environ.get("ROUNDHOUSE_CACHE")
    return (Path(named) if named else ROOT / ".cache") / "tabbyapi"


@cache
def checkout(flavor: str) -> Path:
    """The files of the flavor's commit."""
    commit = commits()[flavor]
    place = _cache() / commit
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as made:
        bare, tree = Path(made, "git"), Path(made, "tree")
        tree.mkdir()
        subprocess.run(
            ["git", "clone", "--quiet", "--bare", str(repository()), str(bare)], check=True
        )
        archive = Path(made, "tree.tar")
        asked = ["git", "--git-dir", str(bare), "archive", f"--output={archive}", commit]
        subprocess.run(asked, check=True)
        with tarfile.open(archive) as files:
            files.extractall(tree, filter="data")
        tree.rename(place)
    return place


@cache
def python() -> Path:
    """An interpreter with what TabbyAPI needs, but for ExLlama and PyTorch."""
    place = _cache() / f"venv-{sys.version_info.major}.{sys.version_info.minor}"
    program = place / "bin/python"
    if (place / "complete").exists():
        return program
    subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
    install = [str(program), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, str(checkout("exl3"))], check=True)
    (place / "complete").touch()
    return program
