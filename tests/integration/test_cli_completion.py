"""Completion scripts, run by the shells themselves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm_router.cli import main
from llm_router.cli.parser import SHELLS, build

from .terminal import Terminal

ROUTER = Path(__file__).parents[2] / "roles/llm_router/files"
MODELS = "models:\n  gemma: {}\n  org/gemma:3: {}\n  org/gemma:27@q4: {}\n"


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.fixture
def home(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A directory with the scripts, a program, and a configuration."""
    for shell in SHELLS:
        (tmp_path / f"script.{shell}").write_text(script(shell, capsys))
    program = tmp_path / "bin/llm-router"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m llm_router "$@"\n')
    program.chmod(0o755)
    (tmp_path / "config.yml").write_text("models_file: m.yml\n")
    (tmp_path / "m.yml").write_text(MODELS)
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    path = f"{home}/bin:{os.environ['PATH']}"
    return {"PATH": path, "PYTHONPATH": str(ROUTER), "HOME": str(home)}


def bash_replies(home: Path, line: str) -> list[str]:
    """What bash's completion function puts into COMPREPLY, with bash's own splitting."""
    words = re.findall(r"[@:=]+|[^\s@:=]+", line) + ([""] if line.endswith(" ") else [])
    array = " ".join(f"'{word}'" for word in words)
    code = (
        f"set -u; source script.bash; COMP_LINE='{line}' COMP_POINT={len(line)} "
        f"COMP_WORDS=({array}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); "
        "_llm_router llm-router; printf '%s\\n' ${COMPREPLY[@]+\"${COMPREPLY[@]}\"}"
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", code],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("llm-router c", ["check", "cancel", "clear", "completion"]),
        ("llm-router models ", ["list", "add", "remove"]),
        ("llm-router models r", ["remove"]),
        ("llm-router status --o", ["--once"]),
        ("llm-router --v", ["--version"]),
        ("llm-router completion ", ["bash", "zsh", "fish"]),
        ("llm-router completion bash ", []),
        ("llm-router models add x --backend ", ["sglang", "vllm", "tabby", "llamacpp", "command"]),
        ("llm-router models add x --status con", ["content"]),
        ("llm-router switch --timeout ", []),
        ("llm-router switch --timeout 3 --config config.yml ge", ["gemma"]),
        ("llm-router switch --config config.yml org/gemma:", ["3", "27@q4"]),
        ("llm-router switch --config config.yml org/gemma:27@q", ["q4"]),
        ("llm-router models remove --models m.yml g", ["gemma"]),
        ("llm-router logs --config nowhere.yml ", []),
        ("llm-router check --config con", ["config.yml"]),
        ("llm-router check --nothing ", []),
        ("llm-router nothing ", []),
    ],
)
def test_bash_completes(home: Path, line: str, replies: list[str]) -> None:
    assert bash_replies(home, line) == replies


def test_bash_at_a_terminal_completes_names_with_colons(home: Path) -> None:
    """Only readline itself shows what becomes of a word that it splits."""
    bash = ["bash", "--norc", "--noprofile", "-i"]
    with Terminal(bash, cwd=home, env={**environment(home), "PS1": "> "}) as terminal:
        # a function stands in for the program, for all but the names
        terminal.type("source script.bash; HISTFILE=; llm-router() { case $1 in models) ")
        terminal.type('command llm-router "$@" ;; *) echo "[$*]" ;; esac; }\n')
        terminal.type("llm-router plan --config config.yml or\t27\t\n")
        terminal.read_until(r"\[plan --config config.yml org/gemma:27@q4\]")


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("llm-router mod", ["models"]),
        ("llm-router models ", ["add", "list", "remove"]),
        ("llm-router models add x --backend v", ["vllm"]),
        ("llm-router switch --config config.yml org", ["org/gemma:3", "org/gemma:27@q4"]),
        ("llm-router status --on", ["--once"]),
        ("llm-router check --config con", ["config.yml"]),
        ("llm-router completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_fish_completes(home: Path, line: str, replies: list[str]) -> None:
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source script.fish; complete -C '{line}'"],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(row.split("\t")[0] for row in done.stdout.splitlines()) == sorted(replies)
    assert done.stderr == ""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_completes(home: Path) -> None:
    (home / ".zshrc").write_text(
        "PS1='> '; autoload -U compinit; compinit -u; source ./script.zsh; "
        "unsetopt list_beep; bindkey '^I' complete-word\n"
        'show() { print -r -- "[$*]" }\n'
    )
    remove = "--config config.yml org/gemma:2"
    with Terminal(["zsh", "-i"], cwd=home, env=environment(home)) as terminal:
        terminal.read_until("> ")
        for typed, completed in (
            (f"mod\trem\t{remove}\t", f"models remove {remove}7@q4"),
            ("models add x --backend ll\t", "models add x --backend llamacpp"),
            ("status --onc\t", "status --once"),
        ):
            # instead of running it, show it
            terminal.type(f"llm-router {typed}\x01show \n")
            terminal.read_until(re.escape(f"[llm-router {completed}]"))


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell, capsys)
    assert "@" not in re.sub(r"\[@[^\]]*\]|\$@|@[:=]", "", text), "a part that was not filled in"
    usage = build().format_help()
    for command in re.findall(r"^    ([a-z]+)", usage, flags=re.MULTILINE):
        assert re.search(rf"\b{command}\b", text)
