"""What the router adds to a switch under systemd, with the helper. For a throwaway host, as root.

`bench/systemd` boots one and runs this there. The same engines are started and stopped by hand, as
child processes: what systemd takes for its jobs counts as the router's.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from bench.by_hand import Engine
from bench.facts import machine, quantile

BOUND = 0.150
"""Seconds at the median; twice that at the 99th percentile."""
USER = "llm-router"
ETC = Path("/etc/llm-router")
UNITS = Path("/etc/systemd/system")
STANDIN = Path(__file__).resolve().parent.parent / "tests/standin/engine.py"
PORTS = {"a": 9101, "b": 9102}
ENVIRONMENT = f"PYTHONPATH={os.environ.get('PYTHONPATH', '')} PYTHONDONTWRITEBYTECODE=1"


def _command(name: str, port: int) -> list[str]:
    return [sys.executable, "-S", "-E", str(STANDIN), "--port", str(port), "--name", name]


def _unit_files() -> dict[str, str]:
    program = f"{sys.executable} -m llm_router"
    helper = "/run/llm-router-helper.sock"
    return {
        **{
            f"standin-{name}.service": "[Service]\nType=exec\nExecStart="
            + " ".join(_command(name, port))
            + "\n"
            for name, port in PORTS.items()
        },
        "llm-router-helper.socket": f"[Socket]\nListenStream={helper}\nSocketUser={USER}\n"
        "SocketMode=0600\nRemoveOnStop=yes\n",
        "llm-router-helper.service": "[Unit]\nRequires=llm-router-helper.socket\n"
        f"[Service]\nType=exec\nEnvironment={ENVIRONMENT}\nExecStart={program} helper\n",
        "llm-router.service": f"[Service]\nType=notify\nUser={USER}\nEnvironment={ENVIRONMENT}\n"
        f"ExecStart={program} serve\nRuntimeDirectory=llm-router\nStateDirectory=llm-router\n",
    }


def set_up() -> None:
    """A user, units, a configuration; and the router runs."""
    try:
        pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--system", USER], check=True)
    ETC.mkdir(exist_ok=True)
    models: dict[str, dict[str, Any]] = {
        name: {"backend": "command", "service": f"standin-{name}.service", "port": port}
        for name, port in PORTS.items()
    }
    switch = {"timeout": 60, "stop_timeout": 10}
    config = {"schema": 1, "units": "systemd", "switch": switch}
    # JSON is YAML
    (ETC / "config.yml").write_text(json.dumps(config))
    (ETC / "models.yml").write_text(json.dumps({"schema": 1, "models": models}))
    for name, text in _unit_files().items():
        (UNITS / name).write_text(text)
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    start = ["systemctl", "start", "llm-router-helper.socket", "llm-router.service"]
    subprocess.run(start, check=True)


def measure(rounds: int) -> tuple[list[float], list[float], dict[str, list[float]]]:
    """Seconds by the router and by hand, and by the router's steps."""
    probes = ("/health", "/v1/models")
    hands = {
        name: Engine(name, {"command": _command(name, port + 100), "port": port + 100}, probes)
        for name, port in PORTS.items()
    }
    routed, by_hand = [], []
    steps: dict[str, list[float]] = {}
    with httpx.Client(base_url="http://127.0.0.1:8002", timeout=120) as client:

        def switch(model: str) -> list[dict[str, Any]]:
            answer = client.post("/admin/switch", json={"model": model})
            answer.raise_for_status()
            return list(answer.json()["steps"])

        switch("a")
        hands["a"].start()
        now, other = "a", "b"
        for _ in range(rounds):
            now, other = other, now
            began = time.monotonic()
            taken = switch(now)
            routed.append(time.monotonic() - began)
            for step in taken:
                steps.setdefault(step["step"], []).append(step["seconds"])
            began = time.monotonic()
            hands[other].stop()
            hands[now].start()
            by_hand.append(time.monotonic() - began)
        hands[now].stop()
    return routed, by_hand, steps


def main() -> int:
    """0 when the bounds are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    print(f"machine        {machine()}")
    set_up()
    routed, by_hand, steps = measure(options.rounds)
    good = True
    for part, times in ((0.5, 1), (0.99, 2)):
        added = quantile(routed, part) - quantile(by_hand, part)
        good = good and added <= BOUND * times
        print(
            f"under systemd  p{part * 100:<4g} router {quantile(routed, part) * 1e3:6.1f} ms, "
            f"by hand {quantile(by_hand, part) * 1e3:6.1f} ms, added {added * 1e3:6.1f} ms "
            f"(bound: {BOUND * times * 1e3:g})"
        )
    for step, seconds in steps.items():
        middle, late = (quantile(seconds, part) * 1e3 for part in (0.5, 0.99))
        print(f"  {step:<15} p50 {middle:6.1f} ms, p99 {late:6.1f} ms")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
