"""`make bench`: the router and other proxies in front of the same engine, in turn, in one run.

    python -m bench.run [--rounds N] [--seconds S] [--only NAMES] [--cases NAMES]

Each proxy has one CPU for itself, the engine and the load the others. Wall times are true for the
machine and its load at that time; the CPU time of the proxy's process is what carries over.
``BENCH_PEER=name=http://host:port`` (several with spaces between) is asked as well, where it runs.
Prints the table and writes bench/results.json.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any
from urllib.parse import urlsplit

from bench import peers
from bench.facts import machine, most_rss, quantile, raise_file_limit, rss
from bench.load import Load, Wish

RESULTS = Path(__file__).with_name("results.json")
SLOW = {"litellm"}
"""Those that get a tenth of the streams where others get hundreds."""
Figures = dict[str, float]
MEBI = 1024 * 1024
EMBEDDINGS = "/v1/embeddings"
PACED_50 = {"connections": 50, "seconds": 0, "ramp": 1.0, "tokens": 100, "interval": 0.05}


@dataclass(frozen=True)
class Case:
    """``wish`` has all but port, key and time; ``paced`` ones take the time that they take."""

    title: str
    wish: dict[str, Any]
    rounds: bool = True
    """Whether it is run in every round."""
    beside: dict[str, Any] | None = None
    """A second load that runs at the same time; what is shown is the first one's."""


CASES: dict[str, Case] = {
    "streams_1": Case("1 stream", {"connections": 1}),
    "streams_32": Case("32 streams", {"connections": 32}),
    "streams_256": Case("256 streams", {"connections": 256}),
    "whole_1": Case("not streamed, 1 client", {"connections": 1, "stream": False, "tokens": 16}),
    "prompt_1mb": Case(
        "1 MB prompts, 4 clients",
        {"connections": 4, "stream": False, "tokens": 16, "pad": 1_000_000},
    ),
    "transcript_2mb": Case(
        "2 MB transcripts of 1,200 messages, 4 clients",
        {"connections": 4, "stream": False, "tokens": 16, "messages": 1200},
    ),
    "picture_8mb": Case(
        "8 MB pictures, 2 clients",
        {"connections": 2, "stream": False, "tokens": 16, "pad": 8 * MEBI},
    ),
    "embeddings_1000": Case(
        "1,000 embeddings an answer (12 MB), 1 client",
        {"connections": 1, "path": EMBEDDINGS, "inputs": [1000], "dimensions": 1024},
    ),
    "embeddings_inputs": Case(
        "embeddings of 1, 16, 256 and 2,048 texts, 4 clients",
        {"connections": 4, "path": EMBEDDINGS, "inputs": [1, 16, 256, 2048]},
    ),
    "beside_8mb": Case(
        "50 streams at 20 tok/s beside 8 MiB bodies, 4 at a time",
        PACED_50,
        rounds=False,
        beside={"connections": 4, "seconds": 5.0, "stream": False, "tokens": 1, "pad": 8 * MEBI},
    ),
    "beside_16mb": Case(
        "50 streams at 20 tok/s beside 16 MiB bodies, 4 at a time",
        PACED_50,
        rounds=False,
        beside={
            "connections": 4,
            "seconds": 5.0,
            "stream": False,
            "tokens": 1,
            "pad": 16 * MEBI - 1024,
        },
    ),
    "beside_embeddings": Case(
        "50 streams at 20 tok/s beside answers of 1,000 embeddings",
        PACED_50,
        rounds=False,
        beside={
            "connections": 2,
            "seconds": 5.0,
            "path": EMBEDDINGS,
            "inputs": [1000],
            "dimensions": 1024,
        },
    ),
    "paced_500": Case(
        "500 streams at 20 tok/s",
        {"connections": 500, "seconds": 0, "ramp": 2.0, "tokens": 100, "interval": 0.05},
        rounds=False,
    ),
    "slow_50": Case(
        "50 readers that stop for 3 s",
        {"connections": 50, "seconds": 0, "ramp": 0.2, "tokens": 20_000, "stall": 3.0},
        rounds=False,
    ),
}


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of those that it has started."""
    total = 0.0
    for one in _family(pid):
        for path in Path(f"/proc/{one}/task").glob("*/schedstat"):
            try:
                total += int(path.read_text(encoding="ascii").split()[0]) / 1e9
            except (OSError, IndexError):
                continue
    return total


def memory(pid: int) -> float:
    """Resident memory of a process and of those that it has started, in MB."""
    return sum(rss(one) for one in _family(pid))


def most_memory(pid: int) -> float:
    """The most that `memory` was since `forget_most`, by the kernel's own count: to look for it
    again and again would cost the CPU time that is measured."""
    return sum(most_rss(one) for one in _family(pid))


def forget_most(pid: int) -> None:
    """Let the kernel count anew (proc(5), clear_refs)."""
    for one in _family(pid):
        Path(f"/proc/{one}/clear_refs").write_text("5", encoding="ascii")


@contextmanager
def alone(peer: peers.Peer, running: list[peers.Peer]) -> Iterator[None]:
    """All others but ``peer`` stand still: what some of them do while nobody asks them would be on
    the same CPU."""
    others = [one.process.pid for one in running if one.process is not None and one is not peer]
    processes = [process for pid in others for process in _family(pid)]
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def _family(pid: int) -> list[int]:
    """The process and its children, but for the engine, which is nobody's cost."""
    found = [pid]
    # a child belongs to the thread that started it
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in path.read_text(encoding="ascii").split():
                if b"bench.engine" not in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return found


