"""What the router adds to a switch, and what reading ahead takes away from a load.

    python -m bench.switch --model FILE.gguf [--rounds N] [--loads N]

Stops and starts, and sleeps and wakes, are done in turn by the router and by hand, with engines
that are ready at once: the difference is the router's own. Then the real llama.cpp is loaded from
a dropped page cache, with reading ahead and without, while the model before it still answers.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from bench.by_hand import Engine
from bench.facts import machine, quantile
from llm_router.prewarm import cached
from tests.integration.conftest import Router, free_port

START_BOUND, WAKE_BOUND = 0.050, 0.020
"""Seconds at the median; twice that at the 99th percentile."""
ANSWER = 3.0
"""Seconds for which the model before still answers while weights are read ahead."""


@dataclass
class Pairs:
    """The same switch by the router and by hand, in seconds."""

    routed: list[float] = field(default_factory=list)
    by_hand: list[float] = field(default_factory=list)

    def added(self, part: float) -> float:
        """What the router adds, at a quantile of its switches."""
        return quantile(self.routed, part) - quantile(self.by_hand, part)

    def keeps(self, bound: float) -> bool:
        return self.added(0.5) <= bound and self.added(0.99) <= 2 * bound


@dataclass
class Load:
    """One load of the real engine: ``ahead``, the part of its weights that was in the page cache
    when the model before it had answered."""

    ahead: float
    seconds: float


def _switch(client: httpx.Client, model: str) -> list[dict[str, Any]]:
    answer = client.post("/admin/switch", json={"model": model})
    answer.raise_for_status()
    return list(answer.json()["steps"])


@contextlib.contextmanager
def _running(models: dict[str, Any], **switch: Any) -> Iterator[tuple[Router, httpx.Client]]:
    with tempfile.TemporaryDirectory() as directory:
        router = Router(Path(directory))
        limits = {"timeout": 60, "stop_timeout": 10, "sleep_memory": 1, **switch}
        router.write(models, switch=limits)
        router.start()
        try:
            with httpx.Client(base_url=router.url, timeout=120) as client:
                yield router, client
        finally:
            router.stop()


def _twin(entry: dict[str, Any]) -> dict[str, Any]:
    """The same engine on a port of its own."""
    port = free_port()
    command = [port if part == entry["port"] else part for part in entry["command"]]
    return {**entry, "port": port, "command": command}


def _timed(pairs: list[float], *calls: Any) -> None:
    began = time.monotonic()
    for call in calls:
        call()
    pairs.append(time.monotonic() - began)


def starts(rounds: int) -> Pairs:
    """Stop one engine and start the other."""
    pairs = Pairs()
    with tempfile.TemporaryDirectory() as directory:
        made = Router(Path(directory))
        models = {name: made.standin(name) for name in ("a", "b")}
        hands = {
            name: Engine(name, _twin(entry), ("/health", "/v1/models"))
            for name, entry in models.items()
        }
        with _running(models) as (_, client):
            _switch(client, "a")
            hands["a"].start()
            now, other = "a", "b"
            for _ in range(rounds):
                now, other = other, now
                _timed(pairs.routed, partial(_switch, client, now))
                _timed(pairs.by_hand, hands[other].stop, hands[now].start)
            hands[now].stop()
    return pairs


def wakes(rounds: int) -> Pairs:
    """Put one engine to sleep and wake the other."""
    pairs = Pairs()
    with tempfile.TemporaryDirectory() as directory:
        made = Router(Path(directory))
        models = {}
        for name in ("a", "b"):
            folder = Path(directory) / name
            folder.mkdir()
            (folder / "model.safetensors").write_bytes(b"x" * 4096)
            entry = made.standin(name, engine="vllm", flags="dev")
            models[name] = {
                **entry,
                "backend": "vllm",
                "residency": "sleep",
                "model_path": str(folder),
            }
        probes = ("/health", "/v1/models", "/is_sleeping")
        hands = {name: Engine(name, _twin(entry), probes) for name, entry in models.items()}
        with _running(models) as (_, client):
            for name in ("a", "b", "a"):
                _switch(client, name)
            for name in ("a", "b"):
                hands[name].start()
            hands["b"].post("/sleep?level=1&mode=wait")
            now, other = "a", "b"
            for _ in range(rounds):
                now, other = other, now
                _timed(pairs.routed, partial(_switch, client, now))
                _timed(
                    pairs.by_hand,
                    partial(hands[other].post, "/sleep?level=1&mode=wait"),
                    partial(hands[now].post, "/wake_up"),
                    hands[now].ready,
                    hands[now].first_token,
                )
            for hand in hands.values():
                hand.stop()
    return pairs


def drop(model: Path) -> None:
    """Take a file out of the page cache; nobody may have it mapped."""
    descriptor = os.open(model, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def loads(model: Path, times: int, *, prewarm: bool, dropped: bool = True) -> list[Load]:
    """The real llama.cpp, while the model before it answers for `ANSWER` seconds more."""
    found = []
    size = model.stat().st_size
    with tempfile.TemporaryDirectory() as directory:
        tokens = 30
        before = Router(Path(directory)).standin("a", interval=ANSWER / tokens, tokens=tokens)
        big = {"backend": "llamacpp", "model_path": str(model), "port": free_port()}
        big["args"] = ["--ctx-size", "512"]
        with _running({"a": before, "big": big}, prewarm=prewarm) as (router, client):
            for _ in range(times):
                _switch(client, "a")
                if dropped:
                    drop(model)
                    if cached(model, size) > size / 10:
                        raise RuntimeError(f"{model} stays in the page cache")
                ahead: list[float] = []
                answering = threading.Thread(target=_answer, args=(router, model, ahead))
                answering.start()
                time.sleep(0.2)
                steps = _switch(client, "big")
                answering.join()
                mine = [step["seconds"] for step in steps if step["model"] == "big"]
                found.append(Load(ahead[0], sum(mine)))
    return found


def _answer(router: Router, model: Path, ahead: list[float]) -> None:
    body = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    url = router.url + "/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=60) as response:
        for _ in response.iter_bytes():
            pass
    size = model.stat().st_size
    ahead.append(cached(model, size) / size)


def _row(what: str, pairs: Pairs, bound: float) -> None:
    for part, times in ((0.5, 1), (0.99, 2)):
        print(
            f"{what:<14} p{part * 100:<4g} router {quantile(pairs.routed, part) * 1e3:6.1f} ms, "
            f"by hand {quantile(pairs.by_hand, part) * 1e3:6.1f} ms, "
            f"added {pairs.added(part) * 1e3:6.1f} ms (bound: {bound * times * 1e3:g})"
        )


def _loads_row(what: str, found: list[Load]) -> float:
    seconds = quantile([load.seconds for load in found], 0.5)
    ahead = quantile([load.ahead for load in found], 0.5)
    shown = ", ".join(f"{load.seconds:.2f}" for load in found)
    print(f"{what:<30} {seconds:.2f} s to the first token ({shown}); {ahead:.0%} read before")
    return seconds


def main() -> int:
    """0 when the bounds are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", type=Path, help="a GGUF file; without it, no loads")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--loads", type=int, default=5)
    options = parser.parse_args()
    print(f"machine        {machine()}")
    started, woken = starts(options.rounds), wakes(options.rounds)
    _row("stop and start", started, START_BOUND)
    _row("sleep and wake", woken, WAKE_BOUND)
    good = started.keeps(START_BOUND) and woken.keeps(WAKE_BOUND)
    if options.model is not None:
        size = options.model.stat().st_size / 1e6
        print(
            f"llama.cpp, {size:.0f} MB, page cache dropped; the model before answers {ANSWER:g} s"
        )
        cold, ahead, warm = list[Load](), list[Load](), list[Load]()
        # in turn: below the page cache there are others, of which the first load pays
        for _ in range(options.loads + 1):
            cold += loads(options.model, 1, prewarm=False)
            ahead += loads(options.model, 1, prewarm=True)
            warm += loads(options.model, 1, prewarm=False, dropped=False)
        without = _loads_row("not read ahead", cold[1:])
        with_it = _loads_row("read ahead", ahead[1:])
        _loads_row("in the page cache already", warm[1:])
        good = good and with_it <= without and min(load.ahead for load in ahead[1:]) > 0.9
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
