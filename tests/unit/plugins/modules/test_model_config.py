"""model_config on real files: what it says, writes, keeps and refuses."""

from __future__ import annotations

import dataclasses
import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.roundhouse.llm.plugins.module_utils import yaml_edit
from ansible_collections.roundhouse.llm.plugins.module_utils.engine_environment import HostGpu
from ansible_collections.roundhouse.llm.plugins.module_utils.engine_files import desired_files
from ansible_collections.roundhouse.llm.plugins.modules import model_config

SAMPLE = Path(__file__).parents[3] / "data/tabby_config.yml"

MODELS = """\
# The models of this host.
schema: 1
models:
  big:
    backend: sglang   # with AWQ
    service: sglang.service
    model_path: /srv/models/Big
    settings:
      dtype: half  # as AWQ wants it

  exl3:
    backend: tabby
    service: tabbyapi.service
    model_name: EXL3
"""

SMALL = {"backend": "sglang", "service": "sglang.service", "model_path": "/srv/models/Small"}


class Host:
    """The files of a host, and the module on it."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self._capsys = root, capsys
        for name in ("llm-router", "tabbyapi", "systemd"):
            (root / name).mkdir()
        self.models = root / "llm-router/models.yml"
        self.models.write_text(MODELS)
        self.config = root / "llm-router/config.yml"
        self.config.write_text(f"engine_files: {{etc: {root}, llamacpp: {root}/llamacpp}}\n")
        self.tabby = root / "tabbyapi/config.yml"
        self.tabby.write_text(SAMPLE.read_text())

    def run(self, name: str, *, check: bool = False, **options: Any) -> dict[str, Any]:
        arguments = {
            "name": name,
            "config": str(self.config),
            "unit_directory": str(self.root / "systemd"),
            "_ansible_check_mode": check,
            "_ansible_diff": True,
            **options,
        }
        with patch_module_args(arguments), pytest.raises(SystemExit):
            model_config.main()
        result: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return result

    def changed(self, result: dict[str, Any]) -> list[str]:
        assert not result.get("failed"), result["msg"]
        return [Path(file["path"]).name for file in result["files"] if file["changed"]]

    def refused(self, name: str, **options: Any) -> str:
        before = self.everything()
        result = self.run(name, **options)
        assert result["failed"]
        assert self.everything() == before
        return str(result["msg"]).replace(f"{self.root}/", "")

    def everything(self) -> dict[str, bytes]:
        return {
            str(path): path.read_bytes() for path in sorted(self.root.rglob("*")) if path.is_file()
        }

    def read(self, path: str) -> Any:
        return yaml.safe_load((self.root / path).read_text())


@pytest.fixture
def host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Host:
    return Host(tmp_path, capsys)


def diff_of(result: dict[str, Any]) -> list[str]:
    """What the diffs take away and add."""
    text = "".join(part["prepared"] for part in result["diff"])
    lines = [line for line in text.splitlines() if line[0] in "+-"]
    return [line for line in lines if not line.startswith(("+++ ", "--- "))]


def test_active_is_one_line_of_tabbyapis_file(host: Host) -> None:
    foretold = host.run("exl3", state="active", check=True)
    assert host.tabby.read_text() == SAMPLE.read_text()
    result = host.run("exl3", state="active")
    assert diff_of(result) == diff_of(foretold) == ["-  model_name:", "+  model_name: EXL3"]
    assert host.changed(result) == ["config.yml"]
    assert result["entry"]["model_name"] == "EXL3"
    assert host.changed(host.run("exl3", state="active")) == []


def test_an_entry_is_added_and_its_shared_unit_is_left_to_switches(host: Host) -> None:
    result = host.run("small", entry=SMALL)
    assert host.changed(result) == ["models.yml"]
    assert host.models.read_text() == MODELS + (
        "\n  small:\n    backend: sglang\n    service: sglang.service\n"
        "    model_path: /srv/models/Small\n"
    )
    assert not (host.root / "sglang").exists()
    assert host.run("small", entry=SMALL)["changed"] is False
    assert host.run("small")["changed"] is False
    assert host.changed(host.run("small", state="active")) == ["sglang.yml"]
    assert host.read("sglang/sglang.yml")["served-model-name"] == "small"
    assert host.changed(host.run("big", state="active")) == ["sglang.yml"]
    assert host.read("sglang/sglang.yml")["dtype"] == "half"
    assert host.changed(host.run("small")) == []


def test_a_model_alone_on_its_unit_is_written_at_once(host: Host) -> None:
    assert host.changed(host.run("big")) == ["sglang.yml"]
    entry = {"settings": {"context-length": 8192, "dtype": None}, "timeout": 300}
    result = host.run("big", entry=entry)
    assert host.changed(result) == ["sglang.yml", "models.yml"]
    assert result["entry"]["settings"] == {"context-length": 8192}
    assert host.read("sglang/sglang.yml")["context-length"] == 8192
    assert "dtype" not in host.read("sglang/sglang.yml")
    assert "    backend: sglang   # with AWQ\n" in host.models.read_text()


def test_a_script_and_its_drop_in(host: Host) -> None:
    entry = {"backend": "vllm", "service": "vllm.service", "script": "/opt/start.sh"}
    assert host.changed(host.run("v", entry=entry)) == ["50-llm-router.conf", "models.yml"]
    drop_in = host.root / "systemd/vllm.service.d/50-llm-router.conf"
    assert "ExecStart=/opt/start.sh" in drop_in.read_text()
    assert host.changed(host.run("v", state="absent")) == ["50-llm-router.conf", "models.yml"]
    assert not drop_in.exists()
    assert host.models.read_text() == MODELS


def test_absent_takes_what_it_made_and_nothing_else(host: Host) -> None:
    gguf = {"backend": "llamacpp", "service": "llamacpp@g.service", "model_path": "/g.gguf"}
    host.run("g", entry=gguf)
    env = host.root / "llamacpp/g.env"
    assert "--model /g.gguf" in env.read_text()
    assert host.changed(host.run("g", state="absent", check=True)) == ["g.env", "models.yml"]
    assert env.exists()
    assert host.changed(host.run("g", state="absent")) == ["g.env", "models.yml"]
    assert not env.exists()
    assert host.run("g", state="absent")["changed"] is False
    host.run("g", entry=gguf)
    env.write_text(env.read_text() + "MINE=1\n")
    assert host.changed(host.run("g", state="absent")) == ["models.yml"]
    host.run("exl3", state="active")
    assert host.changed(host.run("exl3", state="absent")) == ["models.yml"]
    assert "model_name: EXL3" in host.tabby.read_text()


def test_without_a_list_of_models(host: Host) -> None:
    entry = {"backend": "tabby", "service": "x.service", "config_file": str(host.tabby)}
    result = host.run("One", state="active", in_models_file=False, entry=entry)
    assert diff_of(result) == ["-  model_name:", "+  model_name: One"]
    assert host.models.read_text() == MODELS
    said = host.refused("One", state="active", in_models_file=False)
    assert said == "there is no entry One to go by; give it as `entry`"


def test_a_list_of_models_that_is_not_there_yet_is_made(host: Host) -> None:
    host.models.unlink()
    assert "models.yml" in host.changed(host.run("small", entry=SMALL))
    assert yaml.safe_load(host.models.read_text()) == {"models": {"small": SMALL}}
    assert stat.S_IMODE(host.models.stat().st_mode) == 0o640


def test_a_copy_is_kept_of_what_changes(host: Host) -> None:
    result = host.run("exl3", state="active", backup=True)
    (copy,) = [file["backup_file"] for file in result["files"] if file["changed"]]
    assert Path(copy).read_text() == SAMPLE.read_text()
    assert not [
        f for f in host.run("exl3", state="active", backup=True)["files"] if "backup_file" in f
    ]


def test_owner_and_mode_stay(host: Host) -> None:
    host.tabby.chmod(0o604)
    host.run("exl3", state="active")
    assert stat.S_IMODE(host.tabby.stat().st_mode) == 0o604


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda host: host.tabby.write_text("model: [\n"), "tabbyapi/config.yml:2: is not valid"),
        (lambda host: host.tabby.unlink(), "tabbyapi/config.yml does not exist; name the config"),
        (lambda host: host.models.write_text("models: {"), "llm-router/models.yml:1: is not valid"),
        (lambda host: host.models.write_text("models: [a]"), "models is not a mapping of names"),
        (lambda host: host.config.write_text("a: 1\na: 2\n"), "config.yml:2: a is there twice"),
        (lambda host: host.tabby.write_bytes(b"a: \xff"), "config.yml:1: is not UTF-8"),
    ],
)
def test_a_broken_file_is_named_and_nothing_is_written(
    host: Host, break_it: Callable[[Host], None], said: str
) -> None:
    break_it(host)
    assert said in host.refused("exl3", state="active", entry={"model_name": "Other"})


@pytest.mark.parametrize("percent", range(3, 100, 4))
def test_a_part_of_a_file_is_refused_and_untouched(host: Host, percent: int) -> None:
    text = SAMPLE.read_text()
    cut = len(text) * percent // 100
    while text[cut - 1] == "\n":  # which is where a file may well end
        cut -= 1
    host.tabby.write_text(text[:cut])
    assert host.refused("exl3", state="active").startswith("tabbyapi/config.yml:")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"backend": "x"}, "backend is not one of sglang, vllm, tabby, llamacpp, command"),
        ({"settings": {"port": 1}}, "settings.port says port, which the router decides"),
        ({"args": ["-tp", "2"]}, "args has '-tp', which cannot be a key of the engine's YAML"),
    ],
)
def test_a_wrong_entry_is_refused(host: Host, entry: dict[str, Any], said: str) -> None:
    assert said in host.refused("big", entry=entry)


def test_the_installed_router_has_its_say(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    router = Path(__file__).parents[4] / "roles/llm_router/files"
    python = host.root / "python"
    # what the role installs is called with -I; here the sources stand in for its environment
    python.write_text(f'#!/bin/sh\nshift\nPYTHONPATH="{router}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(model_config, "ROUTER_PYTHON", str(python))
    assert host.refused("big", entry={"timout": 3}).startswith(
        "llm-router/models.yml:10: models.big.timout: is not a known key; did you mean `timeout`?"
    )
    assert host.changed(host.run("big", entry={"timeout": 3})) == ["sglang.yml", "models.yml"]


def test_a_python_without_the_library_says_what_to_install(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml_edit, "HAS_RUAMEL", False)
    monkeypatch.setattr(model_config, "probe_interpreters_for_module", lambda *_: None)
    assert host.refused("exl3") == (
        "the Python library ruamel.yaml is missing; install the package python3-ruamel.yaml"
    )


def test_a_python_that_has_the_library_takes_over(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml_edit, "HAS_RUAMEL", False)
    asked: list[Any] = []

    def probe(*arguments: Any) -> str:
        asked.append(arguments)
        return "/usr/bin/python3"

    monkeypatch.setattr(model_config, "probe_interpreters_for_module", probe)

    def respawn(python: str) -> None:
        asked.append(python)
        raise SystemExit

    monkeypatch.setattr(model_config, "respawn_module", respawn)
    with patch_module_args({"name": "exl3"}), pytest.raises(SystemExit):
        model_config.main()
    pythons = ["/usr/bin/python3", "/opt/llm-router/current/venv/bin/python"]
    assert asked == [(pythons, "ruamel.yaml"), "/usr/bin/python3"]


def test_keys_are_masked(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    key = host.root / "key"
    key.write_text("very-secret\n")
    # a group that is there on every machine
    monkeypatch.setattr(
        model_config,
        "desired_files",
        lambda *arguments: [
            dataclasses.replace(edit, reader=edit.reader and "root")
            for edit in desired_files(*arguments)
        ],
    )
    result = host.run("big", state="active", entry={"api_key_file": str(key)})
    assert "very-secret" not in json.dumps(result)
    assert "+api-key: ********" in diff_of(result)
    assert host.read("sglang/sglang.yml")["api-key"] == "very-secret"


def test_no_value_of_a_variable_is_shown(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    result: dict[str, Any] = {}
    logged: list[Any] = []
    monkeypatch.setattr(
        AnsibleModule, "log", lambda _self, *words, **more: logged.append((words, more))
    )
    for value in ("very-secret", "x\u2028very-secret", "x\x85very-secret", "other-secret"):
        entry = {"environment": {"DB": value, "PLAIN": "text-of-it"}}
        result = host.run("big", state="active", entry=entry, _ansible_inject_invocation=True)
        assert {"50-llm-router.env", "models.yml"} <= set(host.changed(result))
        assert result["invocation"]["module_args"]["name"] == "big"
        shown = json.dumps(result)
        assert value not in shown
        assert "very-secret" not in shown
        assert "text-of-it" not in shown
        assert result["entry"]["environment"] == {"DB": "********", "PLAIN": "********"}
    assert "only values that are not shown changed" in json.dumps(result["diff"])
    wrong = {"environment": {"DB": "very-secret", "LD_PRELOAD": "/very-secret.so"}}
    result = host.run("big", state="active", entry=wrong, _ansible_inject_invocation=True)
    assert result["failed"]
    assert "very-secret" not in json.dumps(result)
    assert "-secret" not in repr(
        logged
    )  # by systemd-journald, for the groups adm and systemd-journal
    written = host.root / "systemd/sglang.service.d/50-llm-router.env"
    assert 'DB="other-secret"\n' in written.read_text()
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    host.run("big", state="active", entry={"environment": None})
    assert not written.exists()


def test_a_groups_gpus_are_its_models(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [HostGpu("nvidia", 0, "GPU-x", "0000:17:00.0"), HostGpu("nvidia", 1, "", "0000:65:00.0")]
    monkeypatch.setattr(model_config, "read_host_gpus", lambda: gpus)
    host.config.write_text(host.config.read_text() + "groups: {default: {gpus: [1]}}\n")
    written = host.root / "systemd/sglang.service.d/50-llm-router.env"
    host.run("big", state="active")
    assert 'CUDA_VISIBLE_DEVICES="1"\n' in written.read_text()
    host.run("big", state="active", entry={"gpus": [0]})
    assert 'CUDA_VISIBLE_DEVICES="0"\n' in written.read_text()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"environment": {"LD_PRELOAD": "/x"}}, "environment.LD_PRELOAD could make a program"),
        ({"environment": {"A": "b\nc"}}, "environment.A has the control character"),
        ({"gpus": [0]}, "gpus cannot be used: GPU 0 is not on this host; no driver shows any GPU"),
    ],
)
def test_what_the_router_would_refuse_is_refused_without_one(
    host: Host, monkeypatch: pytest.MonkeyPatch, entry: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(model_config, "read_host_gpus", list)
    assert said in host.refused("big", state="active", entry=entry)
