"""The command lines of the stand-ins' wheels, as the engines' own were read to be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from .conftest import STANDIN, free_port, wait_until

pytestmark = pytest.mark.contracts

RUN = "import sys, command_lines; getattr(command_lines, sys.argv[1])(sys.argv[2:])"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def command(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-c", RUN, program, *arguments]


def said(program: str, *arguments: str) -> tuple[int, str]:
    """What a command that fails ends with."""
    done = subprocess.run(
        command(program, *arguments),
        env=os.environ | {"PYTHONPATH": str(STANDIN.parent)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.returncode, done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("program", ["sglang", "vllm"])
def test_the_files_options_hold_and_the_command_lines_win(
    program: str, model: Path, tmp_path: Path
) -> None:
    port = free_port()
    config = tmp_path / "a.yml"
    name = "model-path" if program == "sglang" else "model"
    config.write_text(f"{name}: {model}\nserved-model-name: a\nport: 1\ntrust-remote-code: true\n")
    first = ["serve"] if program == "vllm" else []
    argv = command(program, *first, "--config", str(config), "--port", str(port))
    environment = os.environ | {"PYTHONPATH": str(STANDIN.parent)}
    with subprocess.Popen(argv, env=environment) as process:
        try:

            def listed() -> bool:
                try:
                    answer = httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=5)
                except httpx.ConnectError:
                    return False
                return answer.status_code == 200 and answer.json()["data"][0]["id"] == "a"

            wait_until(listed, "it serves the file's model on the command line's port")
        finally:
            process.kill()


def test_sglang_serve_wants_the_model_on_the_command_line(model: Path, tmp_path: Path) -> None:
    config = tmp_path / "a.yml"
    config.write_text(f"model-path: {model}\n")
    code, last = said("sglang_cli", "serve", "--config", str(config))
    assert code == 1
    assert "--model-path is required" in last


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.conf", "model-path: x\n", "must be YAML format"),
        ("a.yml", "- a list\n", "must contain a dictionary"),
        ("a.yml", "model-path: /nowhere\n", "/nowhere is not a local folder"),
    ],
)
def test_sglang_refuses_a_file_that_is_none(tmp_path: Path, name: str, text: str, why: str) -> None:
    config = tmp_path / name
    config.write_text(text)
    code, last = said("sglang", "--config", str(config))
    assert code == 1
    assert why in last


@pytest.mark.parametrize("program", ["sglang", "vllm"])
def test_an_unknown_option_ends_it(program: str, model: Path) -> None:
    first = ["serve"] if program == "vllm" else []
    code, last = said(program, *first, "--model", str(model), "--no-such-option", "1")
    assert code == 2
    assert "--no-such-option" in last
