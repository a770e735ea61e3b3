"""llama.cpp's real server in a Python process, from PyPI's xllamacpp: no root, no package.

Takes the llama-server arguments that the router writes, refuses the ones it does not know, and
ends on SIGTERM. ``/health`` is 503 while the model loads, as with llama-server itself.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def parse(argv: list[str]) -> argparse.Namespace:
    """llama-server's names for the arguments that are carried over; exits 2 on any other."""
    parser = argparse.ArgumentParser(prog="llama-server", allow_abbrev=False)
    parser.add_argument("--model", "-m", required=True)
    parser.add_argument("--alias", "-a", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--ctx-size", "-c", type=int, default=4096)
    parser.add_argument("--threads", "-t", type=int)
    parser.add_argument("--parallel", "-np", type=int, default=1)
    parser.add_argument("--n-gpu-layers", "-ngl", type=int)
    parser.add_argument("--temp", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--metrics", action="store_true")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; 1 when the model cannot be loaded."""
    options = parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not Path(options.model).is_file():
        log.error("model file %s does not exist", options.model)
        return 1
    import xllamacpp  # heavy, and optional: only this process needs it

    params: Any = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.alias}
    params.hostnames = [options.host]
    params.port = options.port
    params.n_ctx = options.ctx_size
    params.n_parallel = options.parallel
    params.endpoint_metrics = options.metrics
    if options.threads:
        params.cpuparams.n_threads = options.threads
        params.cpuparams_batch.n_threads = options.threads
    if options.n_gpu_layers is not None:
        params.n_gpu_layers = options.n_gpu_layers
    if options.temp is not None:
        params.sampling.temp = options.temp
    if options.seed is not None:
        params.sampling.seed = options.seed
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        log.error("cannot load %s: %s", options.model, error)
        return 1
    log.info("serving %s on %s", options.alias, server.listening_address)
    stop.wait()
    # the C++ threads hold nothing that must be saved; waiting for them would delay the next engine
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
