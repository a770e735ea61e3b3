"""From models.yml to the files that units read."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm_router import activation
from llm_router.activation import provisioned, run_activate
from llm_router.config.load import Settings, load_settings
from llm_router.config.spec import spec_of
from llm_router.engine_files import EngineDirs, EngineFileError

MODELS: dict[str, Any] = {
    "gemma": {"backend": "llamacpp", "service": "llamacpp@gemma.service", "model_path": "/g.gguf"},
    "qwen": {
        "backend": "llamacpp",
        "service": "llamacpp@qwen.service",
        "model_path": "/q.gguf",
        "port": 8081,
        "args": ["-c", 4096],
    },
    "big": {"backend": "sglang", "service": "sglang.service", "script": "/big.sh"},
    "small": {"backend": "sglang", "service": "sglang.service", "script": "/small.sh"},
    "alone": {"backend": "vllm", "service": "vllm.service", "script": "/alone.sh"},
    "exl3": {"backend": "tabby", "service": "tabbyapi.service", "model_name": "EXL3"},
}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    config = {"engine_files": {"llamacpp": str(tmp_path / "llamacpp")}}
    (tmp_path / "config.yml").write_text(json.dumps(config))
    (tmp_path / "models.yml").write_text(json.dumps({"models": MODELS}))
    loaded = load_settings(tmp_path / "config.yml")
    dirs = EngineDirs(str(tmp_path / "llamacpp"), str(tmp_path / "units"))
    (tmp_path / "units").mkdir()
    monkeypatch.setattr(activation, "dirs_of", lambda _: dirs)
    return loaded


def _changed(result: dict[str, Any]) -> list[str]:
    return ["/".join(Path(f["path"]).parts[-2:]) for f in result["files"] if f["changed"]]


def test_a_model_becomes_a_spec(settings: Settings) -> None:
    spec = spec_of(settings.models["qwen"])
    assert (spec.unit, spec.port, spec.args) == ("llamacpp@qwen.service", 8081, ("-c", "4096"))
    assert spec_of(settings.models["gemma"]).port == 8080
    assert spec_of(settings.models["big"]).script == "/big.sh"


def test_all_leaves_out_what_a_switch_decides(settings: Settings) -> None:
    names = [model.name for model in provisioned(settings.models)]
    assert names == ["gemma", "qwen", "alone", "exl3"]
    assert _changed(run_activate(settings, None)) == [
        "llamacpp/gemma.env",
        "llamacpp/qwen.env",
        "vllm.service.d/50-llm-router.conf",
    ]
    assert run_activate(settings, None)["changed"] is False


def test_one_of_several_on_a_unit_can_be_chosen(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "units/sglang.service.d/50-llm-router.conf"
    for name in ("big", "small"):
        result = run_activate(settings, [name])
        assert result["changed"] is True
        assert f"+ExecStart=/{name}.sh" in result["files"][0]["diff"]
        assert f"ExecStart=/{name}.sh" in path.read_text()


def test_a_script_that_no_model_has_any_more_is_taken_away(
    settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "units/tabbyapi.service.d/50-llm-router.conf"
    path.parent.mkdir()
    path.write_text("[Service]\nExecStart=\nExecStart=/old.sh\n")
    result = run_activate(settings, None)
    assert _changed(result).count("tabbyapi.service.d/50-llm-router.conf") == 1
    assert not path.exists()


def test_check_foretells_and_writes_nothing(settings: Settings, tmp_path: Path) -> None:
    foretold = run_activate(settings, None, check=True)
    assert not (tmp_path / "llamacpp").exists()
    assert run_activate(settings, None) == foretold
    json.dumps(foretold)


def test_an_unknown_name_is_refused_with_the_known_ones(settings: Settings) -> None:
    with pytest.raises(EngineFileError, match="no model 'x'; known models: gemma, qwen, big"):
        run_activate(settings, ["gemma", "x"])


SHARED: dict[str, Any] = {
    "one": {
        "backend": "sglang",
        "service": "sglang.service",
        "model_path": "/m/one",
        "settings": {"dtype": "half"},
    },
    "two": {"backend": "sglang", "service": "sglang.service", "model_path": "/m/two"},
    "a": {"backend": "tabby", "service": "tabbyapi.service"},
    "b": {"backend": "tabby", "service": "tabbyapi.service", "model_name": "sub/B"},
    "sole": {"backend": "tabby", "service": "tabbyapi-exl2.service"},
}


@pytest.fixture
def shared(tmp_path: Path) -> Settings:
    config = {"engine_files": {"etc": str(tmp_path)}, "engine_keys": {"sglang": None}}
    (tmp_path / "config.yml").write_text(json.dumps(config))
    (tmp_path / "models.yml").write_text(json.dumps({"models": SHARED}))
    return load_settings(tmp_path / "config.yml")


def test_models_of_one_unit_take_turns_in_its_file(shared: Settings, tmp_path: Path) -> None:
    assert run_activate(shared, None)["changed"] is False  # none of them has a unit to itself
    for name in ("one", "two", "one"):
        assert _changed(run_activate(shared, [name])) == ["sglang/sglang.yml"]
        text = (tmp_path / "sglang/sglang.yml").read_text()
        assert f"model-path: /m/{name}\n" in text
        assert ("dtype: half" in text) == (name == "one")


BROKEN = {
    "gemma": ("llamacpp/gemma.env", 'A="x\n', r"gemma\.env:1: a quote is opened here"),
    "qwen": ("sglang/sglang.yml", "port: [\n", r"sglang\.yml:2:"),
    "mini": ("vllm/vllm.yml", "a: b: c\n", r"vllm\.yml:1:"),
    "exl3": ("tabbyapi/config.yml", "model:\n  model_name: a\nmodel: [\n", r"config\.yml:4:"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_check_finds_the_broken_file_of_every_engine(tmp_path: Path, name: str) -> None:
    models = {
        "gemma": MODELS["gemma"],
        "qwen": {"backend": "sglang", "service": "sglang.service", "model_path": "/m/q"},
        "mini": {"backend": "vllm", "service": "vllm.service", "model_path": "/m/v"},
        "exl3": MODELS["exl3"],
    }
    engine_files = {"etc": str(tmp_path), "llamacpp": str(tmp_path / "llamacpp")}
    keys = {"sglang": None, "vllm": None, "tabby": None}
    config = {"engine_files": engine_files, "engine_keys": keys}
    (tmp_path / "config.yml").write_text(json.dumps(config))
    (tmp_path / "models.yml").write_text(json.dumps({"models": models}))
    settings = load_settings(tmp_path / "config.yml")
    file, text, said = BROKEN[name]
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(text)
    with pytest.raises(EngineFileError, match=said):
        run_activate(settings, [name], check=True)
    assert (tmp_path / file).read_text() == text


def test_a_tabbyapi_that_serves_several_must_have_its_file(
    shared: Settings, tmp_path: Path
) -> None:
    assert run_activate(shared, ["sole"])["changed"] is False
    with pytest.raises(EngineFileError, match=r"config\.yml does not exist; name"):
        run_activate(shared, ["a"])
    (tmp_path / "tabbyapi").mkdir()
    (tmp_path / "tabbyapi/config.yml").write_text("model:\n  model_name:\n")
    for name, text in (("a", "a"), ("b", "sub/B")):
        assert _changed(run_activate(shared, [name])) == ["tabbyapi/config.yml"]
        written = (tmp_path / "tabbyapi/config.yml").read_text()
        assert written == f"model:\n  model_name: {text}\n"


def test_a_tabbyapi_with_exllamav2_is_known_by_any_of_its_models(tmp_path: Path) -> None:
    """79126f9 puts config.yml above a model's own file, whatever the model is."""
    for name, method in (("old", "exl2"), ("new", "exl3")):
        (tmp_path / name).mkdir()
        details = {"quantization_config": {"quant_method": method}}
        (tmp_path / name / "config.json").write_text(json.dumps(details))
    models = {
        name: {
            "backend": "tabby",
            "service": "mine.service",
            "model_path": str(tmp_path / name),
            "config_file": str(tmp_path / "tabby.yml"),
            "settings": {"cache_mode": mode},
        }
        for name, mode in (("old", "Q4"), ("new", "Q6"))
    }
    (tmp_path / "config.yml").write_text(json.dumps({"engine_keys": {"tabby": None}}))
    (tmp_path / "models.yml").write_text(json.dumps({"models": models}))
    (tmp_path / "tabby.yml").write_text("model:\n  cache_mode: Q8\n")
    settings = load_settings(tmp_path / "config.yml")
    for name, mode in (("old", "Q4"), ("new", "Q6"), ("old", "Q4")):
        activation.activate([name], settings.models, settings.config)
        written = (tmp_path / "tabby.yml").read_text()
        assert f"cache_mode: {mode}\n" in written
        assert f"model_name: {name}\n" in written
        assert '# llm-router replaced: {"model.cache_mode": "Q8"}' in written
        assert not (tmp_path / name / "tabby_config.yml").exists()