def load(wish: Wish, said: IO[str]) -> subprocess.Popen[str]:
    """A load that begins. What came of it is written to ``said``: a pipe that is read when the
    load has ended would be full before."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.load"],
        stdin=subprocess.PIPE,
        stdout=said,
        text=True,
        env={**os.environ, "PYTHONPATH": str(peers.ROOT)},
    )
    assert process.stdin is not None
    json.dump(asdict(wish), process.stdin)
    process.stdin.close()
    return process


def _wish(peer: peers.Peer, given: dict[str, Any], seconds: float, cpus: list[int]) -> Wish:
    wish = Wish(port=peer.port, key=peers.KEY, seconds=seconds, cpus=cpus)
    for key, value in given.items():
        setattr(wish, key, value)
    if peer.name in SLOW:
        wish.connections = max(1, wish.connections // 10)
    return wish


def _loads(wish: Wish, beside: Wish | None) -> tuple[Load, Load | None]:
    """What came of one or two loads at the same time."""
    found: list[Load] = []
    with ExitStack() as stack:
        running = []
        for one in (wish, beside):
            if one is not None:
                said = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
                process = load(one, said)
                stack.callback(process.kill)
                running.append((process, said))
        for process, said in running:
            process.wait()
            said.seek(0)
            text = said.read()
            failure = Load(failed=1, said="the load itself failed")
            found.append(Load(**json.loads(text)) if text else failure)
    return found[0], found[1] if beside is not None else None


def measure(peer: peers.Peer, case: str, seconds: float, cpus: list[int]) -> Figures:
    """One case with one proxy."""
    wish = _wish(peer, CASES[case].wish, seconds, cpus)
    other = CASES[case].beside
    beside = _wish(peer, other, seconds, cpus) if other is not None else None
    pid = peer.process.pid if peer.process is not None else None
    before, base = (cpu_seconds(pid), memory(pid)) if pid else (0.0, 0.0)
    if pid:
        forget_most(pid)
    got, also = _loads(wish, beside)
    figures: Figures = {
        "req_s": got.requests / got.seconds if got.seconds else 0.0,
        "ttft_p50_ms": 1000 * quantile(got.ttft, 0.5),
        "ttft_p99_ms": 1000 * quantile(got.ttft, 0.99),
        "tokens_s": got.tokens / got.seconds if got.seconds else 0.0,
        "failed": float(got.failed),
    }
    if pid and got.requests:
        figures["cpu_ms_per_req"] = 1000 * (cpu_seconds(pid) - before) / got.requests
        most = most_memory(pid)
        figures["rss_mb"] = most
        figures["kb_per_stream"] = max(0.0, 1000 * (most - base) / wish.connections)
    if got.lateness:
        figures["late_p50_ms"] = 1000 * quantile(got.lateness, 0.5)
        figures["late_p99_ms"] = 1000 * quantile(got.lateness, 0.99)
        figures["tokens_lost"] = float(got.lost)
    if also is not None:
        figures["beside_s"] = also.requests / also.seconds if also.seconds else 0.0
        figures["failed"] += also.failed
        got.failed, got.said = got.failed + also.failed, got.said or also.said
    if got.failed:
        print(f"  {peer.name}, {case}: {got.failed} failed: {got.said[:160]!r}", flush=True)
    return figures


def middle(rounds: list[Figures]) -> Figures:
    """The median of each figure; failures are added up."""
    keys = {key for one in rounds for key in one}
    found = {
        key: round(median([one[key] for one in rounds if key in one]), 3) for key in sorted(keys)
    }
    found["failed"] = sum(one["failed"] for one in rounds)
    return found


def table(results: dict[str, dict[str, Figures]]) -> Iterable[str]:
    """The figures of each case, and what the router's are as parts of the others'."""
    shown = {
        "req_s": ("req/s", "{:.1f}"),
        "cpu_ms_per_req": ("CPU ms/req", "{:.3f}"),
        "ttft_p50_ms": ("TTFT p50 ms", "{:.2f}"),
        "ttft_p99_ms": ("p99", "{:.2f}"),
        "late_p50_ms": ("late p50 ms", "{:.2f}"),
        "late_p99_ms": ("p99", "{:.2f}"),
        "tokens_lost": ("lost", "{:.0f}"),
        "beside_s": ("beside/s", "{:.1f}"),
        "kb_per_stream": ("kB/stream", "{:.0f}"),
        "rss_mb": ("RSS MB", "{:.0f}"),
        "failed": ("failed", "{:.0f}"),
    }
    for case, by_peer in results.items():
        own = by_peer.get("router", {})
        columns = [key for key in shown if any(key in one for one in by_peer.values())]
        heads = [shown[key][0] for key in columns]
        yield f"\n{CASES[case].title}"
        yield f"  {'':<14}" + "".join(f"{head:>12}" for head in heads) + "   router: req/s, CPU"
        for name, figures in by_peer.items():
            line = f"  {name:<14}"
            for key in columns:
                line += f"{shown[key][1].format(figures[key]) if key in figures else '-':>12}"
            parts = []
            for key in ("req_s", "cpu_ms_per_req"):
                if name not in ("router", "direct") and own.get(key) and figures.get(key):
                    parts.append(f"{own[key] / figures[key]:.2f}x")
            yield line + ("   " + ", ".join(parts) if parts else "")


def start(
    only: set[str], cpu: int | None, others: list[int]
) -> tuple[list[peers.Peer], dict[str, str]]:
    """All that can be had, the router first; and why others cannot."""
    own, engine = peers.router(cpu, others)
    running = [own, peers.Peer("direct", engine)]
    absent: dict[str, str] = {}
    for name, make in peers.PEERS.items():
        if only and name not in only:
            continue
        try:
            running.append(make(engine, cpu))
        except peers.Absent as why:
            absent[name] = str(why)
        except (OSError, subprocess.SubprocessError) as error:
            absent[name] = str(error)
    for given in os.environ.get("BENCH_PEER", "").split():
        name, _, url = given.partition("=")
        port = urlsplit(url).port
        if port is None:
            absent[name] = f"BENCH_PEER={given}: give it as name=http://127.0.0.1:PORT"
        else:
            running.append(peers.Peer(name, port))
    return running, absent


def _names(given: str) -> list[str]:
    return [name for name in given.split(",") if name]


def main() -> int:
    """0 when the router failed no request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--only", default="", help="peers, with commas between")
    parser.add_argument("--cases", default=",".join(CASES))
    options = parser.parse_args()
    cases, only = _names(options.cases), set(_names(options.only))
    for unknown in (*set(cases).difference(CASES), *only.difference(peers.PEERS, ("direct",))):
        parser.error(f"{unknown} is none of {', '.join(CASES)}, nor of {', '.join(peers.PEERS)}")
    raise_file_limit(8192)
    # told to end, it takes down what it has started all the same
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cpus = sorted(os.sched_getaffinity(0))
    cpu, others = (cpus[0], cpus[1:]) if len(cpus) > 1 else (None, [])
    facts = machine()
    began = time.time()
    running, absent = start(only, cpu, others)
    raw: dict[str, dict[str, list[Figures]]] = {case: {} for case in cases}
    try:
        rest = {peer.name: memory(peer.process.pid) for peer in running if peer.process is not None}
        for peer in running:
            measure(peer, "streams_1", 0.5, others)  # warm
        for number in range(options.rounds):
            for case in cases:
                for peer in running:
                    if CASES[case].rounds or number == 0:
                        with alone(peer, running):
                            found = measure(peer, case, options.seconds, others)
                        raw[case].setdefault(peer.name, []).append(found)
            print(f"bench: round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    finally:
        for peer in running:
            peers.stop_engine(peer)
            peer.stop()
    results = {case: {name: middle(r) for name, r in found.items()} for case, found in raw.items()}
    versions = {peer.name: peer.version for peer in running if peer.version}
    versions["Python of the proxies"] = peers.python_version()
    print(f"machine        {facts}")
    print(f"each proxy     on CPU {cpu}; the engine and the load on {others}")
    print(f"medians of     {options.rounds} rounds, {time.time() - began:.0f} s in all")
    print("versions       " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    print("MB at rest     " + ", ".join(f"{name} {size:.0f}" for name, size in rest.items()))
    for name, why in absent.items():
        print(f"absent         {name}: {why}")
    for line in table(results):
        print(line)
    document = {"machine": facts, "versions": versions, "absent": absent}
    document |= {"rest_mb": {name: round(size, 1) for name, size in rest.items()}, "cases": results}
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 1 if any(found.get("router", {}).get("failed") for found in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
