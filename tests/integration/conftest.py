"""A real router in a process of its own, with child-process engines on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

# In the background of a script SIGINT is ignored, and what is started there inherits that: a Ctrl-C
# would reach no one.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[2]
STANDIN = ROOT / "tests/standin/engine.py"


def _ports() -> Iterator[int]:
    """Ports below those that the kernel gives to clients: one of these it could give away between
    our look and the engine's. Each process of tests begins somewhere else, and none comes twice."""
    first, last = 10_000, 32_000
    start = random.SystemRandom().randrange(first, last)
    while True:
        yield from range(start, last)
        yield from range(first, start)


_PORTS = _ports()


def free_port(and_next: int = 0) -> int:
    """A port on which nobody listens, nor on the ``and_next`` ones after it."""
    while True:
        ports = [next(_PORTS) for _ in range(and_next + 1)]
        if ports[-1] != ports[0] + and_next:
            continue
        try:
            for port in ports:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return ports[0]


def wait_until(fact: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Return when ``fact`` is true; fail the test when it does not become so."""
    until = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > until:
            pytest.fail(f"{what}: not within {seconds} s")
        time.sleep(0.02)


@dataclass
class Router:
    """A router process and what a test needs to talk to it and to look behind it."""

    dir: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    module: str = "llm_router"
    """What is started; a bench has one that measures itself."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def config(self) -> Path:
        return self.dir / "config.yml"

    @property
    def record(self) -> Path:
        return self.dir / "requests.jsonl"

    @property
    def events(self) -> Path:
        return self.dir / "events.txt"

    @property
    def turns(self) -> Path:
        return self.dir / "turns.json"

    def write(self, models: dict[str, Any], **config: Any) -> None:
        base = {
            "schema": 1,
            "listen": {"port": self.port},
            "units": "child",
            "state_dir": str(self.dir / "state"),
            "admin_socket": str(self.dir / "admin.sock"),
            "llamacpp_binary": "embedded",
            "switch": {"timeout": 20, "stop_timeout": 5},
        }
        self.config.write_text(yaml.safe_dump({**base, **config}), encoding="utf-8")
        models_text = yaml.safe_dump({"models": models}, sort_keys=False)
        (self.dir / "models.yml").write_text(models_text, encoding="utf-8")

    def standin(self, name: str, **options: Any) -> dict[str, Any]:
        """A models.yml entry for a stand-in engine; options are its command line's."""
        port = free_port()
        command = [sys.executable, "-S", "-E", str(STANDIN), "--port", port, "--name", name]
        command += ["--record", str(self.record), "--events", str(self.events)]
        for key, value in options.items():
            option = f"--{key.replace('_', '-')}"
            command += [option, str(value) if isinstance(value, Path) else value]
        return {"backend": "command", "port": port, "command": command}

    def start(self) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'roles/llm_router/files'}{os.pathsep}{ROOT}",
            "TURNS": str(self.turns),
        }
        # the checkout stays clean, and yet each test's router does not compile its sources anew
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPYCACHEPREFIX"] = str(ROOT / ".cache/pycache")
        with (self.dir / "router.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module, "serve", "--config", str(self.config)],
                stdout=log,
                stderr=log,
                env=environment,
            )
        wait_until(self.answers, f"the router answers; its log: {self.dir / 'router.log'}")

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.dir / "router.log").read_text()
        try:
            return httpx.get(self.url + "/health").status_code in (200, 503)
        except httpx.TransportError:
            return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int | None:
        """The exit status; None when it does not run."""
        if self.process is None:
            return None
        self.process.send_signal(number)
        status = self.process.wait(30)
        self.process = None
        return status

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "roles/llm_router/files")}
        return subprocess.run(
            [sys.executable, "-m", "llm_router", *arguments, "--config", str(self.config)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
            check=False,
        )

    def client(self, **options: Any) -> openai.OpenAI:
        defaults = {"base_url": self.url + "/v1", "api_key": "none", "max_retries": 0}
        return openai.OpenAI(**{**defaults, **options})

    def health(self) -> dict[str, Any]:
        return dict(httpx.get(self.url + "/health").json())

    def status(self) -> dict[str, Any]:
        return dict(httpx.get(self.url + "/admin/status").json())

    def requests(self) -> list[dict[str, Any]]:
        """The chat requests that stand-in engines got."""
        return [json.loads(line) for line in self.record.read_text().splitlines()]

    def end(self, *, may_be_gone: bool = False) -> None:
        """Stop it, and kill its engines: they survive a router that was killed. ``may_be_gone``: an
        engine that is recorded may have ended."""
        self.stop()
        missing = (ProcessLookupError,) if may_be_gone else ()
        for pid in self.engine_pids().values():
            with contextlib.suppress(*missing):
                os.killpg(pid, signal.SIGKILL)

    def engine_pids(self) -> dict[str, int]:
        """By unit: the pid of each running child."""
        found = {}
        for path in (self.dir / "state/children").glob("*.json"):
            # a record is there before its process is
            record = json.loads(path.read_text())
            if "pid" in record:
                found[path.stem] = int(record["pid"])
        return found


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Router]:
    made = Router(tmp_path)
    yield made
    made.end()


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two half-megabyte models for the real llama.cpp."""
    directory = tmp_path_factory.mktemp("models")
    paths = directory / "a.gguf", directory / "b.gguf"
    for seed, path in enumerate(paths):
        tool = ROOT / "tests/hosts/tiny_gguf.py"
        subprocess.run([sys.executable, tool, path, "--seed", str(seed)], check=True)
    return paths
