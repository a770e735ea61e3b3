"""What the README says of releases, drivers and GPUs is what the roles' preflight says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.roundhouse.llm.plugins.filter.release_fit import (
    DRIVERS,
    OLDEST_GPUS,
    release_fit,
)

ROOT = Path(__file__).resolve().parents[4]
GLIBC = {
    "Debian 13": "2.41",
    "Debian 12": "2.36",
    "Debian 11": "2.31",
    "Ubuntu 24.04": "2.39",
    "Ubuntu 22.04": "2.35",
    "Ubuntu 20.04": "2.31",
}


def role_vars(role: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / f"roles/{role}/vars/main.yml").read_text())
    return found


def rows() -> list[tuple[str, dict[str, str]]]:
    """The table's rows: their head, and the cell of each release."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = text.partition("## What runs where\n\n")[2].partition("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    columns = []
    for head in cells[0][1:]:
        # "Debian 13, 12" are two
        words, name = re.findall(r"[A-Z][a-z]+|[0-9.]+", head), ""
        releases = []
        for word in words:
            name = word if word.isalpha() else name
            releases += [] if word.isalpha() else [f"{name} {word}"]
        columns.append(releases)
    return [
        (
            row[0],
            {
                release: cell
                for each, cell in zip(columns, row[1:], strict=True)
                for release in each
            },
        )
        for row in cells[2:]
    ]


ENGINES = [(head, cells) for head, cells in rows() if head.startswith(("SGLang", "vLLM"))]


def said(head: str, glibc: str, architecture: str = "x86_64", **given: Any) -> str:
    """What preflight says of the version that a row is about."""
    label, version = re.findall(r"(SGLang|vLLM) ([0-9.a-z]+)", head)[0]
    role = label.lower()
    wish = {"label": label, "prefix": role, "version": version, "cuda": 0, "gpu": True}
    wish["compute_capability"] = role_vars(role)[f"__{role}_wish"]["compute_capability"]
    host = {"name": "gpu1", "glibc": glibc, "no_driver": "", "architecture": architecture}
    host |= {"driver": "580.65.06", "compute_capabilities": ["8.6"]} | given
    fitted = release_fit(role_vars(role)[f"__{role}_matrix"][role], wish, host)
    return str(fitted["problem"])


def test_the_table_names_every_release_and_the_newest_versions() -> None:
    heads = " ".join(head for head, _ in ENGINES)
    for role, label in (("sglang", "SGLang"), ("vllm", "vLLM")):
        assert f"{label} {role_vars(role)[f'__{role}_matrix'][role][0]['newest']}" in heads
    for _, cells in rows():
        assert set(cells) == set(GLIBC)


@pytest.mark.parametrize(("head", "cells"), ENGINES, ids=[head for head, _ in ENGINES])
def test_the_table_says_what_preflight_says(head: str, cells: dict[str, str]) -> None:
    for release, cell in cells.items():
        glibc = GLIBC[release]
        driver = re.match(r"NVIDIA driver (\d+)", cell)
        if not driver:
            assert f"has glibc {glibc}, but" in said(head, glibc), release
            other = re.search(r"; ([0-9.a-z]+)$", cell)
            assert other is None or f"_version to {other[1]}, " in said(head, glibc)
            continue
        least = int(driver[1])
        assert said(head, glibc, driver=f"{least}.1") == "", release
        assert f"needs {least} or newer" in said(head, glibc, driver=f"{least - 1}.1"), release
        refused = "x86-64" in head or "arm64 refused" in cell
        assert bool(said(head, glibc, "aarch64")) == refused, release


def test_tabbyapis_row_says_what_its_role_says() -> None:
    known = role_vars("tabbyapi")["__tabbyapi_known"]
    ((head, cells),) = [row for row in rows() if row[0].startswith("TabbyAPI")]
    for flavor, data in known["flavors"].items():
        assert re.search(rf"{flavor.upper()} \((GPU )?{data['compute_capability']}\b", head)
    assert known["architecture"].replace("_", "-") in head
    for release, cell in cells.items():
        fits = tuple(map(int, GLIBC[release].split("."))) >= tuple(
            map(int, known["glibc"].split("."))
        )
        assert (cell == f"NVIDIA driver {known['cuda'][12]['driver']}") == fits, release


def test_the_gpus_are_those_of_preflight() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert OLDEST_GPUS == {12: "7.0", 13: "7.5"}
    assert set(DRIVERS) == set(OLDEST_GPUS)
    assert "SGLang needs a GPU of compute capability 7.5 or newer." in text
    assert "vLLM needs 7.5 with CUDA 13 and 7.0 with CUDA 12, so a V100 runs vLLM 0.19.1." in text
    volta: dict[str, Any] = {"compute_capabilities": ["7.0"]}
    assert said("SGLang 0.5.23", "2.39", **volta)
    assert "set vllm_version to 0.19.1," in said("vLLM 0.32.0", "2.39", **volta)
    assert said("vLLM 0.19.1", "2.39", **volta) == ""
