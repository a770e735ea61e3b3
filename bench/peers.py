"""The proxies that `make bench` compares: how each is had, started and asked.

Each one is optional but the router: what cannot be had here is `Absent`, with the reason.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

from tests.integration.conftest import free_port

ROOT = Path(__file__).resolve().parent.parent
KEY = "the-key-of-the-bench"
SGLANG_ROUTER = "sglang-router==0.3.2"
LITELLM = "litellm[proxy]==1.106.2"
LOCK = ROOT / "roles/llm_router/files/requirements.lock"
HAPROXY_PACKAGES = ("haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1")
"""Debian's package, and those of its libraries that a small system has not got."""

HAPROXY = """\
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  option http-buffer-request
  option http-no-delay
frontend clients
  bind 127.0.0.1:{port}
  http-request set-var(txn.model) req.body,json_query('$.model')
  use_backend engine if {{ var(txn.model) -m str bench }}
  default_backend nothing
backend engine
  http-reuse always
  server engine 127.0.0.1:{engine}
backend nothing
  http-request deny deny_status 404
"""


class Absent(Exception):
    """It cannot be had here; the text says why."""


@dataclass
class Peer:
    """A proxy that runs, or one that is asked where it runs already."""

    name: str
    port: int
    process: subprocess.Popen[bytes] | None = None
    directory: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)
    version: str = ""

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.directory is not None:
            self.directory.cleanup()


def kept() -> Path:
    """Where what the peers need is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(os.environ.get("ROUNDHOUSE_CACHE") or Path(base) / "roundhouse") / "bench"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _spawn(
    name: str,
    argv: list[str],
    port: int,
    cpu: int | None,
    *,
    environment: dict[str, str] | None = None,
    within: float = 60.0,
    path: str = "/v1/models",
) -> Peer:
    log = Path(tempfile.gettempdir()) / f"bench-{name}-{os.getpid()}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv,
            stdout=out,
            stderr=out,
            env={**os.environ, **(environment or {})},
        )
    if cpu is not None:
        # it has begun no thread yet, and what it begins stays there too
        os.sched_setaffinity(process.pid, [cpu])
    peer = Peer(name, port, process)
    until = time.monotonic() + within
    while not _answers(port, path):
        if process.poll() is not None or time.monotonic() > until:
            peer.stop()
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            raise Absent(f"does not start: {' | '.join(last)[:300]}")
        time.sleep(0.1)
    log.unlink()
    return peer


def _answers(port: int, path: str) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def router(cpu: int | None, engine_cpus: list[int]) -> tuple[Peer, int]:
    """The router with everything on, and the port of the engine that it has started."""
    directory = tempfile.TemporaryDirectory(prefix="bench-router-")
    base = Path(directory.name)
    port, engine = free_port(), free_port()
    key = {"name": "bench", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}
    command = [sys.executable, "-m", "bench.engine", "--port", str(engine)]
    command += ["--cpus", ",".join(map(str, engine_cpus))] if engine_cpus else []
    model = {"backend": "command", "port": engine, "command": command, "preload": True}
    config = {
        "schema": 1,
        "listen": {"port": port},
        "units": "child",
        "state_dir": str(base / "state"),
        "admin_socket": str(base / "admin.sock"),
    }
    (base / "config.yml").write_text(yaml.safe_dump(config))
    (base / "models.yml").write_text(yaml.safe_dump({"models": {"bench": model}}))
    (base / "keys.yml").write_text(yaml.safe_dump({"keys": [key]}))
    peer = _spawn(
        "router",
        [_router_python(), "-m", "llm_router", "serve", "--config", str(base / "config.yml")],
        port,
        cpu,
        environment={"PYTHONPATH": f"{ROOT}:{ROOT / 'roles/llm_router/files'}"},
        path="/health",
    )
    peer.directory = directory
    until = time.monotonic() + 30
    while not _answers(engine, "/v1/models"):
        if time.monotonic() > until:
            peer.stop()
            raise Absent("its engine does not start")
        time.sleep(0.1)
    time.sleep(1.0)  # its warm-up
    return peer, engine


def stop_engine(peer: Peer) -> None:
    """The engine outlives the router, as it should; here it must not."""
    if peer.directory is None:
        return
    for path in Path(peer.directory.name).glob("state/children/*.json"):
        pid = yaml.safe_load(path.read_text())["pid"]
        os.killpg(pid, signal.SIGKILL)


def haproxy(engine: int, cpu: int | None) -> Peer:
    """Debian's HAProxy, one thread, that routes by the body's model and passes tokens at once."""
    binary = shutil.which("haproxy")
    environment: dict[str, str] = {}
    if binary is None:
        root = kept() / "haproxy"
        if not (root / ".complete").exists():
            _unpack(root)
        binary = str(root / "usr/sbin/haproxy")
        libraries = [str(path) for path in (root / "usr/lib").iterdir() if path.is_dir()]
        environment["LD_LIBRARY_PATH"] = ":".join(libraries)
    port = free_port()
    with tempfile.NamedTemporaryFile("w", suffix=".cfg", delete=False) as file:
        file.write(HAPROXY.format(port=port, engine=engine))
    argv = [binary, "-db", "-f", file.name]
    try:
        peer = _spawn("haproxy", argv, port, cpu, environment=environment, within=10)
    finally:
        Path(file.name).unlink()
    said = subprocess.run(
        [binary, "-v"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    ).stdout
    peer.version = said.split()[2] if len(said.split()) > 2 else ""
    return peer


def _unpack(root: Path) -> None:
    """Debian's packages, unpacked: nothing is installed, and no service is started."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Absent("no haproxy in PATH, and this is no Debian to have its package from")
    with tempfile.TemporaryDirectory() as parts:
        for package in HAPROXY_PACKAGES:
            got = subprocess.run(
                ["apt-get", "-qq", "download", package],
                cwd=parts,
                capture_output=True,
                text=True,
                check=False,
            )
            if got.returncode and package == "haproxy":
                raise Absent(f"Debian's package cannot be had: {got.stderr.strip()[:200]}")
        for file in Path(parts).glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", file, root], check=True)
    (root / ".complete").touch()


