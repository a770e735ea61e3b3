"""Switches between models that sleep, are discarded, unloaded and stopped, while calls go wrong.

    python -m tests.soak.residency [--switches N] [--flaky P] [--seed S]

One after the other, to a random model each time; now and then everything is unloaded, or an engine
killed where it sleeps. In the end the engines' own journal tells whether two ever held the device
at once, and whether one was ever asked for what the real ones answer with their end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.facts import machine, quantile
from llm_router.weights import host_memory
from tests.integration.conftest import Router

GIB = 2**30
BUDGET = 5
MODELS = {
    "v1": ("vllm", "sleep", 2),
    "v2": ("vllm", "sleep", 3),
    "v3": ("vllm", "discard", 2),
    "s1": ("sglang", "sleep", 2),
    "s2": ("sglang", "stop", 2),
    "t1": ("tabby", "unload", 1),
}
"""By name: engine, residency, GiB of weights."""
FLAGS = {"vllm": "dev", "sglang": "saver"}
WRONG = ("AssertionError", "KeyError")


@dataclass
class Found:
    """What happened, and what must not have."""

    faults: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    most: float = 0.0
    """GiB that sleepers kept."""


def models(router: Router, flaky: float) -> dict[str, dict[str, Any]]:
    """models.yml: stand-ins, each with weights of its size, in files without blocks."""
    made = {}
    for name, (backend, residency, gib) in MODELS.items():
        folder = router.dir / "models" / name
        folder.mkdir(parents=True)
        with (folder / "model.safetensors").open("wb") as file:
            file.truncate(gib * GIB)
        options: dict[str, Any] = {"engine": backend, "flaky": flaky}
        options["journal"] = router.dir / "journal.jsonl"
        if backend in FLAGS:
            options["flags"] = FLAGS[backend]
        entry = router.standin(name, **options)
        entry |= {"backend": backend, "residency": residency, "model_path": str(folder)}
        made[name] = entry
    return made


def run(router: Router, switches: int, flaky: float, seed: int) -> Found:
    """On a router that is not started yet."""
    rng = random.Random(seed)
    found = Found()
    router.write(
        models(router, flaky),
        switch={
            "timeout": 10,
            "stop_timeout": 1,
            "sleep_timeout": 0.4,
            "sleep_memory": BUDGET * GIB / host_memory(),
            "max_failures": 1000,
        },
    )
    router.start()
    with httpx.Client(base_url=router.url, timeout=30) as client:
        for _ in range(switches):
            if rng.random() < 0.02:
                client.post("/admin/unload", json={})
            if rng.random() < 0.02:
                _kill_a_sleeper(router, client, rng)
            _switch(client, rng.choice(list(MODELS)), found)
    router.stop()
    _read_journal(router.dir / "journal.jsonl", found)
    log = (router.dir / "router.log").read_text(encoding="utf-8")
    found.faults += [f"in the log: {line}" for line in log.splitlines() if "Traceback" in line]
    return found


def _switch(client: httpx.Client, name: str, found: Found) -> None:
    began = time.monotonic()
    answer = client.post("/admin/switch", json={"model": name})
    found.seconds.append(time.monotonic() - began)
    body = answer.json()
    if answer.status_code == 200:
        steps = [step["step"] for step in body["steps"]]
        kind = next((s for s in ("Start", "Wake", "Load") if s in reversed(steps)), "nothing")
        found.outcomes["restarted" if kind != "Start" and "Start" in steps else kind] += 1
        chat = {"model": name, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        said = client.post("/v1/chat/completions", json=chat)
        if said.status_code != 200 or "!" in said.json()["choices"][0]["message"]["content"]:
            found.faults.append(f"{name} was loaded and answers {said.status_code} {said.text}")
    else:
        found.outcomes["failed"] += 1
        if not body["error"]["message"]:
            found.faults.append(f"a failure without a reason: {body}")
    states = client.get("/admin/status").json()["models"]
    kept = sum(
        MODELS[model][2]
        for model, entry in states.items()
        if entry["state"] == "asleep" and MODELS[model][1] == "sleep"
    )
    found.most = max(found.most, kept)
    if kept > BUDGET:
        found.faults.append(f"sleepers keep {kept} GiB of {BUDGET}")


def _kill_a_sleeper(router: Router, client: httpx.Client, rng: random.Random) -> None:
    states = client.get("/admin/status").json()["models"]
    asleep = [name for name, entry in states.items() if entry["state"] == "asleep"]
    if asleep:
        name = rng.choice(asleep)
        os.kill(router.engine_pids()[f"child_{name}"], signal.SIGKILL)


def _read_journal(path: Path, found: Found) -> None:
    """Two that held the device at once. Who is killed writes nothing, but is asleep then."""
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    holder: str | None = None
    for entry in sorted(entries, key=lambda entry: float(entry["time"])):
        name = entry["name"]
        if entry["what"] == "flaky":
            found.outcomes[f"fault: {entry['how']}"] += 1
        if entry["what"] == "asked-wrongly":
            found.faults.append(f"{name}: {entry['why']}")
        if entry["what"] != "device":
            continue
        if entry["held"]:
            if holder not in (None, name):
                found.faults.append(f"{name} took the device while {holder} held it")
            holder = name
        elif holder == name:
            holder = None


def main() -> int:
    """0 when nothing happened that must not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--switches", type=int, default=1000)
    parser.add_argument("--flaky", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        router = Router(Path(directory))
        began = time.monotonic()
        try:
            found = run(router, options.switches, options.flaky, options.seed)
        finally:
            router.stop()
    print(f"machine     {machine()}")
    print(f"switches    {options.switches} in {time.monotonic() - began:.0f} s")
    print(
        f"p50, p99    {quantile(found.seconds, 0.5):.3f} s, {quantile(found.seconds, 0.99):.3f} s"
    )
    print(f"memory      {found.most} GiB at most (bound: {BUDGET})")
    for outcome, count in sorted(found.outcomes.items()):
        print(f"  {outcome}: {count}")
    for fault in found.faults[:20]:
        print(f"MUST NOT BE: {fault}")
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
