"""The command line against a real router: what it says, and how it ends."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_router.cli import main

from .conftest import ROOT, Router, wait_until
from .terminal import Terminal

pytestmark = pytest.mark.long

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "roles/llm_router/files")}
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


@pytest.fixture
def two(router: Router) -> Router:
    """A router with two models, of which `a` answers as long as a test needs it."""
    router.write({"a": router.standin("a", interval=0.1, tokens=600), "b": router.standin("b")})
    router.start()
    return router


def command(router: Router, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "llm_router", *arguments, "--config", str(router.config)]


@dataclass
class Done:
    """What a command said, and how it ended."""

    returncode: int
    stdout: str
    stderr: str


def cli(router: Router, *arguments: str) -> Done:
    """The command in this process: to start a Python for each would take most of the time."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([*arguments, "--config", str(router.config)])
        except SystemExit as ended:
            status = int(ended.code or 0)
    return Done(status, out.getvalue(), err.getvalue())


def said(router: Router, *arguments: str) -> Any:
    """The answer as JSON."""
    done = cli(router, *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


class Question(threading.Thread):
    """A request that goes on beside a test."""

    def __init__(self, router: Router, model: str) -> None:
        super().__init__(daemon=True)
        self._router, self._model = router, model
        self.start()

    def run(self) -> None:
        body = {"model": self._model, "messages": [{"role": "user", "content": "hi"}]}
        url = f"{self._router.url}/v1/chat/completions"
        with contextlib.suppress(httpx.TransportError):  # the router may be killed over it
            httpx.post(url, json={**body, "stream": True}, timeout=60)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_name_that_is_not_of_the_terminals_encoding_is_no_fault(
    router: Router, encoding: str
) -> None:
    """In a C locale Python keeps such bytes of the command line as half characters."""
    router.write({"a": router.standin("a")})
    router.start()
    environment = {**ENVIRONMENT, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    name = "größe".encode(encoding)
    for verb in ("switch", "plan", "clear"):
        argv = [os.fsencode(word) for word in command(router, verb)]
        argv.append(name)
        done = subprocess.run(argv, env=environment, capture_output=True, check=False)
        assert done.returncode == 1, done.stderr
        assert b" does not exist. Known models: a." in done.stderr
    half = {"model": "gr\udcf6"}
    body = json.dumps(half).encode()  # as an older command sends it
    for path in ("/admin/switch", "/admin/clear", "/v1/chat/completions"):
        headers = {"content-type": "application/json"}
        answer = httpx.post(router.url + path, content=body, headers=headers)
        assert answer.status_code == 404, answer.text
        assert answer.json()["error"]["code"] == "model_not_found"


def test_a_day_of_an_operator(two: Router) -> None:
    assert said(two, "plan", "a")["changed"]
    assert said(two, "switch", "a", "--timeout", "20")["changed"]
    assert not said(two, "switch", "a")["changed"]
    assert cli(two, "requests").stdout == "no request is in flight\n"
    question = Question(two, "a")
    wait_until(lambda: bool(said(two, "requests")["requests"]), "the request is there")
    (request,) = said(two, "requests")["requests"]
    table = cli(two, "requests").stdout.splitlines()
    assert table[0].split() == ["REQUEST", "STATE", "SECONDS", "MODEL", "KEY", "PATH"]
    assert table[1].split()[:2] == [str(request["id"]), "answering"]
    status = cli(two, "status", "--once").stdout
    assert re.search(r"^a  loaded   1 served, 0 waiting  child:a$", status, re.MULTILINE)
    assert re.search(r"^b  stopped  0 served, 0 waiting  child:b$", status, re.MULTILINE)
    assert "/v1/chat/completions" in status
    assert said(two, "status").keys() == {"models", "groups", "switches"}
    ended = cli(two, "cancel", str(request["id"]))
    assert ended.stdout == f"request {request['id']} is ended\n"
    question.join(10)
    assert not question.is_alive()
    assert cli(two, "unload").stdout == "a is unloaded; group default is free\n"
    assert cli(two, "unload").stdout == "nothing is loaded in group default\n"
    again = said(two, "unload", "--group", "default")
    assert (again["changed"], again["group"], again["previous"]) == (False, "default", None)
    assert cli(two, "cancel", "--switch").stdout == "there was no switch to end in group default\n"
    assert cli(two, "pin", "b", "--for", "60").stdout == "b is pinned for 60 s\n"
    assert cli(two, "status").stdout.startswith("b is pinned for ")
    assert cli(two, "unpin", "b").stdout == "b is not pinned\n"
    assert cli(two, "clear", "a").stdout == "a has no failures\n"
    assert said(two, "logs", "a", "--lines", "3")["model"] == "a"
    assert cli(two, "logs", "a").returncode == 0
    check = said(two, "check")
    assert check == {"valid": True, "models": 2, "keys": 0, "problems": [], "notes": []}


def test_what_failed_is_shown_and_forgotten(router: Router) -> None:
    bad = router.standin("a", fault="exit-while-loading")
    router.write({"a": bad}, switch={"timeout": 20, "max_failures": 1})
    router.start()
    done = cli(router, "switch", "a")
    assert done.returncode == 1
    assert "CUDA out of memory, says the stand-in" in done.stderr
    failed = cli(router, "switch", "a", "--json")
    error = json.loads(failed.stdout)["error"]
    assert error["log_lines"]
    assert error["message"] in failed.stderr
    (entry, message) = cli(router, "status").stdout.splitlines()
    assert entry.startswith("a  failed")
    assert message.startswith("  ")
    assert cli(router, "clear", "a").stdout == "the failures of a are forgotten\n"
    assert router.status()["models"]["a"]["state"] == "stopped"


def test_how_commands_end(router: Router) -> None:
    router.write({"a": router.standin("a", load=1.5)})
    for arguments in (["status"], ["requests"], ["switch", "a"], ["status", "--watch"]):
        done = cli(router, *arguments)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.startswith("the router does not run (")
        assert len(done.stderr.splitlines()) == 1
    assert router.cli("status").returncode == 3
    failed = json.loads(cli(router, "status", "--json").stdout)
    assert failed["error"]["code"] == "router_unreachable"
    assert cli(router, "models", "list").returncode == 0
    router.start()
    late = cli(router, "switch", "a", "--timeout", "0.1")
    assert late.returncode == 4
    assert "the switch goes on" in late.stderr
    assert cli(router, "switch", "a").returncode == 0
    for arguments in (
        ["switch", "c"],
        ["plan", "c"],
        ["logs", "c"],
        ["clear", "c"],
        ["cancel", "12"],
        ["unload", "--group", "c"],
    ):
        done = cli(router, *arguments)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    for arguments in (
        ["nothing"],
        ["logs", "a", "--lines", "0"],
        ["logs", "a", "--lines", "x"],
        ["switch", "a", "--timeout", "-1"],
        ["status", "--once", "--watch"],
        ["status", "--int", "3"],
        ["models"],
    ):
        assert cli(router, *arguments).returncode == 2
    (router.dir / "models.yml").write_text("models: [")
    assert cli(router, "status").returncode == 0, "a mistake in models.yml locks nobody out"
    bad = cli(router, "check", "--json")
    assert (bad.returncode, bad.stderr) == (1, "")
    (problem,) = json.loads(bad.stdout)["problems"]
    assert problem.keys() == {"file", "line", "key", "message", "remedy"}
    assert (problem["file"], problem["line"]) == (str(router.dir / "models.yml"), 1)


def test_ctrl_c_and_a_reader_that_is_gone(router: Router) -> None:
    router.write({"a": router.standin("a", load=5)})
    router.start()
    waiting = subprocess.Popen(
        command(router, "switch", "a"),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: bool(router.status()["switches"]), "the switch runs")
    waiting.send_signal(signal.SIGINT)
    assert waiting.communicate(timeout=20) == ("", "")
    assert waiting.returncode == 130
    refused = cli(router, "unload")
    assert (refused.returncode, "cancel the switch first" in refused.stderr) == (1, True)
    assert cli(router, "cancel", "--switch").stdout == "the switch of group default is ended\n"
    with subprocess.Popen(
        command(router, "status", "--watch", "--json", "--interval", "0.05"),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as repeated:
        assert repeated.stdout is not None
        assert repeated.stderr is not None
        for _ in range(2):
            assert "models" in json.loads(repeated.stdout.readline())
        repeated.stdout.close()
        assert repeated.wait(20) == 141
        assert repeated.stderr.read() == b""


def test_the_live_view(router: Router) -> None:
    router.write(
        {
            "a": router.standin("a", load=1.0, interval=0.1, tokens=600),
            "a-second-model-with-a-long-name": router.standin("b"),
        }
    )
    router.start()
    view = Terminal(
        command(router, "status", "--interval", "0.1"),
        cwd=router.dir,
        env={**ENVIRONMENT, "NO_COLOR": "1"},
    )
    with view:
        assert ENTER in view.read_until(r"a +stopped")
        question = Question(router, "a")
        view.read_until(r"switching to a: WaitUntilReady, \d s")
        view.read_until(r"a +loaded .*answering")
        view.resize(20, 24)
        frames = view.read_until(r"a-second-model-with…(.*\x1b\[H){3}").split("\x1b[H")
        for line in frames[-2].split("\r\n"):
            assert len(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)) <= 20, line
        view.resize(80, 24)
        router.stop(signal.SIGKILL)
        view.read_until(r"the router does not answer, \d+ s; below is what it said last.*a +")
        question.join(10)
        router.start()
        view.read_until(r"llm-router on .*a +loaded")
        view.type("\x03")
        assert view.read_rest().endswith(LEAVE)
        assert view.process.wait(10) == 0


def test_the_live_view_gives_the_terminal_back(two: Router) -> None:
    """Ctrl-Z and fg from a shell; SIGTERM."""
    shell = Terminal(
        ["bash", "--norc", "--noprofile", "-i"], cwd=two.dir, env={**ENVIRONMENT, "PS1": "> "}
    )
    with shell:
        shell.type(" ".join(command(two, "status", "--interval", "0.1")) + "\n")
        shell.read_until(r"a  .*stopped.*stopped")
        shell.type("\x1a")
        seen = shell.read_until(r"Stopped.*> $")
        assert LEAVE in seen
        shell.type("fg\n")
        assert ENTER in shell.read_until(r"stopped.*stopped.*\x1b\[H.*stopped")
        parent = shell.process.pid
        for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            os.kill(int(pid), signal.SIGTERM)
        shell.read_until(re.escape(LEAVE) + ".*> $")
        shell.type("echo status=$?\n")
        shell.read_until("status=143")


def test_a_model_that_is_added_is_served_by_the_running_router(two: Router) -> None:
    entry = two.standin("c")
    path = two.dir / "models.yml"
    path.write_text("# mine\n" + path.read_text())
    before = path.read_text()
    words = [str(word) for word in entry["command"]]
    added = cli(
        two,
        *("models", "add", "c", "--backend", "command", "--port", str(entry["port"])),
        *("--command", " ".join(words)),
    )
    assert added.stdout == f"added c to {path}\n"
    assert "takes it over within two seconds" in added.stderr
    assert path.read_text().startswith(before)
    assert cli(two, "reload").stdout in ("added: c\n", "nothing has changed\n")
    listed = {model["name"]: model["state"] for model in said(two, "models", "list")["models"]}
    assert listed == {"a": "stopped", "b": "stopped", "c": "stopped"}
    assert cli(two, "switch", "c").returncode == 0
    rows = [line.split() for line in cli(two, "models", "list").stdout.splitlines()]
    assert rows[0] == ["MODEL", "BACKEND", "GROUP", "UNIT", "STATE"]
    assert rows[-1] == ["c", "command", "default", "child:c", "loaded"]


def test_commands_start_fast() -> None:
    """What a person waits for at each press of a key: generous, for a machine that is busy."""
    began = time.monotonic()
    help_command = [sys.executable, "-m", "llm_router", "--help"]
    subprocess.run(help_command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=True)
    assert time.monotonic() - began < 2
    loaded = "import sys, llm_router.cli; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", loaded], env=ENVIRONMENT, stdout=subprocess.PIPE, check=True
    )
    heavy = {"pydantic", "ruamel.yaml", "httpx", "fastapi", "asyncio", "http.client"}
    assert not heavy & set(done.stdout.decode().split())
