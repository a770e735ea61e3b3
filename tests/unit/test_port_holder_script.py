"""What preflight says of a port that another process has."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from llm_router.engine_files import DEFAULT_PORTS
from tests.plays import run_plays

from .programs import load

ROLES = Path(__file__).parents[2] / "roles"
ROLE = ROLES / "llm_router"
ENGINES = [
    "Get the processes that have ports of the engines",
    "Assert that the engines can have their ports",
]
GATEWAY = [
    "Assert that no other part of this host is to have the gateway's port",
    "Get the processes that have the gateway's ports",
    "Assert that the gateway can have its ports",
]
WEB_UI = ["Get the process that has Open WebUI's port", "Assert that Open WebUI can have its port"]
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


def play(
    role: Path, tasks: list[str], variables: dict[str, Any], directory: Path
) -> subprocess.CompletedProcess[str]:
    """These tasks of a role's preflight, with its variables, on this machine."""
    all_tasks = yaml.safe_load((role / "tasks/preflight.yml").read_text())
    own = [task for task in all_tasks if task["name"] in tasks]
    assert len(own) == len(tasks)
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": own}
    play["vars_files"] = [str(role / "defaults/main.yml"), str(role / "vars/main.yml")]
    play["vars"] = {"role_path": str(role), "ansible_python_interpreter": sys.executable}
    return run_plays(directory, [play], variables, check=False)


def test_preflight_stops_at_a_taken_port(tmp_path: Path) -> None:
    """The role's own two tasks, on this machine."""
    own = ["Get the process that has the router's port", "Assert that the router can have its port"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = play(ROLE, own, {"llm_router_port": port}, tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"port {port} of 127.0.0.1 is in use" in done.stdout
    assert "as llm_router_port." in done.stdout


def test_preflight_stops_at_a_taken_port_of_an_engine(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        model = {"backend": "vllm", "service": "vllm@a.service", "port": port}
        done = play(ROLE, ENGINES, {"__llm_router_models": {"a": model, "b": model}}, tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"port {port} of 127.0.0.1, of the engine of a, b: " in done.stdout
    assert "stop it" in done.stdout
    done = play(ROLE, ENGINES, {"__llm_router_models": {"a": model}}, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_ports_of_engines_are_those_of_the_router() -> None:
    for role, name in (
        ("llm_router", "__llm_router_default_ports"),
        ("gateway", "__gateway_engine_ports"),
    ):
        assert yaml.safe_load((ROLES / role / "vars/main.yml").read_text())[name] == DEFAULT_PORTS


def test_engines_that_the_present_models_name_keep_their_ports(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A model that was removed still runs: the router stops it when it reads the new file."""
    (tmp_path / "models.yml").write_text("models:\n  a: {service: llamacpp@a-1.service}\n")
    known = script.known_units(str(tmp_path / "models.yml"))
    assert known == ["llamacpp@a-1.service"]
    assert script.known_units(str(tmp_path / "none.yml")) == []
    monkeypatch.setattr(script, "unit_of", {1: "llamacpp@a-1.service", 2: "x.service"}.get)
    monkeypatch.setattr(script, "is_container", lambda _: False)
    monkeypatch.setattr(script, "is_taken", lambda *_: True)
    plan = [{"what": "of b", "host": "127.0.0.1", "port": 8080, "units": ["llamacpp@b.service"]}]
    monkeypatch.setattr(script, "holders", lambda _: [1])
    assert script.of_plan(plan, known) == []
    monkeypatch.setattr(script, "holders", lambda _: [2])
    (line,) = script.of_plan(plan, known)
    assert line.startswith("port 8080 of 127.0.0.1, of b: x.service has it; stop it with")


@pytest.mark.parametrize(
    ("group", "container"),
    [
        ("0::/system.slice/docker.service\n", True),
        ("0::/system.slice/docker-0f3a.scope\n", True),
        ("0::/machine.slice/libpod-0f3a.scope/container\n", True),
        ("0::/system.slice/dockerish.service\n", False),
        ("0::/system.slice/vllm.service\n", False),
    ],
)
def test_a_containers_processes_are_its_units(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, group: str, container: bool
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: group)
    assert script.is_container(1) is container
    monkeypatch.setattr(script, "is_taken", lambda *_: True)
    monkeypatch.setattr(script, "holders", lambda _: [1])
    monkeypatch.setattr(script, "is_active", lambda units: units == ["mine.service"])
    plan = [{"what": "of a", "host": "127.0.0.1", "port": 1, "units": ["mine.service"]}]
    assert (script.of_plan(plan, []) == []) is container
    plan[0]["units"] = ["stopped.service"]
    assert script.of_plan(plan, [])


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"gateway_port": 0}, "the gateway's (gateway_port): "),
        ({"gateway_metrics": "127.0.0.1:0"}, "of the gateway's metrics (gateway_metrics): "),
        ({"gateway_metrics": ":0"}, "of the gateway's metrics (gateway_metrics): "),
    ],
)
def test_preflight_stops_at_a_taken_port_of_the_gateway(
    tmp_path: Path, variables: dict[str, Any], words: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, socket.create_server(("", 0)) as free:
        port, given = other.getsockname()[1], {"gateway_port": free.getsockname()[1]}
        free.close()
        for name, value in variables.items():
            given[name] = port if value == 0 else value[:-1] + str(port)
        done = play(ROLES / "gateway", GATEWAY, given, tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stdout


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"gateway_host": "0.0.0.0", "gateway_port": 8000}, "that of model a;"),
        (
            {"gateway_host": "0.0.0.0", "gateway_port": 8002},
            "that of the router (llm_router_port);",
        ),
        ({"gateway_host": "192.0.2.1", "gateway_port": 8002}, ""),
        ({"gateway_host": "192.0.2.1", "gateway_port": 8000}, ""),
        ({"gateway_host": "127.0.0.1", "gateway_port": 8001}, ""),
    ],
)
def test_the_gateway_and_what_else_is_on_its_host_have_ports_of_their_own(
    tmp_path: Path, variables: dict[str, Any], words: str
) -> None:
    models = {"a": {"backend": "vllm", "service": "vllm@a.service"}}
    fleet = {"gateway_servers": "all", "llm_router_models": models}
    done = play(ROLES / "gateway", GATEWAY[:1], {**fleet, **variables}, tmp_path)
    assert done.returncode == (2 if words else 0), done.stdout + done.stderr
    assert words in done.stdout


def test_preflight_stops_at_a_taken_port_of_the_web_ui(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = play(ROLES / "open_webui", WEB_UI, {"open_webui_port": port}, tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"port {port} of 127.0.0.1 is in use: " in done.stdout
