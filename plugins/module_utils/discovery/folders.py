"""What lies in a folder of models, by its files' names and small ones' contents. Pure.

Recognised: EXL2, EXL3, AWQ, GPTQ, FP8, bitsandbytes and what is not quantized, as folders with a
``config.json``; GGUF as files, in parts or whole. Adapters (LoRA), projectors (mmproj) and folders
that hold measurements only are no models.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.(?P<kind>gguf|safetensors)")
WEIGHTS = (".safetensors", ".bin", ".pt")
_NO_MODEL_GGUF = {"mmproj", "adapter", "imatrix", "vocab"}
_QUANTIZED = {
    "exl2": "EXL2",
    "exl3": "EXL3",
    "awq": "AWQ",
    "gptq": "GPTQ",
    "gptq_marlin": "GPTQ",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8",
    "bitsandbytes": "bitsandbytes",
    "mxfp4": "MXFP4",
}
SERVED_BY = {
    "EXL2": ("tabby",),
    "EXL3": ("tabby",),
    "GPTQ": ("sglang", "vllm", "tabby"),
    "GGUF": ("llamacpp",),
}
"""Engines that serve a format; those that are not named here go to SGLang or vLLM."""
_OTHERS = ("sglang", "vllm")


@dataclass(frozen=True)
class ModelFiles:
    """A model on disk. ``path`` is its folder, or a GGUF file (the first, of several parts)."""

    path: str
    format: str
    bits: float = 0
    """Of a weight; 0 where the files do not say."""
    size: int = 0
    """Bytes of the weights that are there."""
    architecture: str = ""
    context_length: int = 0
    problem: str = ""
    """Why it cannot be served as it is."""

    @property
    def served_by(self) -> tuple[str, ...]:
        """The backends that can."""
        return SERVED_BY.get(self.format, _OTHERS)

    @property
    def kind(self) -> str:
        """For a person: format, bits, size."""
        parts = [self.format]
        if self.bits:
            parts.append(f"{self.bits:g} bit")
        parts.append(f"{self.size / 1e9:.1f} GB" if self.size >= 10**8 else f"{self.size} bytes")
        return ", ".join(parts)


def folder_model(
    path: str, sizes: Mapping[str, int], config: Any, quantization: Any = None
) -> ModelFiles | None:
    """The model whose folder has these files (name → bytes); None if it is none.

    ``config`` is config.json; ``quantization`` is what older quantizers wrote beside it
    (quantize_config.json, quant_config.json). Either is None where it is missing or unreadable.
    """
    weights = [name for name in sizes if name.endswith(WEIGHTS) and "adapter" not in name]
    if not isinstance(config, dict) or not _is_language_model(config):
        return None  # an adapter has adapter_config.json instead
    if not weights:
        return None  # a measurement's folder, or a tokenizer's
    kind, bits = _quantized(config, quantization, sizes)
    text = config.get("text_config")
    context = config.get("max_position_embeddings")
    if context is None and isinstance(text, dict):
        context = text.get("max_position_embeddings")
    architectures = config.get("architectures")
    return ModelFiles(
        path,
        kind,
        bits,
        sum(sizes[name] for name in weights),
        architectures[0] if isinstance(architectures, list) and architectures else "",
        context if isinstance(context, int) else 0,
        missing_parts(weights),
    )


def _is_language_model(config: Mapping[str, Any]) -> bool:
    """Not a diffusion pipeline's part, a tokenizer or a preprocessor, which have one as well."""
    return bool(config.get("model_type") or config.get("architectures"))


def _quantized(
    config: Mapping[str, Any], quantization: Any, sizes: Mapping[str, int]
) -> tuple[str, float]:
    text = config.get("text_config")
    inner = text.get("quantization_config") if isinstance(text, dict) else None
    said = config.get("quantization_config") or inner or quantization
    if not isinstance(said, dict):
        # EXL2 folders of before 2024 say so only by what lies beside the weights
        if "measurement.json" in sizes and "output.safetensors" in sizes:
            return "EXL2", 0
        return "unquantized", 0
    method = str(said.get("quant_method") or said.get("version") or "").lower()
    bits = said.get("bits") or said.get("w_bit") or said.get("weight_bits") or 0
    if method == "compressed-tensors":
        return _compressed(said)
    if method in ("gemm", "gemv", "marlin"):  # AutoAWQ's own file
        method = "awq"
    if not method and "desc_act" in said:  # AutoGPTQ's own file
        method = "gptq"
    kind = _QUANTIZED.get(method, method or "unknown quantization")
    if kind == "FP8":
        bits = 8
    return kind, float(bits) if isinstance(bits, (int, float)) else 0


def _compressed(said: Mapping[str, Any]) -> tuple[str, float]:
    """compressed-tensors: by its format, FP8 or whole numbers of some bits."""
    groups = said.get("config_groups")
    first: Any = next(iter(groups.values()), {}) if isinstance(groups, dict) and groups else {}
    weights = first.get("weights") if isinstance(first, dict) else None
    bits = weights.get("num_bits", 0) if isinstance(weights, dict) else 0
    if str(said.get("format", "")).startswith("float"):
        return ("FP8", 8) if bits in (0, 8) else ("compressed-tensors", float(bits))
    return "compressed-tensors", float(bits)


def missing_parts(names: Sequence[str]) -> str:
    """A sentence on the parts that are not there; empty where nothing is missing."""
    parts = [match for match in map(PART.fullmatch, names) if match]
    for stem in dict.fromkeys(match["stem"] for match in parts):
        have = {int(match["number"]) for match in parts if match["stem"] == stem}
        total = max(int(match["total"]) for match in parts if match["stem"] == stem)
        lacking = total - len(have)
        if lacking > 0:
            return f"{lacking} of its {total} parts {'is' if lacking == 1 else 'are'} missing"
    return ""


def gguf_models(
    folder: str, sizes: Mapping[str, int], heads: Mapping[str, Mapping[str, Any]]
) -> list[ModelFiles]:
    """The models among a folder's GGUF files (name → bytes); ``heads`` are their metadata."""
    found = []
    for name in sorted(heads):
        head = heads[name]
        part = PART.fullmatch(name)
        if part and int(part["number"]) != 1:
            continue
        if _is_no_model(name, head):
            continue
        stem = f"{part['stem']}-" if part else ""
        names = [other for other in sizes if PART.fullmatch(other) and other.startswith(stem)]
        names = names if part else [name]
        architecture = str(head.get("general.architecture", ""))
        context = head.get(f"{architecture}.context_length", 0)
        found.append(
            ModelFiles(
                posixpath.join(folder, name),
                "GGUF",
                0,
                sum(sizes[other] for other in names),
                architecture,
                context if isinstance(context, int) else 0,
                missing_parts(names) if part else "",
            )
        )
    return found


def _is_no_model(name: str, head: Mapping[str, Any]) -> bool:
    kind = str(head.get("general.type", "model"))
    return (
        kind in _NO_MODEL_GGUF
        or head.get("general.architecture") == "clip"
        or name.lower().startswith(("mmproj", "ggml-vocab"))
        or "mmproj" in name.lower()
    )
