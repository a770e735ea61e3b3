"""llama.cpp's real server in a Python process, from PyPI's xllamacpp: no root, no package.

Takes llama-server's own arguments, as far as xllamacpp has their parameters, and rejects all
others by name. Ends on SIGTERM. ``/health`` is 503 while the model loads, as with llama-server
itself. The role llamacpp installs this file as the program of its source ``wheel``: it imports
nothing of the router.

The names, values and defaults are those of llama.cpp's ``common/arg.cpp`` (b11434).
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

SWITCHES = {"on": 1, "enabled": 1, "true": 1, "1": 1, "off": 0, "disabled": 0, "false": 0, "0": 0}
FLASH_ATTENTION = {**SWITCHES, "auto": -1}
POOLING = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}
ROPE_SCALING = {"none": 0, "linear": 1, "yarn": 2}
SPLIT_MODE = {"none": 0, "layer": 1, "row": 2, "tensor": 3}
LOAD_MODE = {"auto": -1, "none": 0, "mmap": 1, "mlock": 2, "mmap+mlock": 3, "dio": 4}
REASONING = {"none": 0, "auto": 1, "deepseek-legacy": 2, "deepseek": 3}
NUMA = {"distribute": 1, "isolate": 2, "numactl": 3}
GPU_LAYERS = {"auto": -1, "all": -2}
CACHE_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "iq4_nl": 20,
    "bf16": 30,
}

Convert = Callable[[str], Any]


def choice(enumeration: str, values: dict[str, int]) -> Convert:
    """One of `values`, as a member of xllamacpp's enumeration; plain numbers have none."""

    def convert(text: str) -> Any:
        if text not in values:
            raise argparse.ArgumentTypeError(f"'{text}' is not one of {', '.join(values)}")
        return (enumeration, values[text])

    return convert


def gpu_layers(text: str) -> int:
    """A number, ``auto`` or ``all``."""
    return GPU_LAYERS[text] if text in GPU_LAYERS else int(text)


def words(text: str) -> list[str]:
    """A list with commas between its entries."""
    return [word.strip() for word in text.split(",") if word.strip()]


def key_file(text: str) -> list[str]:
    """The keys of a file, one a line."""
    lines = Path(text).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def folder(text: str) -> str:
    """A directory; the server appends file names to it."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a directory")
    return text.rstrip("/") + "/"


def template(text: str) -> str:
    """The text of a file."""
    return Path(text).read_text(encoding="utf-8")


def inverse(text: str) -> float:
    """RoPE's factor is the inverse of its scale."""
    return 1.0 / float(text)


def seed(text: str) -> int:
    """An unsigned number; -1 is a random seed."""
    return int(text) % (1 << 32)


