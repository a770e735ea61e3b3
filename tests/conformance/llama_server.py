"""llama-server for llama.cpp's own tests: PyPI's xllamacpp, by itself or behind the router.

    llama_server.py direct|through MODEL [llama-server's options]

``direct`` is the server. ``through`` is a router on the port that the tests ask for, whose engine
is the server. MODEL is loaded in place of the model that the options name, which would have to be
fetched from a hub. An option that is not known here ends the program, with either word.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
NAMES = "LLAMA_TESTS_MODELS"
"""Environment variable: a JSON list of the model names that the tests' requests have."""


def parse(argv: list[str]) -> argparse.Namespace:
    """The options that the tests use and xllamacpp has a word for."""
    parser = argparse.ArgumentParser(prog="llama-server", allow_abbrev=False)
    for option in ("--hf-repo", "--hf-file", "--model", "--alias", "--host", "--pooling"):
        parser.add_argument(option)
    for option in ("--chat-template", "--chat-template-file", "--reasoning-format"):
        parser.add_argument(option)
    parser.add_argument("--tags")
    parser.add_argument("--reasoning", choices=["on", "off", "auto"], default="auto")
    parser.add_argument("--verbose", action="store_true")
    for option in ("--port", "--seed", "--ctx-size", "--parallel", "--n-predict", "--threads"):
        parser.add_argument(option, type=int)
    for option in ("--batch-size", "--ubatch-size"):
        parser.add_argument(option, type=int)
    parser.add_argument("--temp", type=float)
    for option in ("--offline", "--cont-batching", "--embedding", "--metrics", "--kv-unified"):
        parser.add_argument(option, action="store_true")
    for option in ("--slots", "--no-slots", "--jinja", "--no-jinja", "--no-ui", "--context-shift"):
        parser.add_argument(option, action="store_true")
    return parser.parse_args(argv)


def params_of(options: argparse.Namespace, model: str) -> Any:
    """xllamacpp's parameters."""
    import xllamacpp

    params: Any = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = set((options.alias or "").split(","))
    params.model_tags = set((options.tags or "").split(",")) - {""}
    params.hostnames = [options.host or "127.0.0.1"]
    same = {"port": "port", "ctx_size": "n_ctx", "parallel": "n_parallel"}
    same |= {"n_predict": "n_predict", "batch_size": "n_batch", "ubatch_size": "n_ubatch"}
    for option, name in same.items():
        if getattr(options, option) is not None:
            setattr(params, name, getattr(options, option))
    for option in ("temp", "seed"):
        if getattr(options, option) is not None:
            setattr(params.sampling, option, getattr(options, option))
    # one thread: sums of floats, and so the tokens, are the same in each run
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cont_batching = options.cont_batching
    params.ctx_shift = options.context_shift
    params.kv_unified = options.kv_unified
    params.embedding = options.embedding
    params.endpoint_metrics = options.metrics
    params.endpoint_slots = options.slots
    params.use_jinja = options.jinja
    params.ui = not options.no_ui
    params.enable_reasoning = {"on": 1, "off": 0, "auto": -1}[options.reasoning]
    if options.verbose:
        params.verbosity = 99
    # where the tests' models have a pooling or no template of their own, this one has not
    if options.embedding and not options.pooling:
        options.pooling = "mean"
    if not (options.jinja or options.chat_template_file or options.chat_template):
        options.chat_template = "chatml"
    if options.pooling:
        kind = f"LLAMA_POOLING_TYPE_{options.pooling.upper()}"
        params.pooling_type = getattr(xllamacpp.llama_pooling_type, kind)
    if options.reasoning_format:
        kind = f"COMMON_REASONING_FORMAT_{options.reasoning_format.upper()}"
        params.reasoning_format = getattr(xllamacpp.common_reasoning_format, kind)
    if options.chat_template_file:
        params.chat_template = Path(options.chat_template_file).read_text(encoding="utf-8")
    elif options.chat_template:
        params.chat_template = options.chat_template
    return params


def serve(argv: list[str], model: str) -> None:
    """Be the server until a signal comes."""
    import xllamacpp

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = xllamacpp.Server(params_of(parse(argv), model))
    print(f"serving on {server.listening_address}", flush=True)
    stop.wait()
    os._exit(0)  # its threads hold nothing that must be saved


def route(argv: list[str], model: str) -> None:
    """Be a router until a signal comes. Its engine gets the same options."""
    from tests.integration.conftest import Router, free_port

    options = parse(argv)
    name, *aliases = (options.alias or "").split(",")
    given = [each for each in json.loads(os.environ[NAMES]) if each != name]
    passed = list(argv)
    # the router names its own port for the engine, and the engine's name
    for option in ("--port", "--host", "--alias"):
        if option in passed:
            at = passed.index(option)
            del passed[at : at + 2]
    with tempfile.TemporaryDirectory() as directory:
        router = Router(Path(directory), port=options.port)
        program = router.dir / "llama-server"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{HERE}" direct "{model}" "$@"\n')
        program.chmod(0o755)
        entry = {"backend": "llamacpp", "port": free_port(), "model_path": model, "args": passed}
        entry["aliases"] = sorted({*aliases, *given})
        router.write(
            {name: entry},
            llamacpp_binary=str(program),
            requests={"default_model": name},
            switch={"timeout": 20, "stop_timeout": 2},
        )
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        try:
            router.start()
            ended.wait()
        finally:
            router.end(may_be_gone=True)
            print((router.dir / "router.log").read_text(errors="replace"), flush=True)


if __name__ == "__main__":
    {"direct": serve, "through": route}[sys.argv[1]](sys.argv[3:], sys.argv[2])
