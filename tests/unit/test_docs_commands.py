"""What the README tells people to type exists: files, make targets, variables, subcommands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
ROUTER = ROOT / "roles/llm_router/files"

# Files that the reader makes (`cp -r examples/one-host my-server`), and where they come from.
READERS = {"my-server": "examples/one-host"}


def blocks(language: str) -> list[str]:
    """The README's fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Each line of the sh blocks, without its comment."""
    return [line for block in blocks("sh") for line in block.splitlines() if line.strip()]


def words() -> list[list[str]]:
    return [shlex.split(command, comments=True) for command in commands()]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE))


def exists(path: str) -> bool:
    first, _, rest = path.partition("/")
    return (ROOT / READERS.get(first, first) / rest).exists()


@pytest.mark.parametrize("command", commands())
def test_every_command_is_shell(command: str) -> None:
    subprocess.run(["/bin/sh", "-n", "-c", command], check=True)


def test_every_make_target_exists() -> None:
    told = set(re.findall(r"\bmake -C roundhouse ([a-z-]+)", "\n".join(commands())))
    told |= set(re.findall(r"`make ([a-z-]+)", README))
    assert {"demo", "demo-down", "test", "check"} <= told
    assert told <= make_targets()


def test_every_file_that_is_named_exists() -> None:
    told = {
        word
        for line in words()
        for word in line
        if re.match(r"^(tools|examples|playbooks|roles|demo|docs|my-server)/", word)
    }
    told |= set(re.findall(r"`((?:tools|examples|roles|docs)/[\w./-]+)`", README))
    told |= {path for path in re.findall(r"\]\(([^)]+)\)", README) if "://" not in path}
    assert told
    assert not [path for path in sorted(told) if not exists(path)]


def test_the_files_to_edit_are_in_the_example() -> None:
    for name in ("inventory.yml", "models.yml", "group_vars/llm_servers.yml"):
        assert f"`{name}`" in README
        assert exists(f"my-server/{name}")


def test_every_role_variable_exists() -> None:
    known = {
        option
        for role in (
            "llm_router",
            "llamacpp",
            "sglang",
            "vllm",
            "uv",
            "models",
            "monitoring",
            "open_webui",
        )
        for option in yaml.safe_load((ROOT / f"roles/{role}/defaults/main.yml").read_text())
    }
    known |= {"llm_model"}  # of the switch, on the command line
    roles = "llm_router|llamacpp|sglang|vllm|uv|llm|models|monitoring|open_webui"
    told = set(re.findall(rf"\b(?:{roles})_[a-z_]+\b", README))
    # groups, and roles
    others = {"llm_servers", "llm_monitoring", "llm_webuis", "llm_router", "open_webui"}
    assert told - others <= known


def test_every_router_subcommand_exists() -> None:
    told = {line[1] for line in words() if line[0] == "llm-router"}
    assert {"switch", "status", "check"} <= told
    for subcommand in told:
        subprocess.run(
            [sys.executable, "-m", "llm_router", subcommand, "--help"],
            env={"PYTHONPATH": str(ROUTER), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.DEVNULL,
            check=True,
        )


def test_every_option_of_install_sh_is_in_its_help() -> None:
    said = subprocess.run(
        [ROOT / "install.sh", "--help"], capture_output=True, text=True, check=True
    )
    lines = [line for line in words() if "./install.sh" in line]
    told = {word for line in lines for word in line if word.startswith("--")}
    told |= set(re.findall(r"`(--[a-z-]+) FILE` answers", README))
    assert {"--check", "--answers"} <= told
    assert not [option for option in told if option not in said.stdout]


def test_the_install_line_brings_what_it_uses() -> None:
    for line in (line for line in commands() if "apt-get" in line):
        assert {"git", "make", "python3", "python3-venv"} <= set(line.split())