VALUES: dict[str, tuple[str, Convert]] = {
    "--threads -t": ("cpuparams.n_threads", int),
    "--threads-batch -tb": ("cpuparams_batch.n_threads", int),
    "--ctx-size -c": ("n_ctx", int),
    "--predict --n-predict -n": ("n_predict", int),
    "--batch-size -b": ("n_batch", int),
    "--ubatch-size -ub": ("n_ubatch", int),
    "--keep": ("n_keep", int),
    "--flash-attn -fa": ("flash_attn_type", choice("llama_flash_attn_type", FLASH_ATTENTION)),
    "--rope-scaling": ("rope_scaling_type", choice("llama_rope_scaling_type", ROPE_SCALING)),
    "--rope-scale": ("rope_freq_scale", inverse),
    "--rope-freq-base": ("rope_freq_base", float),
    "--rope-freq-scale": ("rope_freq_scale", float),
    "--yarn-orig-ctx": ("yarn_orig_ctx", int),
    "--yarn-ext-factor": ("yarn_ext_factor", float),
    "--yarn-attn-factor": ("yarn_attn_factor", float),
    "--yarn-beta-slow": ("yarn_beta_slow", float),
    "--yarn-beta-fast": ("yarn_beta_fast", float),
    "--cache-type-k -ctk": ("cache_type_k", choice("ggml_type", CACHE_TYPES)),
    "--cache-type-v -ctv": ("cache_type_v", choice("ggml_type", CACHE_TYPES)),
    "--load-mode -lm": ("load_mode", choice("llama_load_mode", LOAD_MODE)),
    "--numa": ("numa", choice("ggml_numa_strategy", NUMA)),
    "--n-gpu-layers --gpu-layers -ngl": ("n_gpu_layers", gpu_layers),
    "--split-mode -sm": ("split_mode", choice("llama_split_mode", SPLIT_MODE)),
    "--main-gpu -mg": ("main_gpu", int),
    "--verbosity --log-verbosity -lv": ("verbosity", int),
    "--samplers": ("sampling.samplers", str),
    "--seed -s": ("sampling.seed", seed),
    "--temp --temperature": ("sampling.temp", float),
    "--top-k": ("sampling.top_k", int),
    "--top-p": ("sampling.top_p", float),
    "--min-p": ("sampling.min_p", float),
    "--typical --typical-p": ("sampling.typ_p", float),
    "--xtc-probability": ("sampling.xtc_probability", float),
    "--xtc-threshold": ("sampling.xtc_threshold", float),
    "--repeat-last-n": ("sampling.penalty_last_n", int),
    "--repeat-penalty": ("sampling.penalty_repeat", float),
    "--presence-penalty": ("sampling.penalty_present", float),
    "--frequency-penalty": ("sampling.penalty_freq", float),
    "--dry-multiplier": ("sampling.dry_multiplier", float),
    "--dry-base": ("sampling.dry_base", float),
    "--dry-allowed-length": ("sampling.dry_allowed_length", int),
    "--dry-penalty-last-n": ("sampling.dry_penalty_last_n", int),
    "--reasoning-budget": ("sampling.reasoning_budget_tokens", int),
    "--reasoning-format": ("reasoning_format", choice("common_reasoning_format", REASONING)),
    "--ctx-checkpoints --swa-checkpoints -ctxcp": ("n_ctx_checkpoints", int),
    "--checkpoint-min-step -cms": ("checkpoint_min_step", int),
    "--cache-ram -cram": ("cache_ram_mib", int),
    "--cache-reuse": ("n_cache_reuse", int),
    "--pooling": ("pooling_type", choice("llama_pooling_type", POOLING)),
    "--parallel -np": ("n_parallel", int),
    "--mmproj -mm": ("mmproj.path", str),
    "--image-min-tokens": ("image_min_tokens", int),
    "--image-max-tokens": ("image_max_tokens", int),
    "--embd-normalize": ("embd_normalize", int),
    "--port": ("port", int),
    "--api-prefix": ("api_prefix", str),
    "--path": ("public_path", str),
    "--media-path": ("media_path", folder),
    "--ssl-key-file": ("ssl_file_key", str),
    "--ssl-cert-file": ("ssl_file_cert", str),
    "--timeout -to": ("timeout_read timeout_write", int),
    "--sse-ping-interval": ("sse_ping_interval", int),
    "--threads-http": ("n_threads_http", int),
    "--slot-save-path": ("slot_save_path", folder),
    "--slot-prompt-similarity -sps": ("slot_prompt_similarity", float),
    "--chat-template": ("chat_template", str),
    "--chat-template-file": ("chat_template", template),
    "--sleep-idle-seconds": ("sleep_idle_seconds", int),
}
"""llama-server's arguments with a value -> xllamacpp's parameters, and how to read the value."""

LISTS: dict[str, tuple[str, Convert]] = {
    "--host": ("hostnames", words),
    "--api-key": ("api_keys", words),
    "--api-key-file": ("api_keys", key_file),
}
"""The same for lists."""

CHOSEN = {
    "samplers": 1,
    "top_k": 2,
    "top_p": 4,
    "min_p": 8,
    "xtc_probability": 16,
    "xtc_threshold": 32,
    "temp": 64,
    "penalty_last_n": 128,
    "penalty_repeat": 256,
}
"""Bits of ``user_sampling_config``: a chosen value beats the default that a GGUF file has."""

FLAGS: dict[str, tuple[str, bool]] = {
    "--metrics": ("endpoint_metrics", True),
    "--props": ("endpoint_props", True),
    "--slots": ("endpoint_slots", True),
    "--no-slots": ("endpoint_slots", False),
    "--embedding --embeddings": ("embedding", True),
    "--swa-full": ("swa_full", True),
    "--perf": ("no_perf", False),
    "--no-perf": ("no_perf", True),
    "--kv-offload -kvo": ("no_kv_offload", False),
    "--no-kv-offload -nkvo": ("no_kv_offload", True),
    "--op-offload": ("no_op_offload", False),
    "--no-op-offload": ("no_op_offload", True),
    "--repack": ("no_extra_bufts", False),
    "--no-repack -nr": ("no_extra_bufts", True),
    "--no-host": ("no_host", True),
    "--check-tensors": ("check_tensors", True),
    "--offline": ("offline", True),
    "--ignore-eos": ("sampling.ignore_eos", True),
    "--kv-unified -kvu": ("kv_unified", True),
    "--no-kv-unified -no-kvu": ("kv_unified", False),
    "--cache-prompt": ("cache_prompt", True),
    "--no-cache-prompt": ("cache_prompt", False),
    "--cache-idle-slots": ("cache_idle_slots", True),
    "--no-cache-idle-slots": ("cache_idle_slots", False),
    "--context-shift": ("ctx_shift", True),
    "--no-context-shift": ("ctx_shift", False),
    "--cont-batching -cb": ("cont_batching", True),
    "--no-cont-batching -nocb": ("cont_batching", False),
    "--warmup": ("warmup", True),
    "--no-warmup": ("warmup", False),
    "--special -sp": ("special", True),
    "--jinja": ("use_jinja", True),
    "--no-jinja": ("use_jinja", False),
    "--prefill-assistant": ("prefill_assistant", True),
    "--no-prefill-assistant": ("prefill_assistant", False),
    "--mmproj-offload": ("mmproj_use_gpu", True),
    "--no-mmproj-offload": ("mmproj_use_gpu", False),
    "--no-mmproj --no-mmproj-auto": ("no_mmproj", True),
    "--reuse-port": ("reuse_port", True),
    "--ui --webui": ("ui", True),
    "--no-ui --no-webui": ("ui", False),
}
"""llama-server's arguments without a value."""


