"""docs/cli.md names every command and exit status there is, and none that there is not."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from llm_router.cli.completion import Command, commands
from llm_router.cli.exits import EXPLAINED, Exit
from llm_router.cli.parser import build, parse

PAGE = (Path(__file__).parents[2] / "docs/cli.md").read_text()
COMMANDS = {command.path: command for command in commands().all() if not command.subcommands}


def told(line: str) -> Command:
    """The command that a line of the page is about."""
    words = line.split()
    for length in (3, 2):
        path = " ".join(words[1:length])
        if path in COMMANDS:
            return COMMANDS[path]
    pytest.fail(f"there is no command `{line}`")


def test_every_command_is_told_and_exists() -> None:
    lines = re.findall(r"`(llm-router [^`]+)`", PAGE.replace("`llm-router COMMAND --help`", ""))
    assert {told(line).path for line in lines} == set(COMMANDS)


def test_every_option_that_is_told_exists() -> None:
    known = {
        string
        for command in COMMANDS.values()
        for option in command.options
        for string in option.strings
    }
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGE)) - {"--ctx-size"} <= known
    for row in re.findall(r"^\| `llm-router .*$", PAGE, re.MULTILINE):
        command = told(row.split("`")[1])
        options = {string for option in command.options for string in option.strings}
        assert set(re.findall(r"`(--[a-z-]+)", row)) <= options, row


def test_every_command_in_a_block_is_right() -> None:
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            parse(shlex.split(line.partition(" >")[0])[1:])


def test_every_exit_status_is_told() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert {int(number): meaning.replace("`", "") for number, meaning in rows} == {
        int(status): meaning for status, meaning in EXPLAINED.items()
    }
    assert set(EXPLAINED) == set(Exit)
    text = build().format_help()
    for status, meaning in EXPLAINED.items():
        assert re.search(rf"^  {int(status)} +{re.escape(meaning)}$", text, re.MULTILINE)
