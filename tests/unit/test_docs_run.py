"""Every command in the documentation is run by a test, and its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from llm_router.config import load_settings
from tests.docs.on_host import script
from tests.docs.pages import ELSEWHERE, Command, Elsewhere, commands, on_host

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
KNOWN = ("llm-router", "journalctl", "systemctl", "systemd-analyze", "curl")
"""What on_host.py knows how to run; anything else belongs to another test."""
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@pytest.mark.parametrize("reason", ELSEWHERE, ids=lambda reason: reason.pattern)
class TestElsewhere:
    def test_there_are_such_commands(self, reason: Elsewhere) -> None:
        assert any(reason.matches(command) for command in commands())

    def test_the_other_test_runs_the_same(self, reason: Elsewhere) -> None:
        text = (ROOT / reason.test).read_text(encoding="utf-8")
        assert reason.evidence in text


@pytest.mark.parametrize("command", on_host(), ids=lambda command: command.text)
def test_the_rest_is_run_on_a_host(command: Command) -> None:
    program = shlex.split(command.text, comments=True)[0]
    assert program in KNOWN, f"{command.page}: say in tests/docs/pages.py which test runs this"


def test_a_host_runs_them() -> None:
    run = (ROOT / "tests/install/run").read_text(encoding="utf-8")
    assert "tests.docs.on_host" in run
    made = script(8765, "a key")
    subprocess.run(["bash", "-n"], input=made, text=True, check=True)
    assert made.count("\nrun ") == len(on_host())


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    found = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", one.lower()).strip().replace(" ", "-") for one in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{page.name}: {target}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        name = str(page.relative_to(ROOT / "docs"))
        if not name.startswith(("reference/roles/", "reference/plugins/")) and name != "README.md":
            assert f"]({name}" in index, name


def test_every_role_variable_exists() -> None:
    known: set[str] = set()
    for role in (ROOT / "roles").iterdir():
        known |= set(yaml.safe_load((role / "defaults/main.yml").read_text(encoding="utf-8")) or ())
    roles = "|".join(role.name for role in (ROOT / "roles").iterdir() if role.name != "models")
    for name in ("install", "security", "operations", "logs"):
        page = ROOT / f"docs/{name}.md"
        told = set(re.findall(rf"(?<![\w/.])(?:{roles})_[a-z_]*[a-z]\b", page.read_text()))
        metrics = {one for one in told if one.startswith("llm_router_engines_")}
        assert told - metrics <= known, page.name


def test_what_the_security_page_says_is_said_somewhere() -> None:
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    named = [row.strip("| ").split(" | ")[-1] for row in rows]
    files = [cell.strip("`") for cell in named if re.fullmatch(r"`[\w./-]+/[\w./-]+`", cell)]
    assert len(files) >= 14
    for file in files:
        assert (ROOT / file).exists(), file


YAML = [
    (page.name, block)
    for page in PAGES
    if "reference" not in page.parts
    for block in re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    if block.startswith("models:")
]


@pytest.mark.parametrize(("page", "block"), YAML)
def test_the_models_that_are_shown_are_valid(page: str, block: str, tmp_path: Path) -> None:
    (tmp_path / "models.yml").write_text(block)
    (tmp_path / "config.yml").write_text("schema: 1\n")
    assert load_settings(tmp_path / "config.yml").models, page


def test_models_are_shown_for_the_engines() -> None:
    assert {"llamacpp.md", "sglang.md", "vllm.md", "README.md"} <= {page for page, _ in YAML}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_command_hides_in_a_block_of_another_name(page: Path) -> None:
    fences = re.findall(r"^ *```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) % 2 == 0
    assert not {"", "bash", "shell", "console", "zsh"} & set(fences[::2]), fences[::2]
