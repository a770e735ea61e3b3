"""What the config writer makes of SGLang's, vLLM's and TabbyAPI's YAML."""

from __future__ import annotations

import grp
import json
import os
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_router.engine_files import (
    EngineDirs,
    EngineSpec,
    SpecError,
    desired_files,
    has_exllamav2,
    server_options,
)
from llm_router.file_edits import EngineFileError, FileResult, apply

BIG = EngineSpec(
    name="big",
    backend="sglang",
    unit="sglang.service",
    model_path="/srv/models/Big-AWQ",
    args=("--quantization", "awq", "--mem-fraction-static=0.85", "--trust-remote-code"),
    settings={"context_length": 8192},
)
SMALL = EngineSpec(
    name="small",
    backend="sglang",
    unit="sglang.service",
    model_path="/srv/models/Small",
    settings={"tool-call-parser": "qwen25", "json-model-override-args": {"a": [1, True]}},
)
TABBY = EngineSpec(name="EXL3", backend="tabby", unit="tabbyapi.service", alone=False)

NL = "\n"
CONFIG = """\
# Blank values are the program's own.

network:
  # The address to listen on.
  host: 127.0.0.1

  port: 5000   # as the firewall has it
  api_servers: ["OAI"]

# About models
model:
  # Do NOT put this path in quotes!
  model_dir: models

  # REQUIRED: this must be filled out.
  model_name:

  # Leave it blank to have it found out.
  max_seq_len:
  cache_mode: 'Q8'  # ünïcode €

draft_model:
  draft_model_name:
"""


