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


def versions() -> list[dict[str, str]]:
    """The rows of the table of versions, by its heads."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = text.partition("<!-- made by `make docs` -->\n\n")[2].partition("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


VERSIONS = versions()
ARCHITECTURES = {"x86-64": "x86_64", "arm64": "aarch64"}


def said(head: str, glibc: str, architecture: str = "x86_64", **given: Any) -> str:
    """What preflight says of the version that a row is about."""
    label, version = re.findall(r"(SGLang|vLLM)(?: for CPU)? ([0-9][0-9.a-z]*)", head)[0]
    role = label.lower()
    wish = {"label": label, "prefix": role, "version": version, "cuda": 0, "gpu": True}
    wish["compute_capability"] = role_vars(role)[f"__{role}_wish"]["compute_capability"]
    host = {"name": "gpu1", "glibc": glibc, "no_driver": "", "architecture": architecture}
    host |= {"driver": "580.65.06", "compute_capabilities": ["8.6"]} | given
    package = f"{role}-cpu" if "for CPU" in head else role
    wish["gpu"] = package == role
    fitted = release_fit(role_vars(role)[f"__{role}_matrix"][package], wish, host)
    return str(fitted["problem"])


def test_the_tables_name_every_release_and_the_newest_versions() -> None:
    heads = " ".join(row[""] for row in VERSIONS)
    for role, label in (("sglang", "SGLang"), ("vllm", "vLLM")):
        assert f"{label} {role_vars(role)[f'__{role}_matrix'][role][0]['newest']}" in heads
    for _, cells in rows():
        assert set(cells) == set(GLIBC)
    for row in VERSIONS:
        assert set(GLIBC) < set(row)


@pytest.mark.parametrize(
    "row", VERSIONS, ids=[f"{row['']} {row['architecture']}" for row in VERSIONS]
)
def test_the_table_of_versions_says_what_preflight_says(row: dict[str, str]) -> None:
    label, _, last = row[""].rpartition(" ")
    name = re.sub(r" [0-9].*", "", label)
    of_all = {a for r in VERSIONS if r[""] == row[""] for a in r["architecture"].split(", ")}
    for release, glibc in GLIBC.items():
        for version in {last, re.findall(r"[0-9][0-9.a-z]*", row[""])[0]}:
            head = f"{name} {version}"
            for architecture in row["architecture"].split(", "):
                kind = ARCHITECTURES[architecture]
                if needed := re.fullmatch(r"needs glibc ([0-9.]+)", row[release]):
                    found = said(head, glibc, kind)
                    assert f"has glibc {glibc}, but" in found, release
                    assert needed[1] in found
                    continue
                if row["NVIDIA driver"] == "–":
                    assert said(head, glibc, kind) == "", release
                    continue
                least = int(row["NVIDIA driver"])
                assert said(head, glibc, kind, driver=f"{least}.1") == "", release
                older = said(head, glibc, kind, driver=f"{least - 1}.1")
                assert f"needs {least} or newer" in older, older
            for missing in set(ARCHITECTURES) - of_all:
                assert said(head, glibc, ARCHITECTURES[missing]), release


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
