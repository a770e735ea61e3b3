"""What preflight says of a port that another process has."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from .programs import load

ROLE = Path(__file__).parents[2] / "roles/llm_router"
SCRIPT = ROLE / "files/port_holder.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load(SCRIPT)


def said(host: str, port: int) -> str:
    """As the role runs it."""
    argv = [sys.executable, "-I", "-c", SCRIPT.read_text(), host, str(port), "llm-router.service"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(("family", "host"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")])
def test_a_taken_port_is_named_with_its_process(family: str, host: str) -> None:
    with socket.create_server((family, 0)) as other:
        text = said(host, other.getsockname()[1])
    assert f"process {os.getpid()} (" in text or ".service has it" in text
    assert "stop it" in text


def test_a_free_port_and_an_address_that_is_not_there_are_no_obstacle() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    assert said("127.0.0.1", port) == ""
    assert said("192.0.2.1", port) == ""


def test_who_has_it(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    units = {1: "old-router.service", 2: "llm-router.service", 3: ""}
    monkeypatch.setattr(script, "unit_of", units.get)
    mine = "llm-router.service"
    assert "systemctl disable --now old-router.service" in script.description([1, 3], mine)
    assert script.description([2], mine) == ""
    assert "process 3 (" in script.description([3], mine)
    assert "cannot be seen" in script.description([], mine)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/old-router.service\n", "old-router.service"),
        ("0::/system.slice/system-vllm.slice/vllm@a.service/sub\n", "vllm@a.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope\n", ""),
        ("1:name=systemd:/system.slice/a.service\n0::/system.slice/a.service\n", "a.service"),
        ("0::/init.scope\n", ""),
    ],
)
def test_the_unit_of_a_process(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, text: str, unit: str
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: text)
    assert script.unit_of(1) == unit


def test_preflight_stops_at_a_taken_port(tmp_path: Path) -> None:
    """The role's own two tasks, on this machine."""
    tasks = yaml.safe_load((ROLE / "tasks/preflight.yml").read_text())
    own = [task for task in tasks if "port" in task["name"] and "router" in task["name"]]
    assert len(own) == 2
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        variables = {
            "llm_router_host": "127.0.0.1",
            "llm_router_port": port,
            "role_path": str(ROLE),
            "ansible_python_interpreter": sys.executable,
        }
        play = {"hosts": "localhost", "connection": "local", "gather_facts": False}
        play |= {"vars": variables, "tasks": own}
        (tmp_path / "play.yml").write_text(json.dumps([play]))
        ansible = Path(sys.executable).with_name("ansible-playbook")
        done = subprocess.run(
            [str(ansible), "-i", "localhost,", "play.yml"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"port {port} of 127.0.0.1 is in use" in done.stdout
    assert "as llm_router_port." in done.stdout