class _Parser(argparse.ArgumentParser):
    """Says of an argument that xllamacpp lacks what to do about it."""

    def error(self, message: str) -> Any:
        if message.startswith("unrecognized arguments"):
            message += (
                ": the server of PyPI's xllamacpp does not have them; remove them from the model's "
                "args and settings, or set llamacpp_source to build"
            )
        super().error(message)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; exits 2 on one that is unknown. ``parameters`` is a list of xllamacpp's
    parameters and their values, in the order of the command line."""
    parser = _Parser(prog="llama-server", allow_abbrev=False)
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--list-devices", action="store_true")
    parser.add_argument("--model", "-m")
    parser.add_argument("--alias", "-a", type=words, default=[])
    parser.add_argument("--rerank", "--reranking", action="store_true")
    parser.set_defaults(parameters=[])

    def collect(kind: str, target: str, fixed: Any = None) -> type[argparse.Action]:
        class Collect(argparse.Action):
            def __call__(self, _parser: Any, options: Any, value: Any, _name: Any = None) -> None:
                options.parameters = [
                    *options.parameters,
                    (kind, target, value if fixed is None else fixed),
                ]

        return Collect

    for names, (target, convert) in {**VALUES, **LISTS}.items():
        kind = "list" if names in LISTS else "value"
        parser.add_argument(*names.split(), type=convert, action=collect(kind, target))
    for names, (target, fixed) in FLAGS.items():
        parser.add_argument(*names.split(), nargs=0, action=collect("value", target, fixed))
    options = parser.parse_args(argv)
    if not (options.model or options.version or options.list_devices):
        parser.error("the argument --model is missing")
    return options


def parameters(options: argparse.Namespace) -> Any:
    """xllamacpp's parameters, those of llama-server where nothing is said."""
    import xllamacpp  # heavy, and optional: only this process needs it

    params: Any = xllamacpp.CommonParams()
    params.port = 8080
    params.n_parallel = -1
    params.model.path = options.model
    if options.alias:
        params.model_alias = set(options.alias)
    lists: dict[str, list[str]] = {}
    for kind, targets, value in options.parameters:
        if kind == "list":
            lists[targets] = value if targets == "hostnames" else [*lists.get(targets, []), *value]
            value = lists[targets]
        elif isinstance(value, tuple):
            enumeration, number = value
            value = getattr(xllamacpp, enumeration)(number)
        for target in targets.split():
            owner, _, name = target.rpartition(".")
            setattr(getattr(params, owner) if owner else params, name, value)
            if owner == "sampling":
                params.sampling.user_sampling_config |= CHOSEN.get(name, 0)
    # as llama-server does: what is not set follows what is
    if params.cpuparams_batch.n_threads < 0:
        params.cpuparams_batch.n_threads = params.cpuparams.n_threads
    params.sampling.n_prev = max(params.sampling.n_prev, params.sampling.penalty_last_n)
    if options.rerank:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type(POOLING["rank"])
    return params


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; 1 when the model cannot be loaded."""
    options = parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.version or options.list_devices:
        import xllamacpp

        print(f"version: {xllamacpp.__version__} (xllamacpp)")  # noqa: T201
        for device in xllamacpp.get_device_info() if options.list_devices else []:
            print(device)  # noqa: T201
        return 0
    ignored = sorted(name for name in os.environ if name.startswith("LLAMA_ARG_"))
    if ignored:
        log.warning("%s: xllamacpp reads no such variables; use arguments", ", ".join(ignored))
    if not Path(options.model).is_file():
        log.error("model file %s does not exist", options.model)
        return 1
    import xllamacpp

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        server = xllamacpp.Server(parameters(options))
    except RuntimeError as error:
        log.error("cannot load %s: %s", options.model, error)
        return 1
    log.info("serving %s on %s", ",".join(options.alias), server.listening_address)
    stop.wait()
    # the C++ threads hold nothing that must be saved; waiting for them would delay the next engine
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