@cache
def interpreter() -> str:
    """What the router and every other proxy in Python run on: the distribution's, as on a host
    (its build is optimised; one that was made by hand may take a third more time), if it will do.
    """
    distribution = "/usr/bin/python3"
    probe = "import ensurepip, sys; sys.exit(sys.version_info < (3, 10))"
    try:
        tried = subprocess.run([distribution, "-c", probe], capture_output=True, check=False)
    except OSError:
        return sys.executable
    return sys.executable if tried.returncode else distribution


@cache
def python_version() -> str:
    """Of `interpreter`."""
    said = subprocess.run([interpreter(), "-V"], capture_output=True, text=True, check=True)
    return said.stdout.split()[1]


def _environment(name: str, *wanted: str) -> Path:
    """A virtual environment with ``wanted``, pip's words, made where it is not there."""
    path, python = kept() / name, interpreter()
    done = path / ".complete"
    # a lock file counts by what is in it: other checkouts have the same one elsewhere
    words = [Path(word).read_text() if word == str(LOCK) else word for word in wanted]
    state = "\n".join([python_version(), *words])
    if not done.exists() or done.read_text() != state:
        shutil.rmtree(path, ignore_errors=True)
        print(f"bench: installing {' '.join(wanted)} into {path}", file=sys.stderr, flush=True)
        for argv in (
            [python, "-m", "venv", str(path)],
            [f"{path}/bin/python", "-m", "pip", "install", "-q", "--only-binary", ":all:", *wanted],
        ):
            got = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=900)
            if got.returncode:
                last = (got.stderr or got.stdout).strip().splitlines()[-1:]
                raise Absent(f"{name} cannot be installed: {' '.join(last)[:200]}")
        done.write_text(state)
    return path / "bin"


