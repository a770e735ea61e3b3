"""A host, laid out in a directory: what is found, what is proposed, and that it is valid."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm_router.config.load import load_models
from llm_router.config.schema import Config, Model
from llm_router.discovery.answer import answer_of
from llm_router.discovery.contradictions import contradictions
from llm_router.discovery.keys import KeysDiffer, KeyUser, adopted_keys, key_of
from llm_router.discovery.proposal import propose, render, short_name
from llm_router.discovery.survey import MAX_TEXT, Engine, Survey, survey


class Host:
    def __init__(self, root: Path) -> None:
        self.root = root

    def file(self, path: str, text: str, mode: int = 0o644) -> None:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def unit(self, name: str, exec_start: str, more: str = "") -> None:
        text = f"[Unit]\nDescription=x\n[Service]\n{more}ExecStart={exec_start}\n"
        self.file(f"/etc/systemd/system/{name}", text)

    def script(self, path: str, command: str) -> None:
        self.file(path, f"#!/bin/bash\nexec {command}\n", 0o755)

    def model(self, path: str, method: str = "", **more: object) -> None:
        quantization = {"quantization_config": {"quant_method": method, **more}} if method else {}
        self.file(f"{path}/config.json", json.dumps({"model_type": "llama", **quantization}))
        self.file(f"{path}/model.safetensors", "weights")

    def survey(self, *dirs: str) -> Survey:
        return survey(dirs, root=str(self.root), ask=False)

    def models(self, found: Survey | None = None) -> dict[str, Model]:
        """What is proposed, by way of the checker."""
        found = found or self.survey()
        path = self.root / "models.yml"
        path.write_text(render(propose(found), unread=found.unread))
        return load_models(path, Config.model_validate({}))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def sglang(name: str) -> str:
    return f"python3 -m sglang.launch_server --model-path /m/{name} --served-model-name {name}"


def engine(found: Survey, unit: str) -> Engine:
    return next(engine for engine in found.engines if engine.unit == unit)


def running(found: Survey, unit: str, **state: Any) -> Survey:
    engines = tuple(
        replace(e, state="active", **state) if e.unit == unit else e for e in found.engines
    )
    return replace(found, engines=engines)


def test_a_shared_unit_with_a_script_for_each_model(host: Host) -> None:
    host.unit("sglang.service", "/opt/llm/start_a.sh")
    for name in ("a", "b"):
        host.script(f"/opt/llm/start_{name}.sh", sglang(name))
    host.script("/opt/llm/backup.sh", "tar c /")
    host.file("/opt/llm/start_c.sh", f"#!/bin/bash\n{sglang('c')}\n")  # not executable
    models = host.models()
    assert {name: (model.script, model.service) for name, model in models.items()} == {
        "a": ("/opt/llm/start_a.sh", "sglang.service"),
        "b": ("/opt/llm/start_b.sh", "sglang.service"),
    }
    assert {model.upstream_name for model in models.values()} == {"a", "b"}


def test_units_that_serve_one_model_as_they_are(host: Host) -> None:
    host.unit(
        "vllm.service", "/v/bin/vllm serve $M --config /etc/vllm.yaml", "EnvironmentFile=/etc/e\n"
    )
    host.file("/etc/e", "M=/srv/models/Qwen2.5-72B-AWQ\n")
    host.file("/etc/vllm.yaml", "port: 8123\nserved-model-name: qwen\n")
    host.unit(
        "llama.service", "/usr/bin/llama-server -m /g/x.Q4_K_M.gguf --alias gemma --port 8081"
    )
    host.unit("cut.service", "/usr/bin/llama-server -m x.gguf")
    host.unit("web.service", "/srv/web/main.py --port 80")
    models = host.models()
    assert set(models) == {"qwen", "gemma"}
    assert (models["qwen"].backend, models["qwen"].port) == ("vllm", 8123)
    assert models["gemma"].model_path == "/g/x.Q4_K_M.gguf"
    assert any("cut.service" in note for note in propose(host.survey()).notes)


def test_tabbyapi_by_its_config_and_its_folders(host: Host) -> None:
    host.unit(
        "tabbyapi.service",
        "/opt/tabbyAPI/venv/bin/python main.py",
        "WorkingDirectory=/opt/tabbyAPI\n",
    )
    host.file(
        "/opt/tabbyAPI/config.yml",
        "network:\n  port: 5005\nmodel:\n  model_dir: models\n  model_name: three\n",
    )
    host.file("/opt/tabbyAPI/backends/exllamav3/model.py", "")
    host.model("/opt/tabbyAPI/models/three", "exl3", bits=3.0)
    host.model("/opt/tabbyAPI/models/deep/four", "exl3", bits=4.0)
    host.model("/opt/tabbyAPI/models/two", "exl2", bits=2.0)
    host.model("/opt/tabbyAPI/models/awq", "awq", bits=4)
    found = host.survey()
    models = host.models(found)
    assert {name: model.model_name for name, model in models.items()} == {
        "three": "three", "four": "deep/four",
    }  # fmt: skip
    assert models["three"].port == 5005
    assert models["three"].config_file == "/opt/tabbyAPI/config.yml"
    notes = "\n".join(propose(found).notes)
    assert "two (EXL2, 2 bit" in notes
    assert "no ExLlamaV2" in notes
    assert "awq (AWQ, 4 bit" in notes
    text = render(propose(found))
    assert "/etc/tabbyapi/api_key" in text  # its default is to want one

    host.file("/opt/tabbyAPI/backends/exllamav2/model.py", "")
    assert "two" in host.models()


def test_a_template_of_ours_and_its_instances(host: Host) -> None:
    more = "EnvironmentFile=/etc/llamacpp/%i.env\n"
    host.unit("llamacpp@.service", "/bin/llama-server $LLAMACPP_ARGS", more)
    host.file(
        "/etc/llamacpp/g.env", "LLAMACPP_ARGS=\"--model '/m/g 1.gguf' --alias g --port 8080\"\n"
    )
    wants = host.root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir()
    (wants / "llamacpp@g.service").symlink_to("/etc/systemd/system/llamacpp@.service")
    models = host.models()
    assert models["g"].service == "llamacpp@g.service"
    assert models["g"].model_path == "/m/g 1.gguf"


def test_a_drop_in_of_ours_is_what_counts_and_a_later_one_is_in_the_way(host: Host) -> None:
    host.unit("sglang.service", "/opt/llm/a.sh")
    for name in ("a", "b"):
        host.script(f"/opt/llm/{name}.sh", sglang(name))
    drop_ins = "/etc/systemd/system/sglang.service.d"
    host.file(f"{drop_ins}/50-llm-router.conf", "[Service]\nExecStart=\nExecStart=/opt/llm/b.sh\n")
    found = host.survey()
    assert engine(found, "sglang.service").launch.model == "/m/b"
    assert contradictions(propose(found).models, found) == []
    host.file(f"{drop_ins}/override.conf", "[Service]\nExecStart=\nExecStart=/opt/llm/a.sh\n")
    found = host.survey()
    (said,) = contradictions(propose(found).models, found)
    assert f"{drop_ins}/override.conf sets ExecStart" in said
    assert any("override.conf" in note for note in propose(found).notes)


def test_aliases_masked_units_and_precedence(host: Host) -> None:
    host.file("/usr/lib/systemd/system/vllm.service", "[Service]\nExecStart=vllm serve /m/old\n")
    host.unit("vllm.service", "vllm serve /m/new")
    system = host.root / "etc/systemd/system"
    (system / "llm.service").symlink_to("vllm.service")
    (system / "sglang.service").symlink_to("/dev/null")
    assert [e.launch.model for e in host.survey().engines] == ["/m/new"]


def test_what_runs_is_known_by_what_it_says(host: Host) -> None:
    host.unit("vllm.service", "vllm serve /srv/models/Foo --served-model-name foo")
    found = running(host.survey(), "vllm.service", serves="/srv/models/Foo", ports=(8300,))
    (model,) = host.models(found).values()
    assert (model.name, model.model_name, model.port) == ("Foo", "/srv/models/Foo", 8300)


def test_what_a_given_models_yml_would_lose(host: Host) -> None:
    host.unit("sglang.service", "/opt/llm/a.sh")
    host.script("/opt/llm/a.sh", sglang("a"))
    found = running(host.survey(), "sglang.service", serves="a", ports=(31000,))
    entry = {"backend": "sglang", "service": "sglang.service"}
    assert contradictions({"a": {**entry, "port": 31000}}, found) == []
    assert contradictions({"x": {**entry, "port": 31000, "model_name": "a"}}, found) == []
    (named,) = contradictions({"x": {**entry, "model_name": "y"}}, found)
    assert "`model_name: a`" in named
    # what runs in the unit of one nameless model is that model, whatever it calls itself
    assert contradictions({"x": {**entry, "port": 31000}}, found) == []
    (either,) = contradictions({"x": entry, "y": entry}, found)
    assert "`model_name: a` for the one that is, " in either
    script, other = {"script": "/opt/llm/a.sh"}, {"script": "/opt/llm/b.sh"}
    (by_script,) = contradictions({"x": {**entry, **other}, "y": {**entry, **script}}, found)
    assert "`model_name: a` for y, whose script it runs, " in by_script
    (port,) = contradictions({"a": entry}, found)
    assert "`port: 31000`" in port
    (backend,) = contradictions({"a": {**entry, "backend": "vllm"}}, found)
    assert "`backend: sglang`" in backend
    assert contradictions({"b": {"backend": "vllm", "service": "vllm.service"}}, found) == []


def test_engines_with_gpus_of_their_own_get_groups(host: Host) -> None:
    host.unit(
        "sglang.service", "sglang serve --model-path /m/a", "Environment=CUDA_VISIBLE_DEVICES=0,1\n"
    )
    host.unit("vllm.service", "vllm serve /m/b", "Environment=CUDA_VISIBLE_DEVICES=2\n")
    models = host.models()
    assert {model.group for model in models.values()} == {"gpu0-1", "gpu2"}
    host.unit("vllm.service", "vllm serve /m/b", "Environment=CUDA_VISIBLE_DEVICES=1\n")
    found = running(running(host.survey(), "vllm.service"), "sglang.service")
    assert {model.group for model in host.models(found).values()} == {"default"}
    assert any("side by side" in note for note in propose(found).notes)


def test_the_survey_is_bounded_and_says_what_it_could_not_read(host: Host) -> None:
    host.unit("sglang.service", "/opt/llm/a.sh")
    host.script("/opt/llm/a.sh", sglang("a"))
    os.mkfifo(host.root / "opt/llm/pipe.sh")
    (host.root / "opt/llm/pipe.sh").chmod(0o755)
    host.file("/srv/models/broken/config.json", "{")
    host.file("/srv/models/broken/model.safetensors", "w")
    host.model("/srv/models/1/2/3/4/seen")
    host.model("/srv/models/1/2/3/4/5/too/deep")
    (host.root / "srv/models/round").symlink_to("/srv/models")
    host.unit("vllm.service", "vllm serve " + "x" * MAX_TEXT)
    found = host.survey("/srv/models", "/nowhere")
    unread = dict(found.unread)
    assert unread["/srv/models/broken/config.json"] == "is not JSON"
    assert unread["/etc/systemd/system/vllm.service"] == f"larger than {MAX_TEXT} bytes"
    assert unread["/nowhere"] == "is not a directory"
    assert not [model for model in found.models if "deep" in model.path]


def test_keys_are_where_the_engines_have_them(host: Host) -> None:
    def key(unit: str) -> str:
        place = str(host.root)
        return key_of(engine(host.survey(), unit), lambda path: (Path(place + path)).read_text())

    host.unit("vllm.service", "vllm serve /m/a", "Environment=VLLM_API_KEY=from-env\n")
    host.unit("sglang.service", "/opt/llm/a.sh")
    host.script("/opt/llm/a.sh", f"{sglang('a')} --api-key from-script")
    host.unit("tabbyapi.service", "/usr/bin/python3 /opt/tabbyAPI/main.py")
    host.file("/opt/tabbyAPI/config.yml", "network:\n  disable_auth: False\n")
    host.file("/opt/tabbyAPI/api_tokens.yml", "admin_key: theirs\napi_key: from-tokens\n", 0o600)
    assert key("vllm.service") == "from-env"
    assert key("sglang.service") == "from-script"
    assert key("tabbyapi.service") == "from-tokens"
    host.file("/opt/tabbyAPI/api_tokens.yml", "admin_key: theirs\napi_key: [a, b]\n")
    assert key("tabbyapi.service") == "theirs"
    host.file("/opt/tabbyAPI/config.yml", "network:\n  disable_auth: True\n")
    assert key("tabbyapi.service") == ""
    host.script("/opt/llm/b.sh", f"{sglang('b')} --api-key another")
    with pytest.raises(KeysDiffer):
        key("sglang.service")
    assert "from-" not in json.dumps(answer_of(host.survey())) + repr(host.survey())


def two_tabbies(host: Host) -> dict[str, str]:
    """A checkout for EXL2 and one for EXL3, each with keys of its own; what is a key."""
    keys: dict[str, str] = {}
    for flavor in ("exl2", "exl3"):
        place = f"/opt/tabbyAPI-{flavor}"
        host.unit(f"tabby-{flavor}.service", f"/usr/bin/python3 {place}/main.py")
        host.file(f"{place}/config.yml", f"model:\n  model_dir: {place}/models\n")
        keys |= {f"{flavor}-user": "api_key", f"{flavor}-admin": "admin_key"}
        tokens = f"admin_key: {flavor}-admin\napi_key: {flavor}-user\n"
        host.file(f"{place}/api_tokens.yml", tokens, 0o600)
    return keys


def entries(unload: bool = False, **own: str) -> dict[str, dict[str, Any]]:
    return {
        flavor: {
            "backend": "tabby",
            "service": f"tabby-{flavor}.service",
            "config_file": f"/opt/tabbyAPI-{flavor}/config.yml",
            **({"residency": "unload"} if unload else {}),
            **({"api_key_file": own[flavor]} if flavor in own else {}),
        }
        for flavor in ("exl2", "exl3")
    }


def test_keys_that_differ_are_found_before_anything_is_changed(host: Host) -> None:
    secret = two_tabbies(host)
    asked = []

    def key(engine: Engine, admin: bool) -> str:
        asked.append(admin)
        place = str(host.root)
        return key_of(engine, lambda path: Path(place + path).read_text(), admin)

    def said(models: dict[str, dict[str, Any]]) -> list[str]:
        answer = answer_of(host.survey(), models, key)
        assert not any(each in json.dumps(answer) for each in secret)
        return [str(each) for each in answer["contradictions"]]

    assert said(entries()) == [
        "tabby-exl3.service has another key than tabby-exl2.service, and the router looks for both "
        "in /etc/tabbyapi/api_key; give the models of one of them an `api_key_file:` of their own"
    ]
    assert said(entries(exl2="/etc/tabby-exl2/api_key")) == []
    assert not any(asked)
    assert len(said(entries(unload=True))) == 1
    assert asked[-2:] == [True, True]


def test_units_with_keys_of_their_own_are_proposed_files_of_their_own(host: Host) -> None:
    two_tabbies(host)
    for flavor in ("exl2", "exl3"):
        host.model(f"/opt/tabbyAPI-{flavor}/models/{flavor}-m", method="exl3")
    found = host.survey()
    models = propose(found).models
    named = {entry["service"]: entry.get("api_key_file") for entry in models.values()}
    assert sorted(named.values(), key=str) == ["/etc/tabby-exl3/api_key", None]
    text = answer_of(found, models, lambda engine, admin: engine.unit)
    assert text["contradictions"] == []


def test_the_key_that_unloads_is_the_admins(host: Host) -> None:
    two_tabbies(host)
    for unload, kind in ((False, "user"), (True, "admin")):
        users = [
            KeyUser("tabby-exl2.service", "/k"),
            KeyUser("tabby-exl2.service", "/k", unload),
            KeyUser("tabby-exl3.service", "/l"),
        ]
        keys, problems = adopted_keys(
            users,
            host.survey().engines,
            lambda engine, admin: key_of(
                engine, lambda path: Path(f"{host.root}{path}").read_text(), admin
            ),
        )
        assert keys == {"/k": f"exl2-{kind}", "/l": "exl3-user"}
        assert problems == []


def test_the_answer_can_be_json_and_names_no_key(host: Host) -> None:
    host.unit("vllm.service", "vllm serve /m/a --api-key s3cret")
    said = json.dumps(answer_of(host.survey()))
    assert "s3cret" not in said
    assert "/etc/vllm/api_key" in said


@pytest.mark.parametrize(
    ("engines_name", "ours"),
    [
        ("/srv/models/Qwen2.5-72B-AWQ", "Qwen2.5-72B-AWQ"),
        ("/m/x.Q4_K_M.gguf", "x.Q4_K_M"),
        ("org/model", "model"),
        ("plain-7b", "plain-7b"),
        ("/m/with space!", "with-space-"),
        ("/", "model"),
    ],
)
def test_names_for_clients(engines_name: str, ours: str) -> None:
    assert short_name(engines_name) == ours