class Host:
    """Directories as a host has them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("etc/sglang", "etc/vllm", "etc/tabbyapi", "units", "models/EXL3"):
            (root / name).mkdir(parents=True)
        self.tabby = root / "etc/tabbyapi/config.yml"
        self.tabby.write_text(CONFIG)
        self.dirs = EngineDirs(str(root / "llamacpp"), str(root / "units"), str(root / "etc"))

    def activate(self, spec: EngineSpec, **options: Any) -> list[FileResult]:
        return apply(desired_files(spec, self.dirs), **options)

    def read(self, path: str) -> str:
        return (self.root / path).read_text()

    def refused(self, spec: EngineSpec) -> str:
        with pytest.raises(EngineFileError) as caught:
            self.activate(spec)
        return str(caught.value).replace(f"{self.root}/", "")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def lines(result: FileResult) -> list[str]:
    """What a diff takes away and adds."""
    return [line for line in result.diff.splitlines()[2:] if line[0] in "+-"]


class TestServers:
    def test_a_model_becomes_the_servers_own_options(self, host: Host) -> None:
        host.activate(BIG)
        assert yaml.safe_load(host.read("etc/sglang/sglang.yml")) == {
            "model-path": "/srv/models/Big-AWQ",
            "served-model-name": "big",
            "host": "127.0.0.1",
            "port": 30000,
            "quantization": "awq",
            "mem-fraction-static": 0.85,
            "trust-remote-code": True,
            "context-length": 8192,
        }
        host.activate(replace(BIG, backend="vllm", unit="vllm@one.service", port=8001))
        made = yaml.safe_load(host.read("etc/vllm/one.yml"))
        assert (made["model"], made["port"]) == ("/srv/models/Big-AWQ", 8001)
        assert "model-path" not in made

    def test_again_is_no_change(self, host: Host) -> None:
        assert host.activate(BIG, check=True)[0].diff == host.activate(BIG)[0].diff != ""
        assert not any(result.changed for result in host.activate(BIG))

    def test_the_next_model_has_none_of_the_options_of_the_one_before(self, host: Host) -> None:
        host.activate(BIG)
        path = host.root / "etc/sglang/sglang.yml"
        mine = "# mine\nlog-level: warning   # stays\n"
        path.write_text(path.read_text() + mine)
        host.activate(SMALL)
        made = yaml.safe_load(path.read_text())
        assert made == {
            "model-path": "/srv/models/Small",
            "served-model-name": "small",
            "host": "127.0.0.1",
            "port": 30000,
            "log-level": "warning",
            "tool-call-parser": "qwen25",
            "json-model-override-args": '{"a": [1, true]}',
        }
        assert mine in path.read_text()
        before = path.read_bytes()
        host.activate(BIG)
        host.activate(SMALL)
        assert path.read_bytes() == before

    def test_an_operators_spelling_is_not_given_a_second_one(self, host: Host) -> None:
        path = host.root / "etc/sglang/sglang.yml"
        path.write_text("model: /old\nserved_model_name: 'old'\nport: 30000 # p\nhost: 127.0.0.1\n")
        host.activate(replace(SMALL, settings={}))
        assert path.read_text() == (
            "# llm-router wrote: model, served_model_name, host, port\n"
            "model: /srv/models/Small\nserved_model_name: 'small'\nport: 30000 # p\n"
            "host: 127.0.0.1\n"
        )

    def test_another_file_may_be_named(self, host: Host) -> None:
        path = str(host.root / "mine.yaml")
        spec = replace(SMALL, unit="odd.service", config_file=path)
        assert [Path(r.path).name for r in host.activate(spec)] == [
            "mine.yaml",
            "50-llm-router.conf",
        ]

    def test_a_unit_of_another_name_reads_what_its_owner_says(self, host: Host) -> None:
        spec = replace(SMALL, unit="my-sglang.service")
        assert [r.changed for r in host.activate(spec)] == [False]

    def test_a_script_has_the_last_word(self, host: Host) -> None:
        host.activate(replace(BIG, script="/opt/big.sh"))
        assert not (host.root / "etc/sglang/sglang.yml").exists()
        assert "ExecStart=/opt/big.sh" in host.read("units/sglang.service.d/50-llm-router.conf")

    @pytest.mark.parametrize(
        ("args", "options"),
        [
            (("--a", "1", "--b"), {"a": 1, "b": True}),
            (("--a_b.c_d", "-1"), {"a-b.c_d": -1}),
            (("--a=x=y", "--b="), {"a": "x=y", "b": ""}),
            (("--sizes", "1", "2", "4"), {"sizes": [1, 2, 4]}),
            (("--a", "0.90", "--b", "007", "--c", "1e3"), {"a": "0.90", "b": "007", "c": "1e3"}),
            (("--a", '{"x": 1}'), {"a": '{"x": 1}'}),
            ((), {}),
        ],
    )
    def test_arguments_become_keys(self, args: tuple[str, ...], options: dict[str, Any]) -> None:
        assert server_options(replace(SMALL, args=args, settings={})) == options

    @pytest.mark.parametrize(
        ("change", "key", "said"),
        [
            ({"args": ("-tp", "2")}, "args", "has '-tp', which cannot be a key"),
            ({"args": ("x",)}, "args", "has 'x', which cannot be a key"),
            ({"args": ("--a", "1", "--a", "2")}, "args", "has --a twice"),
            ({"args": ("--a-b",), "settings": {"a_b": 1}}, "settings.a_b", "is in `args` too"),
            ({"args": ("--port", "1")}, "args", "say it as `port:`"),
            ({"settings": {"host": "0.0.0.0"}}, "settings.host", "127.0.0.1 alone"),
            ({"settings": {"api_key": "x"}}, "settings.api-key", "`api_key_file:`"),
            ({"settings": {"model": "x"}}, "settings.model", "`model_path:`"),
        ],
    )
    def test_what_cannot_be_said(self, change: dict[str, Any], key: str, said: str) -> None:
        spec = replace(SMALL, **{"args": (), "settings": {}, **change})
        with pytest.raises(SpecError) as caught:
            server_options(spec)
        assert caught.value.key == key
        assert said in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
class TestKeys:
    """A key is for the engine alone, and in no diff."""

    @pytest.fixture(autouse=True)
    def group(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = grp.getgrnam
        monkeypatch.setattr(
            grp, "getgrnam", lambda name: real("daemon" if name == "sglang" else name)
        )

    KEYED = replace(SMALL, api_key="a-secret-key")

    def mode(self, host: Host) -> tuple[str, str]:
        status = (host.root / "etc/sglang/sglang.yml").stat()
        return grp.getgrgid(status.st_gid).gr_name, oct(stat.S_IMODE(status.st_mode))

    def test_a_new_file_is_the_engines(self, host: Host) -> None:
        (result, _) = host.activate(self.KEYED)
        assert yaml.safe_load(host.read("etc/sglang/sglang.yml"))["api-key"] == "a-secret-key"
        assert "a-secret-key" not in result.diff
        assert "+api-key: ********" in lines(result)
        assert self.mode(host) == ("daemon", "0o640")

    def test_a_file_that_all_may_read_is_not_left_so(self, host: Host) -> None:
        path = host.root / "etc/sglang/sglang.yml"
        path.write_text("log-level: info\n")
        path.chmod(0o644)
        host.activate(self.KEYED)
        assert self.mode(host) == ("daemon", "0o640")

    def test_an_operators_own_mode_stays(self, host: Host) -> None:
        path = host.root / "etc/sglang/sglang.yml"
        path.write_text("log-level: info\n")
        path.chmod(0o600)
        os.chown(path, 1, 1)
        host.activate(self.KEYED)
        assert self.mode(host) == (grp.getgrgid(1).gr_name, "0o600")
        assert path.stat().st_uid == 1

    def test_a_key_goes_when_there_is_none_any_more(self, host: Host) -> None:
        host.activate(self.KEYED)
        (result, _) = host.activate(SMALL)
        assert "api-key" not in host.read("etc/sglang/sglang.yml")
        assert "a-secret-key" not in result.diff

    def test_without_a_group_it_is_not_written_for_all_to_read(self, host: Host) -> None:
        spec = replace(self.KEYED, backend="vllm", unit="vllm.service")
        assert host.refused(spec) == (
            "etc/vllm/vllm.yml gets the engine's key, and there is no group 'vllm' that alone may "
            "read it; make the file yourself with the owner of the engine and mode 0600"
        )
        assert not (host.root / "etc/vllm/vllm.yml").exists()


def with_exllamav2(host: Host) -> EngineSpec:
    """A model with a setting of its own, of a TabbyAPI that reads it from config.yml."""
    path = f"{host.root}/models/EXL3"
    return replace(TABBY, model_path=path, settings={"cache_mode": "Q4"}, exllamav2=True)


class TestTabby:
    def test_a_switch_changes_one_line(self, host: Host) -> None:
        (result, _) = host.activate(TABBY)
        assert lines(result) == ["-  model_name:", "+  model_name: EXL3"]
        (result, _) = host.activate(replace(TABBY, model_name="A/exl3/4.0bpw"))
        assert lines(result) == ["-  model_name: EXL3", "+  model_name: A/exl3/4.0bpw"]
        assert not any(r.changed for r in host.activate(replace(TABBY, model_name="A/exl3/4.0bpw")))

    def test_the_folder_says_where_and_what(self, host: Host) -> None:
        path = f"{host.root}/models/EXL3"
        (result, *_) = host.activate(replace(TABBY, name="any", model_path=path, port=5001))
        assert lines(result) == [
            "-  port: 5000   # as the firewall has it",
            "+  port: 5001   # as the firewall has it",
            "-  model_dir: models",
            f"+  model_dir: {host.root}/models",
            "-  model_name:",
            "+  model_name: EXL3",
        ]
        assert host.refused(replace(TABBY, model_path=path, model_name="other")) == (
            f"model EXL3: model_path '{path}' does not end with its model_name; TabbyAPI calls a "
            "model by its folder: use `model_path: …/other`".replace(f"{host.root}/", "")
        )

    @pytest.mark.parametrize(
        ("line", "after"),
        [
            ("  host: 0.0.0.0", None),
            ("  host: localhost", None),
            ("  # no host", None),
            ("  host:", None),
            ("  host: 192.168.1.5", '  host: "127.0.0.1"'),
        ],
    )
    def test_it_must_be_reachable_and_is_otherwise_the_operators(
        self, host: Host, line: str, after: str | None
    ) -> None:
        host.tabby.write_text(CONFIG.replace("  host: 127.0.0.1", line))
        (result, _) = host.activate(replace(TABBY, model_name="x"))
        assert ([line[1:] for line in lines(result) if "host" in line and line[0] == "+"]) == (
            [after] if after else []
        )

    def test_settings_go_to_the_models_own_file(self, host: Host) -> None:
        spec = replace(
            TABBY,
            model_path=f"{host.root}/models/EXL3",
            settings={"max_seq_len": 8192, "draft_model": {"draft_model_name": "tiny"}},
        )
        host.activate(spec)
        place = "models/EXL3/tabby_config.yml"
        assert yaml.safe_load(host.read(place)) == {
            "model": {"max_seq_len": 8192},
            "draft_model": {"draft_model_name": "tiny"},
        }
        (host.root / place).write_text(host.read(place) + "other: 1 # mine\n")
        host.activate(replace(spec, settings={"cache_mode": "Q8"}))
        assert yaml.safe_load(host.read(place)) == {
            "model": {"cache_mode": "Q8"},
            "draft_model": {},
            "other": 1,
        }
        host.activate(replace(spec, settings={}))
        assert yaml.safe_load(host.read(place))["model"] == {}
        before = host.read(place)
        assert not any(r.changed for r in host.activate(replace(spec, settings={})))
        assert host.read(place) == before

    @pytest.mark.parametrize("unit", ["tabbyapi-exl2.service", "mine.service"])
    def test_settings_of_a_tabbyapi_with_exllamav2_are_keys_of_its_config(
        self, host: Host, unit: str
    ) -> None:
        """79126f9 puts config.yml above the model's own file."""
        folder = host.root / "models/EXL2"
        folder.mkdir()
        details = {"quantization_config": {"quant_method": "exl2"}}
        (folder / "config.json").write_text(json.dumps(details))
        spec = replace(
            TABBY,
            unit=unit,
            config_file=str(host.tabby),
            model_path=str(folder),
            settings={"max_seq_len": 8192, "cache_mode": "Q4", "draft_model": {"draft_mode": "x"}},
            exllamav2=has_exllamav2(unit, [None, str(folder)]),
        )
        host.activate(spec)
        made = yaml.safe_load(host.read("etc/tabbyapi/config.yml"))
        assert made["model"] == {
            "model_dir": f"{host.root}/models",
            "model_name": "EXL2",
            "max_seq_len": 8192,
            "cache_mode": "Q4",
        }
        assert made["draft_model"] == {"draft_model_name": None, "draft_mode": "x"}
        assert not (folder / "tabby_config.yml").exists()
        assert not any(result.changed for result in host.activate(spec))
        host.activate(replace(spec, settings={"cache_mode": "Q6"}))
        made = yaml.safe_load(host.read("etc/tabbyapi/config.yml"))
        assert (made["model"]["cache_mode"], made["model"]["max_seq_len"]) == ("Q6", None)
        # what the operator has there comes back
        host.activate(replace(spec, settings={}, model_path=None, model_name="models"))
        text = host.read("etc/tabbyapi/config.yml")
        assert "llm-router replaced" not in text
        assert "# ünïcode €" in text
        made = yaml.safe_load(text)
        assert (made["model"]["cache_mode"], made["model"]["max_seq_len"]) == ("Q8", None)
        assert made["draft_model"] == {"draft_model_name": None}

    def test_the_own_file_of_an_older_release_loses_our_keys(self, host: Host) -> None:
        spec = replace(TABBY, model_path=f"{host.root}/models/EXL3", settings={"max_seq_len": 8192})
        host.activate(spec)
        host.activate(replace(spec, exllamav2=True))
        assert yaml.safe_load(host.read("models/EXL3/tabby_config.yml")) == {"model": {}}
        assert yaml.safe_load(host.tabby.read_text())["model"]["max_seq_len"] == 8192
        host.activate(spec)  # a later version, under the same name
        assert yaml.safe_load(host.tabby.read_text())["model"]["max_seq_len"] is None

    @pytest.mark.parametrize("note", ["[" * 100_000, "NaN", "1e999", "-Infinity"])
    def test_a_note_of_what_was_replaced_may_be_anything(self, host: Host, note: str) -> None:
        spec = with_exllamav2(host)
        host.activate(spec)
        text = host.tabby.read_text()
        host.tabby.write_text(text.replace('cache_mode": "Q8"', f'cache_mode": {note}'))
        host.activate(replace(spec, settings={}))
        assert "cache_mode" not in yaml.safe_load(host.tabby.read_text())["model"]

    def test_a_note_that_is_nested_too_deep_is_an_error_of_the_file(self, host: Host) -> None:
        spec = with_exllamav2(host)
        host.activate(spec)
        deep = "[" * 5000 + "]" * 5000
        text = host.tabby.read_text()
        host.tabby.write_text(text.replace('cache_mode": "Q8"', f'cache_mode": {deep}'))
        assert "config.yml" in host.refused(replace(spec, settings={}))

    def test_a_note_of_what_was_replaced_may_be_edited_away(self, host: Host) -> None:
        spec = with_exllamav2(host)
        host.activate(spec)
        text = host.tabby.read_text()
        assert '# llm-router replaced: {"model.cache_mode": "Q8"}\n' in text
        host.tabby.write_text(text.replace('{"model.cache_mode": "Q8"}', "[nonsense"))
        host.activate(replace(spec, settings={}))
        assert "cache_mode" not in yaml.safe_load(host.tabby.read_text())["model"]

    def test_settings_cannot_name_another_model(self, host: Host) -> None:
        spec = replace(
            TABBY, model_path=f"{host.root}/models/EXL3", settings={"model_name": "other"}
        )
        assert "settings.model_name says model_name, which the router decides" in host.refused(spec)

    def test_a_model_without_settings_gets_no_file(self, host: Host) -> None:
        host.activate(replace(TABBY, model_path=f"{host.root}/models/EXL3"))
        assert not (host.root / "models/EXL3/tabby_config.yml").exists()

    def test_a_model_that_is_not_there_yet_is_not_made(self, host: Host) -> None:
        spec = replace(TABBY, model_path=f"{host.root}/models/Not", settings={"max_seq_len": 1})
        assert host.refused(spec) == "models/Not is not there, so tabby_config.yml cannot be in it"
        assert host.tabby.read_text() == CONFIG

    def test_a_missing_file_is_asked_for_where_it_decides(self, host: Host) -> None:
        host.tabby.unlink()
        assert host.refused(TABBY) == (
            "etc/tabbyapi/config.yml does not exist; name the config.yml that tabbyapi.service "
            "reads as `config_file:` of EXL3 in models.yml"
        )
        # an adopted unit that serves one model is as its owner made it
        assert not any(result.changed for result in host.activate(replace(TABBY, alone=True)))
        named = replace(TABBY, alone=True, config_file=str(host.root / "nowhere.yml"))
        assert host.refused(named).startswith("nowhere.yml does not exist")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "is empty"),
            ("network: [\n", "config.yml:"),
            (
                CONFIG[: CONFIG.index("About models") + 3],
                "config.yml:10: the last line has no end",
            ),
            (CONFIG[: CONFIG.index("_mode: 'Q8'")] + NL, "config.yml:21: is not valid YAML"),
            (
                CONFIG + "model:\n  a: 1\n",
                f"config.yml:{CONFIG.count(NL) + 1}: model is there twice",
            ),
            ("- model\n", "config.yml:1: is not a mapping"),
            (
                "a: &m {}\nmodel: *m\n",
                "config.yml:2: has something else than entries under `model:`",
            ),
            ("model: EXL3\n", "config.yml:1: has something else than keys and values under model"),
            (CONFIG.replace("model_name:", "model_name: &n x\n  other: *n"), "config.yml:16: wri"),
        ],
    )
    def test_a_file_that_cannot_be_edited_is_refused_and_untouched(
        self, host: Host, text: str, said: str
    ) -> None:
        host.tabby.write_text(text)
        status = host.tabby.stat()
        assert said in host.refused(TABBY)
        assert host.tabby.read_text() == text
        assert host.tabby.stat().st_mtime_ns == status.st_mtime_ns
        assert [path.name for path in host.tabby.parent.iterdir()] == ["config.yml"]