def _router_python() -> str:
    """With exactly what the role installs."""
    return str(_environment("router", "--require-hashes", "-r", str(LOCK)) / "python")


def usual(engine: int, cpu: int | None) -> Peer:
    """A FastAPI route and httpx, in the router's own environment."""
    port = free_port()
    argv = [_router_python(), "-m", "uvicorn", "bench.usual:app", "--port", str(port)]
    return _spawn(
        "usual",
        [*argv, "--no-access-log", "--log-level", "warning"],
        port,
        cpu,
        environment={"BENCH_ENGINE": f"http://127.0.0.1:{engine}", "PYTHONPATH": str(ROOT)},
    )


def sglang_router(engine: int, cpu: int | None) -> Peer:
    """sglang-router, which is written in Rust, with one worker."""
    python = _environment("sglang-router", SGLANG_ROUTER) / "python"
    port, metrics = free_port(), free_port()
    argv = [str(python), "-m", "sglang_router.launch_router", "--host", "127.0.0.1"]
    argv += ["--port", str(port), "--worker-urls", f"http://127.0.0.1:{engine}"]
    argv += ["--policy", "round_robin", "--prometheus-port", str(metrics), "--log-level", "error"]
    peer = _spawn("sglang-router", argv, port, cpu, path="/v1/models")
    peer.version = SGLANG_ROUTER.partition("==")[2]
    return peer


def litellm(engine: int, cpu: int | None) -> Peer:
    """LiteLLM's proxy, one worker."""
    bin_ = _environment("litellm", LITELLM)
    port = free_port()
    parameters = {
        "model": "openai/bench",
        "api_base": f"http://127.0.0.1:{engine}/v1",
        "api_key": "none",
    }
    config = {"model_list": [{"model_name": "bench", "litellm_params": parameters}]}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
        yaml.safe_dump(config, file)
    argv = [str(bin_ / "litellm"), "--config", file.name, "--host", "127.0.0.1"]
    argv += ["--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    environment = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    # the bench's tokens are all alike, which it takes for an engine that is stuck
    environment["REPEATED_STREAMING_CHUNK_LIMIT"] = "1000000"
    # without a key, as the others that check none
    environment["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"
    environment["PATH"] = f"{bin_}:{os.environ['PATH']}"
    try:
        peer = _spawn(
            "litellm", argv, port, cpu, environment=environment, within=120, path="/health/liveness"
        )
    finally:
        Path(file.name).unlink()
    peer.version = LITELLM.partition("==")[2]
    return peer


def llama_swap(engine: int, cpu: int | None) -> Peer:
    """llama-swap, where ``LLAMA_SWAP`` names its program: with a key, and its log off."""
    binary = os.environ.get("LLAMA_SWAP", "")
    if not binary:
        raise Absent("LLAMA_SWAP names no program; build one from its source")
    port = free_port()
    model = {
        "cmd": "sleep infinity",
        "proxy": f"http://127.0.0.1:{engine}",
        "checkEndpoint": "none",
        "concurrencyLimit": 10_000,
    }
    config = {
        "logLevel": "error",
        "logToStdout": "none",
        "apiKeys": [KEY],
        "models": {"bench": model},
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
        yaml.safe_dump(config, file)
    argv = [binary, "--config", file.name, "--listen", f"127.0.0.1:{port}"]
    try:
        peer = _spawn("llama-swap", argv, port, cpu, within=10, path="/health")
    finally:
        Path(file.name).unlink()
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    peer.version = (said.stdout or said.stderr).strip().partition("\n")[0]
    return peer


PEERS: dict[str, Callable[[int, int | None], Peer]] = {
    "haproxy": haproxy,
    "usual": usual,
    "sglang-router": sglang_router,
    "litellm": litellm,
    "llama-swap": llama_swap,
}