UNLOADED: dict[str, Any] = {
    "a": {"model_path": "/m/a", "residency": "unload"},
    "b": {"model_path": "/m/b", "settings": {"max_seq_len": 8192}},
}


@pytest.mark.parametrize(
    ("config", "changes", "said"),
    [
        ("model: {cache_mode: FP16, chunk_size: 2048, max_seq_len: , model_name: a}", {}, ""),
        ("model: {max_seq_len: 4096, cache_mode: Q8, use_as_default: [cache_mode]}", {}, ""),
        (
            "model: {max_seq_len: 1, cache_mode: Q8, reasoning: true}",
            {},
            r"takes model\.cache_mode, model\.reasoning of .*tabby\.yml only at its start; add "
            "cache_mode, reasoning to `use_as_default:`",
        ),
        ("draft_model: {draft_mode: ngram}", {}, r"takes draft_model\.draft_mode of"),
        (
            "model: {use_as_default: [draft_mode]}\ndraft_model: {draft_mode: ngram}",
            {},
            "",
        ),
        ("model: {cache_mode: Q8}", {"a": {"residency": "stop"}}, ""),
        ("", {"a": {"model_path": "/n/a"}}, r"are in /m and /n, and TabbyAPI loads from the dir"),
        ("", {"both": {"service": "tabbyapi-exl2.service"}}, "ExLlamaV2, reads a model's settings"),
        (
            "",
            {"both": {"service": "tabbyapi-exl2.service"}, "b": {"settings": {}}},
            "",
        ),
    ],
)
def test_a_load_over_the_api_that_would_change_settings_is_refused_with_the_reason(
    tmp_path: Path, config: str, changes: dict[str, Any], said: str
) -> None:
    shared = {
        "backend": "tabby",
        "service": "tabbyapi.service",
        "config_file": str(tmp_path / "tabby.yml"),
        **changes.get("both", {}),
    }
    models = {name: shared | UNLOADED[name] | changes.get(name, {}) for name in UNLOADED}
    (tmp_path / "config.yml").write_text(json.dumps({"engine_keys": {"tabby": None}}))
    (tmp_path / "models.yml").write_text(json.dumps({"models": models}))
    (tmp_path / "tabby.yml").write_text(f"{config}\n")
    settings = load_settings(tmp_path / "config.yml")
    reason = activation.why_restart(settings.models["b"], settings.models, settings.config)
    assert re.search(said, reason) if said else reason == ""


def test_a_key_that_cannot_be_read_stops_before_anything_is_written(
    shared: Settings, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("two\nlines\n")
    one = shared.models["one"].model_copy(update={"api_key_file": str(tmp_path / "key")})
    broken = replace(shared, models={**shared.models, "one": one})
    with pytest.raises(EngineFileError, match="key is not one line with a key"):
        run_activate(broken, ["two", "one"])
    assert not (tmp_path / "sglang").exists()
