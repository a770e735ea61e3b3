"""What llama-server's arguments become in PyPI's xllamacpp, which the role's wheel runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import xllamacpp

from llm_router.engine_files import llamacpp_arguments
from llm_router.engines import xllamacpp_server as program

SAMPLES: dict[Any, str] = {int: "7", float: "0.25", str: "some", program.seed: "7"}


def params(*argv: str) -> Any:
    return program.parameters(program.parse(["--model", "/m.gguf", *argv]))


def get(given: Any, target: str) -> Any:
    for name in target.split("."):
        given = getattr(given, name)
    return given


@pytest.mark.parametrize(
    ("name", "target", "value"),
    [
        (name, target.split()[-1], SAMPLES[convert])
        for names, (target, convert) in program.VALUES.items()
        if convert in SAMPLES and names != "--samplers"  # of these it knows the names
        for name in names.split()
    ],
)
def test_a_value_is_the_parameter_of_its_name(name: str, target: str, value: str) -> None:
    assert str(get(params(name, value), target)) == value


@pytest.mark.parametrize(
    ("name", "target", "value"),
    [
        (name, target, value)
        for names, (target, value) in program.FLAGS.items()
        for name in names.split()
    ],
)
def test_a_flag_is_the_parameter_of_its_name(name: str, target: str, value: bool) -> None:
    assert get(params(name), target) is value


def members(enumeration: str, values: dict[str, int]) -> dict[str, str]:
    return {word: getattr(xllamacpp, enumeration)(value).name for word, value in values.items()}


def test_the_choices_are_those_of_this_xllamacpp() -> None:
    kinds = members("ggml_type", program.CACHE_TYPES)
    assert all(kinds[word].lower() == f"ggml_type_{word}" for word in kinds)
    loads = members("llama_load_mode", program.LOAD_MODE)
    assert loads["mmap+mlock"].endswith("MMAP_MLOCK") or loads["mmap+mlock"].endswith("MLOCK")
    assert loads["dio"].endswith("DIRECT_IO")
    flash = members("llama_flash_attn_type", program.FLASH_ATTENTION)
    assert (flash["on"][-7:], flash["off"][-8:], flash["auto"][-4:]) == (
        *("ENABLED", "DISABLED", "AUTO"),
    )
    for values, enumeration in (
        (program.POOLING, "llama_pooling_type"),
        (program.ROPE_SCALING, "llama_rope_scaling_type"),
        (program.SPLIT_MODE, "llama_split_mode"),
        (program.NUMA, "ggml_numa_strategy"),
        (program.REASONING, "common_reasoning_format"),
    ):
        for word, name in members(enumeration, values).items():
            assert name.endswith(word.rpartition("-")[2].upper()), (word, name)
    bits = {
        member.name.removeprefix("COMMON_PARAMS_SAMPLING_CONFIG_").lower(): member.value
        for member in xllamacpp.common_params_sampling_config
    }
    assert bits.items() >= program.CHOSEN.items()


def test_what_a_switch_writes_is_accepted(tmp_path: Path) -> None:
    argv = llamacpp_arguments(
        model_path="/srv/a.gguf",
        alias="a",
        port=8081,
        args=("--metrics", "-fa", "on", "-ctk", "q8_0", "-ngl", "all", "--no-webui"),
        settings={"ctx-size": 16384, "n-gpu-layers": 99, "temp": 0.5, "jinja": True},
    )
    made = program.parameters(program.parse(argv))
    assert (made.model.path, made.model_alias, made.port) == ("/srv/a.gguf", {"a"}, 8081)
    assert (made.hostnames, made.n_ctx, made.endpoint_metrics) == (["127.0.0.1"], 16384, True)
    assert made.cache_type_k == xllamacpp.ggml_type.GGML_TYPE_Q8_0
    assert made.n_gpu_layers in (99, -2)
    # the value was chosen: what the model's file says of it does not count
    assert made.sampling.user_sampling_config == program.CHOSEN["temp"]


def test_what_is_not_said_is_as_with_llama_server() -> None:
    made = params()
    assert (made.port, made.n_ctx, made.n_parallel, made.n_gpu_layers) == (8080, 0, -1, -1)
    assert params("-t", "3").cpuparams_batch.n_threads == 3
    assert params("--repeat-last-n", "256").sampling.n_prev == 256
    ranked = params("--rerank")
    assert ranked.embedding
    assert ranked.pooling_type == xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK


def test_keys_come_from_both_arguments(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# of mine\ntwo\n\nthree\n", encoding="utf-8")
    assert params("--api-key", "one", "--api-key-file", str(keys)).api_keys == [
        *("one", "two", "three")
    ]


def test_folders_end_with_a_slash_and_must_exist(tmp_path: Path) -> None:
    assert params("--slot-save-path", str(tmp_path)).slot_save_path == f"{tmp_path}/"
    with pytest.raises(argparse.ArgumentTypeError, match="is not a directory"):
        program.folder(str(tmp_path / "none"))


@pytest.mark.parametrize("argument", ["--rpc", "--override-tensor", "--lora"])
def test_an_argument_that_the_wheel_lacks_is_named(
    argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        params(argument, "x")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"{argument} x: the server of PyPI's xllamacpp does not have them" in said
    assert "set llamacpp_source to build" in said


def test_a_value_that_is_none_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        params("--cache-type-k", "q9")
    assert "'q9' is not one of f32, f16," in capsys.readouterr().err


def test_it_tells_its_version_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"version: {xllamacpp.__version__}")


def test_the_model_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.parse([])
    assert "--model is missing" in capsys.readouterr().err
