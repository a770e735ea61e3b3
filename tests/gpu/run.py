"""On a machine with a GPU and no model: the router, `tests/gpu/engine.py`, `llm-router qualify`.

    PYTHONPATH=.:roles/llm_router/files python -m tests.gpu.run --out DIR [--engine-python PYTHON]

It needs what the router depends on; ``--engine-python`` is one that has torch and transformers.
Two models take turns on the GPU and hold so many GB (``--hold 10,20``), so that NVML, the wait for
GPU memory and the report are seen with memory that is really held and freed. Then one more switch
notes what NVML lists, and how long the step WaitForMemory took. ``--plain`` does the first part
without torch and without a GPU. DIR gets report.json, report.html, result.json and router.log.
Exit status 0: everything was as it should be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_router.cli.client import AdminClient
from llm_router.cli.exits import Failed
from llm_router.nvml import open_nvml, read_memory

ENGINE = Path(__file__).with_name("engine.py")
READY_SECONDS = 60.0
QUALIFY_SECONDS = 400


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description="See the module's text.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--engine-python", default=sys.executable)
    parser.add_argument("--hold", default="10,20", help="GB of GPU memory of each of two models")
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, router(Path(folder), options) as admin:
        done = qualify(Path(folder), options)
        found: dict[str, Any] = {"qualify": done}
        if not options.plain:
            found["switch"] = one_more_switch(admin)
    found["passed"] = done == 0 and (options.plain or not found["switch"]["problem"])
    (options.out / "result.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    return 0 if found["passed"] else 1


@contextlib.contextmanager
def router(folder: Path, options: argparse.Namespace) -> Iterator[AdminClient]:
    """A router with both models, for the block."""
    ports = [free_port() for _ in range(3)]
    models = {}
    for name, port, hold in zip(("first", "second"), ports, options.hold.split(","), strict=False):
        argv = [options.engine_python, str(ENGINE), "--port", str(port), "--name", name]
        argv += ["--plain"] if options.plain else ["--hold", hold]
        models[name] = {"backend": "command", "port": port, "command": argv, "timeout": 120}
    config = {
        "schema": 1,
        "listen": {"port": ports[2]},
        "units": "child",
        "state_dir": str(folder / "state"),
        "admin_socket": str(folder / "admin.sock"),
        "switch": {"timeout": 120, "memory_timeout": 10},
    }
    # JSON is YAML
    (folder / "models.yml").write_text(json.dumps({"schema": 1, "models": models}))
    (folder / "config.yml").write_text(json.dumps(config))
    with (options.out / "router.log").open("wb") as log:
        process = subprocess.Popen(command(folder, "serve"), stdout=log, stderr=log)
        admin = AdminClient(str(config["admin_socket"]))
        try:
            until = time.monotonic() + READY_SECONDS
            while not answers(admin):
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"the router does not answer: {options.out / 'router.log'}")
                time.sleep(0.1)
            yield admin
            admin.call("POST", "/admin/unload", body={}, timeout=60)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def command(folder: Path, *words: str) -> list[str]:
    """The router's command line."""
    return [sys.executable, "-m", "llm_router", *words, "--config", str(folder / "config.yml")]


def answers(admin: AdminClient) -> bool:
    """Whether the router does."""
    try:
        admin.call("GET", "/admin/status")
    except Failed:
        return False
    return True


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def qualify(folder: Path, options: argparse.Namespace) -> int:
    """Its exit status; the reports are in DIR."""
    words = ["qualify", "--yes", "--budget", options.budget, "--label", "tests/gpu"]
    words += [
        "--json",
        str(options.out / "report.json"),
        "--html",
        str(options.out / "report.html"),
    ]
    return subprocess.run(command(folder, *words), timeout=QUALIFY_SECONDS, check=False).returncode


def one_more_switch(admin: AdminClient) -> dict[str, Any]:
    """What NVML lists of an engine that holds memory, and the steps of the switch away from it."""
    nvml = open_nvml()
    if nvml is None:
        return {"problem": "NVML shows no GPU"}
    admin.call("POST", "/admin/switch", body={"model": "first"}, timeout=180)
    before = read_memory(nvml)
    listed = {pid: held for gpu in before for pid, held in gpu.holders.items()}
    found: dict[str, Any] = {
        "free_bytes": [gpu.free for gpu in before],
        "listed": len(listed),
        "with_size": sum(held is not None for held in listed.values()),
        "own_namespace": all(Path(f"/proc/{pid}").exists() for pid in listed),
        "problem": "",
    }
    began = time.monotonic()
    answer = admin.call("POST", "/admin/switch", body={"model": "second"}, timeout=180)
    found["seconds"] = round(time.monotonic() - began, 3)
    found["steps"] = answer["steps"]
    if "WaitForMemory" not in [step["step"] for step in answer["steps"]]:
        found["problem"] = "the switch had no step WaitForMemory"
    found["free_bytes_after"] = [gpu.free for gpu in read_memory(nvml)]
    return found


if __name__ == "__main__":
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    sys.exit(main())
