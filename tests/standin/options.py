"""The command line of the stand-in. ``STANDIN_ARGS`` comes first, so a unit file needs no shell."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

ENGINES = {
    "openai": ("contracts.plain", "Plain"),
    "sglang": ("contracts.sglang", "Sglang"),
    "vllm": ("contracts.vllm", "Vllm"),
    "tabby": ("contracts.tabby", "Tabby"),
    "llamacpp": ("contracts.llamacpp", "LlamaCpp"),
}

FAULTS = {
    "exit-while-loading": "ends with an error after --load seconds",
    "never-ready": "stays in the state just before ready",
    "stuck-load": "loads half of its --shards, and goes no further",
    "no-token": "healthy, but every generation is answered with 500",
    "mute": "takes generation requests and never answers",
    "empty": "answers generation requests with 200 and no token",
    "error-mid-stream": "tells of an error in the stream, in the engine's own way",
    "cut-mid-stream": "closes the connection in the middle of the stream, and lives",
    "half-event": "as cut-mid-stream, in the middle of an event",
    "hang-mid-stream": "sends nothing more, and keeps the connection open",
    "die-mid-stream": "ends in the middle of the stream",
    "no-done": "ends the stream in order but without [DONE]",
    "die-idle": "ends by itself when it was idle for --die-after seconds",
    "ignore-term": "does not heed SIGTERM",
}


class Options(argparse.Namespace):
    """The options, with their types."""

    engine: str
    port: int
    name: str
    answers_as: str
    load: float
    shards: int
    compile: float
    kernels: str | None
    first: float
    interval: float
    tokens: int
    reasoning: int
    text: str
    split: int
    pace: float
    context: int
    faults: frozenset[str]
    after: int
    die_after: float
    fault_until: str | None
    record: str | None
    events: str | None
    journal: str | None
    flags: frozenset[str]
    models: list[str]
    api_key: str | None
    flaky: float


def _faults(text: str) -> frozenset[str]:
    names = frozenset(text.split(",")) - {""}
    if unknown := names - FAULTS.keys():
        raise argparse.ArgumentTypeError(f"no such fault: {', '.join(sorted(unknown))}")
    return names


def parse(argv: list[str]) -> Options:
    """Exits with 2 where it does not understand."""
    parser = argparse.ArgumentParser(prog="standin")
    add = parser.add_argument
    add("--engine", choices=list(ENGINES), default="openai")
    add("--port", type=int, required=True)
    add("--name", required=True, help="the model's id")
    add("--answers-as", help="another id, given where the engine should give --name")
    add("--load", type=float, default=0.0, help="seconds until it is ready")
    add("--shards", type=int, default=0, help="draws the bar of a load of so many files")
    add(
        "--compile", type=float, default=0.0, help="seconds of a process cc1plus before it is ready"
    )
    add("--kernels", metavar="DIRECTORY", help="what was compiled is kept here, for the next start")
    add("--first", type=float, default=0.0, help="seconds to the first token")
    add("--interval", type=float, default=0.0, help="seconds between tokens")
    add("--tokens", type=int, default=5, help="where the request does not say")
    add("--reasoning", type=int, default=0, help="so many of a chat's tokens are reasoning")
    add(
        "--text", choices=["ascii", "utf8"], default="ascii", help="utf8: several bytes a character"
    )
    add("--split", type=int, default=0, help="bytes in each chunk and TCP write of a stream")
    add("--pace", type=float, default=0.02, help="the engine's own waits, times this; 1: as long")
    add("--context", type=int, default=4096, help="the longest context in tokens")
    add("--fault", dest="faults", type=_faults, default=frozenset(), help=", ".join(FAULTS))
    add("--after", type=int, default=2, help="tokens before a fault in the stream")
    add("--die-after", type=float, default=1.0, help="seconds, for die-idle")
    add("--fault-until", metavar="FILE", help="the faults are there until this file is")
    add("--record", help="file for the bodies of chat requests, one a line")
    add("--events", help="file for starts and stops: time, what, name")
    add("--journal", help="file for everything that happens, a JSON object a line")
    add(
        "--flags",
        type=lambda text: frozenset(text.split(",")) - {""},
        default=frozenset(),
        help="what the engine was started with: tools, metrics, dev, embeddings, reranking, "
        "force-usage, request-metrics, saver, empty, exl2, plain-health",
    )
    add("--api-key", help="what whoever asks must show, where the engine wants it")
    add(
        "--flaky",
        type=float,
        default=0.0,
        metavar="P",
        help="of the calls that give up the device or take it back, such a part goes wrong",
    )
    add("--models", type=lambda text: text.split(","), default=[], help="tabby: what can be loaded")
    options = parser.parse_args(
        [*shlex.split(os.environ.get("STANDIN_ARGS", "")), *argv], Options()
    )
    options.answers_as = options.answers_as or options.name
    if options.fault_until and Path(options.fault_until).exists():
        options.faults = frozenset()
    return options
