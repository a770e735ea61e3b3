"""Models are told by their files, and what only looks like one is not."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from llm_router.discovery.folders import folder_model, gguf_models, missing_parts
from llm_router.discovery.gguf import read_gguf

MODEL = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
WEIGHTS = {"config.json": 600, "model.safetensors": 4 * 10**9}


def quantized(**said: Any) -> dict[str, Any]:
    return {**MODEL, "quantization_config": said}


@pytest.mark.parametrize(
    ("config", "kind", "bits"),
    [
        (MODEL, "unquantized", 0),
        (quantized(quant_method="exl2", bits=4.65), "EXL2", 4.65),
        (quantized(quant_method="exl3", bits=3.0, head_bits=6), "EXL3", 3),
        (quantized(quant_method="awq", bits=4, version="gemm"), "AWQ", 4),
        (quantized(quant_method="gptq", bits=8), "GPTQ", 8),
        (quantized(quant_method="fp8"), "FP8", 8),
        (quantized(quant_method="compressed-tensors", format="float-quantized",
                   config_groups={"g": {"weights": {"num_bits": 8}}}), "FP8", 8),
        (quantized(quant_method="compressed-tensors", format="pack-quantized",
                   config_groups={"g": {"weights": {"num_bits": 4}}}), "compressed-tensors", 4),
        ({**MODEL, "text_config": quantized(quant_method="awq", bits=4)}, "AWQ", 4),
        (quantized(quant_method="torchao"), "torchao", 0),
    ],
)  # fmt: skip
def test_a_folder_is_told_by_its_config(config: Any, kind: str, bits: float) -> None:
    model = folder_model("/m/a", WEIGHTS, config)
    assert model is not None
    assert (model.format, model.bits, model.size) == (kind, bits, 4 * 10**9)
    assert model.problem == ""


def test_what_older_quantizers_wrote_beside_the_config() -> None:
    awq = folder_model("/m", WEIGHTS, MODEL, {"w_bit": 4, "version": "GEMM"})
    gptq = folder_model("/m", WEIGHTS, MODEL, {"bits": 4, "desc_act": True})
    exl2 = folder_model(
        "/m", {"config.json": 1, "output.safetensors": 9, "measurement.json": 1}, MODEL
    )
    assert [model.format for model in (awq, gptq, exl2) if model] == ["AWQ", "GPTQ", "EXL2"]


@pytest.mark.parametrize(
    ("sizes", "config"),
    [
        ({"adapter_config.json": 1, "adapter_model.safetensors": 9}, None),  # LoRA
        ({"config.json": 1, "adapter_model.safetensors": 9}, MODEL),
        ({"config.json": 1, "measurement.json": 9}, MODEL),  # a measurement alone
        ({"config.json": 1, "model.safetensors": 9}, {"sample_rate": 16000}),
        ({"config.json": 1, "model.safetensors": 9}, ["no mapping"]),
    ],
)
def test_what_is_no_model(sizes: dict[str, int], config: Any) -> None:
    assert folder_model("/m", sizes, config) is None


def test_missing_parts_are_a_problem() -> None:
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 3)]
    assert missing_parts(names) == "1 of its 3 parts is missing"
    assert missing_parts([*names, "model-00002-of-00003.safetensors"]) == ""
    model = folder_model("/m", dict.fromkeys([*names, "config.json"], 1), MODEL)
    assert model is not None
    assert model.problem == "1 of its 3 parts is missing"


def gguf(version: int = 3, **keys: Any) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    body = b""
    for key, value in keys.items():
        body += text(key.replace("__", "."))
        if isinstance(value, str):
            body += struct.pack("<I", 8) + text(value)
        elif isinstance(value, list):
            body += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        else:
            body += struct.pack("<II", 4, value)
    return b"GGUF" + struct.pack("<IQQ", version, 0, len(keys)) + body


def test_the_head_of_a_gguf_file() -> None:
    head = gguf(general__architecture="llama", tokens=["a", "bc"], llama__context_length=8192)
    assert read_gguf(head) == {"general.architecture": "llama", "llama.context_length": 8192}
    assert read_gguf(head[:85]) == {"general.architecture": "llama"}  # it ends in the list
    assert read_gguf(b"GGML" + head[4:]) is None
    assert read_gguf(b"GGUF") is None
    for end in range(24, len(head)):
        assert read_gguf(head[:end]) is not None


def test_gguf_models_in_parts_and_what_lies_beside_them() -> None:
    llama = {"general.architecture": "llama", "llama.context_length": 8192}
    heads: dict[str, dict[str, Any]] = {
        "a.gguf": llama,
        "b-00001-of-00002.gguf": llama,
        "c-00001-of-00002.gguf": llama,
        "mmproj-a-f16.gguf": {"general.architecture": "clip"},
        "style-lora.gguf": {"general.architecture": "llama", "general.type": "adapter"},
        "imatrix.gguf": {"general.type": "imatrix"},
    }
    sizes = dict.fromkeys([*heads, "b-00002-of-00002.gguf"], 10)
    found = gguf_models("/m", sizes, heads)
    assert [(model.path, model.size, model.problem) for model in found] == [
        ("/m/a.gguf", 10, ""),
        ("/m/b-00001-of-00002.gguf", 20, ""),
        ("/m/c-00001-of-00002.gguf", 10, "1 of its 2 parts is missing"),
    ]
    assert found[0].context_length == 8192
