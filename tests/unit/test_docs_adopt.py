"""docs/adopt.md: its commands, variables and links exist; tests/adopt/adopt.py runs them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml

from llm_router.cli.parser import parse

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/adopt.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]


def test_every_variable_exists() -> None:
    known = yaml.safe_load((ROOT / "roles/llm_router/defaults/main.yml").read_text())
    told = set(re.findall(r"\bllm_router_[a-z_]+\b", PAGE))
    assert {"llm_router_adopt", "llm_router_adopt_models_dirs"} <= told
    assert told <= set(known)


def test_every_command_of_the_router_is_right() -> None:
    lines = [line for line in LINES if line.startswith("llm-router ")]
    assert lines
    for line in [*lines, *re.findall(r"`(llm-router [^`]+)`", PAGE)]:
        parse(shlex.split(line.replace("models add", "models list"))[1:])


def test_the_rest_is_what_the_host_test_runs() -> None:
    """It takes two playbook runs and the last block from this page."""
    test = (ROOT / "tests/adopt/adopt.py").read_text()
    assert "ansible-playbook -i my-server/inventory.yml playbooks/site.yml (.*)$" in test
    runs = [line for line in LINES if line.startswith("ansible-playbook ")]
    assert len(runs) == 2
    others = [line for line in LINES if not line.startswith(("ansible-playbook ", "llm-router "))]
    assert others == BLOCKS[-1].splitlines()


def test_every_link_leads_somewhere() -> None:
    for path in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert (ROOT / "docs" / path).exists(), path