def test_half_a_file_is_refused_by_activation(host: Host) -> None:
    host.tabby.write_text(CONFIG[: len(CONFIG) // 2])
    assert re.match(r"etc/tabbyapi/config\.yml:\d+: ", host.refused(TABBY))


@pytest.mark.parametrize(
    ("unit", "file"),
    [
        ("tabbyapi.service", "tabbyapi/config.yml"),
        ("tabbyapi-exl2.service", "tabbyapi-exl2/config.yml"),
        ("tabbyapi@a.service", "tabbyapi/a.yml"),
    ],
)
def test_files_are_where_their_units_names_say(host: Host, unit: str, file: str) -> None:
    said = host.refused(replace(TABBY, unit=unit)) if file != "tabbyapi/config.yml" else file
    assert file in said


def test_llamacpp_takes_settings_too(host: Host) -> None:
    spec = EngineSpec(
        name="g",
        backend="llamacpp",
        unit="llamacpp@g.service",
        model_path="/g.gguf",
        args=("--ctx-size", "1"),
        settings={"ctx_size": 4096, "no-mmap": True, "embedding": False, "lora": ["/a", "/b"]},
    )
    host.activate(spec)
    assert "--metrics --ctx-size 4096 --no-mmap --lora /a --lora /b --ctx-size 1" in host.read(
        "llamacpp/g.env"
    )
    with pytest.raises(SpecError, match=r"settings\.a is a mapping"):
        host.activate(replace(spec, settings={"a": {}}))
