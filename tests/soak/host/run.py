"""The soak on a real systemd host: `make soak-systemd`. Needs root.

    python -m tests.soak.host.run [--seconds S] [--seed N] [--only FAULT,…] [--quiet] [--keep]

Boots a host, provisions it with the collection's own playbook (router, helper and units as the
roles write them; the engines are the stand-ins), and runs `soak.py` there. What was found is in
.cache/reports/soak-systemd. Exit status: 0 when nothing was found that must not be.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import yaml

from tests.hosts import engine_wheels
from tests.soak.host.models import COMES_BACK, MODELS, host_variables

ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / ".cache/soak-systemd"
REPORTS = ROOT / ".cache/reports/soak-systemd"
NAME = "soak"
LIMIT = 1800.0
"""Seconds for one command of ours, far more than any takes."""


def main() -> int:
    """The command line."""
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    given.add_argument("--seconds", type=float, default=300.0, help="how long faults go on")
    given.add_argument("--seed", type=int, default=1)
    given.add_argument("--only", default="", help="faults, with commas between them")
    given.add_argument("--quiet", action="store_true", help="no clients beside the faults")
    # SGLang has no wheels for the Python of Debian 13
    given.add_argument("--suite", default="bookworm", help="the host's Debian")
    given.add_argument("--keep", action="store_true", help="leave the host; take it next time")
    options = given.parse_args()
    signal.signal(signal.SIGTERM, _interrupted)
    began = time.monotonic()
    try:
        if not options.keep:
            hosts("down", NAME)  # one that an interrupted run has left
        boot(options.suite)
        provision()
        print(f"the host is ready after {time.monotonic() - began:.0f} s", flush=True)
        words = [f"--seconds={options.seconds:g}", f"--seed={options.seed}"]
        words += [f"--only={options.only}", *(["--quiet"] if options.quiet else [])]
        return soak(words)
    finally:
        if not options.keep:
            hosts("down", NAME)


def _interrupted(number: int, _: FrameType | None) -> NoReturn:
    # so that the host is removed
    raise SystemExit(128 + number)


def boot(suite: str) -> None:
    """A host with models and wheels on it."""
    wheels, models = CACHE / "wheels", CACHE / "models"
    engine_wheels.build(wheels)
    for name in MODELS:
        folder = models / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}\n")
        with (folder / "model.safetensors").open("wb") as file:
            file.truncate(64 * 1024 * 1024)
    REPORTS.mkdir(parents=True, exist_ok=True)
    for old in REPORTS.iterdir():
        old.unlink()
    binds = {ROOT: "/src:ro", wheels: "/srv/wheels:ro", models: "/srv/models:ro"}
    binds[REPORTS] = "/srv/reports:rw"
    hosts("up", NAME, f"--suite={suite}", *(f"--bind={at}:{to}" for at, to in binds.items()))
    inventory: dict[str, Any] = yaml.safe_load(hosts("inventory", NAME))
    groups = inventory["all"]["children"]
    groups["llm_servers"]["hosts"][NAME] |= host_variables("/srv/wheels")
    (CACHE / "inventory.yml").write_text(yaml.safe_dump(inventory))


def provision() -> None:
    """By the collection's own playbook, and one unit that systemd starts again by itself."""
    run("ansible-playbook", f"--inventory={CACHE / 'inventory.yml'}", "roundhouse.llm.site")
    drop_in = f"/etc/systemd/system/{COMES_BACK}.d"
    text = "[Service]\\nRestart=always\\nRestartSec=200ms\\n"
    ssh(f"mkdir -p {drop_in}; printf '{text}' >{drop_in}/restart.conf; systemctl daemon-reload")


def soak(words: list[str]) -> int:
    """Run it there; its exit status."""
    command = f"cd /src && exec python3 -B -m tests.soak.host.soak {shlex.join(words)}"
    argv = [sys.executable, "tests/hosts/hosts.py", "ssh", NAME, "--", command]
    return subprocess.run(argv, cwd=ROOT, check=False).returncode


def hosts(*arguments: str) -> str:
    """The tool that boots hosts."""
    return run(sys.executable, "tests/hosts/hosts.py", *arguments)


def ssh(command: str) -> str:
    """A command on the host, as root."""
    return hosts("ssh", NAME, "--", command)


def run(*argv: str) -> str:
    """What a command printed; it ends ours if it fails."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        argv,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
        env={**os.environ, "ANSIBLE_HOST_KEY_CHECKING": "false", "ANSIBLE_PIPELINING": "true"},
    )
    if done.returncode:
        told = f"{done.stdout}\n{done.stderr}"
        raise SystemExit(f"{shlex.join(argv)}: exit {done.returncode}\n{told}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
