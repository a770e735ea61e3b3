"""SGLang's and vLLM's own command lines and ``--config`` files, in front of the stand-in.

What `python -m sglang.launch_server` (0.5.23) and `vllm serve` (0.33.0) make of them, read in
their sources: the file's options come before those of the command line, which therefore win; an
option that is not known ends the program with 2; a model that is not there, with 1. Only the
options that the collection writes, or that change the stand-in, are known.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from options import parse
from ruamel.yaml import YAML


def sglang(argv: list[str]) -> None:
    """``python -m sglang.launch_server``."""
    warnings.warn("'sglang serve' is the recommended entrypoint.", UserWarning, stacklevel=1)
    parser = argparse.ArgumentParser(prog="launch_server", allow_abbrev=False)
    parser.add_argument("--model-path", "--model", required=True)
    _common(parser, 30000)
    parser.add_argument("--context-length", type=int, default=4096)
    parser.add_argument("--mem-fraction-static", type=float)
    parser.add_argument("--dtype")
    parser.add_argument("--tool-call-parser")
    for flag in ("--enable-metrics", "--enable-memory-saver", "--enable-weights-cpu-backup"):
        parser.add_argument(flag, action="store_true")
    given = parser.parse_args(_with_file(argv, parser, only_yaml=True))
    flags = [
        name
        for name, on in (("metrics", given.enable_metrics), ("saver", given.enable_memory_saver))
        if on
    ]
    _serve("contracts.sglang", "Sglang", given, given.model_path, given.context_length, flags)


def sglang_cli(argv: list[str]) -> None:
    """``sglang serve``: it takes the kind of server from the command line's model alone."""
    if argv[:1] != ["serve"]:
        raise SystemExit("usage: sglang serve --model-path MODEL")
    if not any(word.partition("=")[0] in ("--model-path", "--model") for word in argv[1:]):
        raise SystemExit("Error: --model-path is required. Please provide the path to the model.")
    sglang(argv[1:])


def vllm(argv: list[str]) -> None:
    """``vllm serve``."""
    if argv[:1] != ["serve"]:
        raise SystemExit("usage: vllm serve [MODEL]")
    parser = argparse.ArgumentParser(prog="vllm serve", allow_abbrev=False)
    parser.add_argument("model_tag", nargs="?")
    parser.add_argument("--model", default="Qwen/Qwen3-0.6B")
    _common(parser, 8000)
    parser.add_argument("--max-model-len", type=int, default=4096)
    parser.add_argument("--gpu-memory-utilization", type=float)
    parser.add_argument("--dtype")
    parser.add_argument("--tool-call-parser")
    for flag in (
        "--enable-auto-tool-choice",
        "--enable-force-include-usage",
        "--enable-per-request-metrics",
        "--enable-sleep-mode",
        "--enforce-eager",
    ):
        parser.add_argument(flag, action="store_true")
    given = parser.parse_args(_with_file(argv[1:], parser))
    flags = [
        name
        for name, on in (
            ("tools", given.enable_auto_tool_choice and given.tool_call_parser),
            ("force-usage", given.enable_force_include_usage),
            ("request-metrics", given.enable_per_request_metrics),
            ("dev", os.environ.get("VLLM_SERVER_DEV_MODE") == "1"),
        )
        if on
    ]
    model = given.model_tag or given.model
    _serve("contracts.vllm", "Vllm", given, model, given.max_model_len, flags)


def _common(parser: argparse.ArgumentParser, port: int) -> None:
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=port)
    parser.add_argument("--served-model-name")
    parser.add_argument("--api-key")
    parser.add_argument("--trust-remote-code", action="store_true")


def _with_file(
    argv: list[str], parser: argparse.ArgumentParser, *, only_yaml: bool = False
) -> list[str]:
    """The command line with what its ``--config`` names before it."""
    if argv.count("--config") > 1:
        raise SystemExit("ValueError: Multiple config files specified! Only one allowed.")
    if "--config" not in argv:
        return argv
    place = argv.index("--config")
    path = Path(argv[place + 1])
    if only_yaml and path.suffix not in (".yml", ".yaml"):
        raise SystemExit(f"ValueError: Config file must be YAML format, got: {path.suffix}")
    if not path.exists():
        raise SystemExit(f"ValueError: Config file not found: {path}")
    config = YAML(typ="safe", pure=True).load(path)
    if not isinstance(config, dict):
        raise SystemExit("ValueError: Config file must contain a dictionary at root level")
    words: list[str] = []
    for key, value in config.items():
        words += _words(f"--{key.replace('_', '-')}", value)
    return words + argv[:place] + argv[place + 2 :]


def _words(option: str, value: Any) -> list[str]:
    if value is True:
        return [option]
    if value is False:
        return []
    return [option, *map(str, value)] if isinstance(value, list) else [option, str(value)]


def _serve(
    module: str,
    name: str,
    given: argparse.Namespace,
    model: str,
    context: int,
    flags: list[str],
) -> None:
    """Run the stand-in as the engine that was asked for."""
    if not (Path(model) / "config.json").is_file():
        raise SystemExit(f"OSError: {model} is not a local folder with a config.json")
    if given.host not in ("127.0.0.1", "localhost"):
        raise SystemExit(f"the stand-in listens on loopback alone, not on {given.host}")
    argv = [
        f"--engine={name.lower()}",
        f"--port={given.port}",
        f"--name={given.served_model_name or model}",
        f"--context={context}",
        f"--flags={','.join(flags)}",
    ]
    if given.api_key is not None:
        argv.append(f"--api-key={given.api_key}")
    sys.argv[1:] = argv
    getattr(importlib.import_module(module), name)(parse(argv)).run()
