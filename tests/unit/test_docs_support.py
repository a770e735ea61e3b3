"""README.md's table of versions is made from the roles' matrices."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.docs import support
from tools.docs.support import RELEASES, cell, glibc, matrix, table, with_table

from .programs import load

ROOT = Path(__file__).parents[2]
JAMMY, BULLSEYE = RELEASES[3], RELEASES[4]
ROW = {"since": "1.1", "newest": "1.2", "glibc": "2.31", "cuda": [13], "pythons": ["3.12", "3.10"]}


def test_the_table_of_the_readme_is_that_of_the_matrices() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_table(readme) == readme


def test_each_release_has_its_own_python_ones_of_uv_or_a_reason() -> None:
    assert cell(ROW, "x86_64", JAMMY) == "its 3.10"
    assert cell(ROW, "x86_64", BULLSEYE) == "uv's 3.12"
    newer = {**ROW, "glibc_aarch64": "2.34"}
    assert (glibc(newer, "x86_64"), glibc(newer, "aarch64")) == ("2.31", "2.34")
    assert cell(newer, "aarch64", BULLSEYE) == "needs glibc 2.34"
    assert cell({**ROW, "glibc": "2.9"}, "x86_64", BULLSEYE) == "uv's 3.12"  # and not as text


def test_every_row_has_a_line_for_each_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = table()
    for package, row in matrix():
        assert f"| {support.LABELS[package]} " in whole
        assert str(row["newest"]) in whole
    rows = [
        ("vllm", ROW),
        ("vllm", {**ROW, "glibc_aarch64": "2.34", "newest": "1.1"}),
        ("sglang", {**ROW, "architectures": ["x86_64"], "cuda": []}),
    ]
    monkeypatch.setattr(support, "matrix", lambda: rows)
    lines = [line.split(" | ")[:3] for line in table().splitlines()[2:]]
    assert lines == [
        ["| vLLM 1.1 to 1.2", "x86-64, arm64", "580"],
        ["| vLLM 1.1", "x86-64", "580"],
        ["| vLLM 1.1", "arm64", "580"],
        ["| SGLang 1.1 to 1.2", "x86-64", "–"],
    ]


def test_the_drivers_are_those_that_preflight_asks_for() -> None:
    asked = load(ROOT / "plugins/filter/release_fit.py").DRIVERS
    assert {cuda: str(driver) for cuda, driver in asked.items()} == support.DRIVERS


@pytest.mark.parametrize("text", ["", f"{support.END}{support.BEGIN}", support.BEGIN])
def test_a_page_without_marks_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="has lost the marks"):
        with_table(text)
