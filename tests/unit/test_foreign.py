"""Other routers' configurations: what comes out is valid, and what is left out is told."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from llm_router import foreign
from llm_router.cli import main
from llm_router.config.load import load_models
from llm_router.config.schema import Config, Model
from llm_router.discovery.commands import Launch
from llm_router.discovery.proposal import render
from llm_router.discovery.survey import Engine, Tabby
from llm_router.foreign import Units, Unreadable, read_foreign

LLAMA_SWAP = """\
healthCheckTimeout: 5
startPort: 9000
globalTTL: 300
sendLoadingState: false
logLevel: debug
apiKeys: [sk-hunter2]
macros:
  server: /opt/llama-server --port ${PORT}
  ctx: 4096
  defaults: "--ctx-size ${ctx} --jinja"
models:
  zephyr:
    cmd: |
      # one line of two
      ${server} ${defaults}
      -m '/m/zephyr 7b.gguf' --api-key s3cret
    macros: {ctx: 8192}
    env: [CUDA_VISIBLE_DEVICES=1, HF_TOKEN=hf_secret]
    name: Zephyr 7B
    description: For everyday questions
    aliases: [gpt-4, {id: gpt-4o}]
    ttl: 0
    concurrencyLimit: 4
    unlisted: true
    filters:
      stripParams: "temperature, model, top_p"
      setParams: {top_k: 40, stream: true}
      setParamsByID:
        "${MODEL_ID}": {seed: 1}
        "${MODEL_ID}:precise": {temperature: 0, top_k: "${ctx}"}
  awq:
    cmd: >-
      python -m vllm.entrypoints.openai.api_server --model /m/awq -tp 2 --port ${PORT}
      --served-model-name q
    useModelName: q
    ttl: -1
    sendLoadingState: true
  whisper:
    cmd: docker run --name ${MODEL_ID} -p ${PORT}:8000 whisper
    checkEndpoint: /ready
    cmdStop: docker stop ${MODEL_ID}
  far:
    cmd: ssh gpu2 llama-server
    proxy: http://192.168.1.2:8080
  broken:
    cmd: llama-server ${nowhere}
groups:
  side: {swap: false, exclusive: false, members: [whisper, awq]}
  all: {swap: false, members: [zephyr, far]}
hooks: {on_startup: {preload: [zephyr, broken, whisper]}}
peers: {other: {proxy: "http://x", models: [y]}}
"""


class Read:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(
        self, text: str, name: str = "config.yaml", units: Units = "systemd"
    ) -> tuple[dict[str, Model], str]:
        """The models, by way of the checker, and what was left out."""
        (self.directory / name).write_text(text)
        proposal = read_foreign(self.directory / name, units)
        path = self.directory / "models.yml"
        path.write_text(render(proposal))
        return load_models(path, Config.model_validate({"units": units})), "\n".join(proposal.notes)


@pytest.fixture
def read(tmp_path: Path) -> Read:
    return Read(tmp_path)


@pytest.fixture(autouse=True)
def no_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The units of the machine that runs the tests do not count."""
    monkeypatch.setattr(foreign, "engines", list)


def test_llama_swap_for_systemd(read: Read) -> None:
    models, _ = read(LLAMA_SWAP)
    assert set(models) == {"zephyr", "awq", "whisper"}
    zephyr = models["zephyr"]
    assert (zephyr.backend, zephyr.service) == ("llamacpp", "llamacpp@zephyr.service")
    assert zephyr.model_path == "/m/zephyr 7b.gguf"
    assert zephyr.args == ["--ctx-size", "8192", "--jinja"]
    assert zephyr.port == 9002  # counted in the order of names
    assert (zephyr.ttl, zephyr.timeout, zephyr.preload) == (None, 15, True)
    assert zephyr.aliases == ["gpt-4", "gpt-4o"]
    assert (zephyr.display_name, zephyr.description) == ("Zephyr 7B", "For everyday questions")
    assert zephyr.strip == ["temperature", "top_p"]
    assert zephyr.force == {"top_k": 40, "seed": 1}
    assert zephyr.variants["zephyr:precise"].force == {"temperature": 0, "top_k": 8192}
    assert (zephyr.status, models["awq"].status) == ("off", None)
    awq = models["awq"]
    assert (awq.service, awq.model_name, awq.model_path) == ("vllm@awq.service", "q", "/m/awq")
    assert awq.args == ["--tensor-parallel-size", "2"]
    assert awq.ttl == 300
    assert (models["whisper"].backend, models["whisper"].service) == ("command", "whisper.service")
    assert {awq.group, models["whisper"].group} == {"side-1", "side-2"}
    assert models["whisper"].preload


def test_what_llama_swap_has_and_we_have_not(read: Read) -> None:
    _, notes = read(LLAMA_SWAP)
    for told in (
        "models.zephyr.cmd: its key is left out",
        "models.zephyr.env: CUDA_VISIBLE_DEVICES=1",
        "models.zephyr.env: HF_TOKEN is a secret",
        "models.zephyr.concurrencyLimit:",
        "models.zephyr.unlisted:",
        "models.zephyr.filters.setParams.stream:",
        "models.whisper.cmd: whisper.service has to be made",
        "models.whisper.checkEndpoint:",
        "models.whisper.cmdStop:",
        "models.far: its proxy http://192.168.1.2:8080 is another machine",
        "models.broken: its macro ${nowhere} is nowhere defined",
        "groups.side:",
        "groups.all:",
        "hooks.on_startup.preload.broken:",
        "logLevel:",
        "apiKeys:",
        "peers:",
    ):
        assert told in notes, told
    assert "s3cret" not in notes
    assert "hf_secret" not in notes
    assert "sk-hunter2" not in notes


def test_llama_swap_as_child_processes(read: Read) -> None:
    models, notes = read(LLAMA_SWAP, units="child")
    assert models["zephyr"].command == [
        "/usr/bin/env", "CUDA_VISIBLE_DEVICES=1", "/opt/llama-server", "--port", "9002",
        "--ctx-size", "8192", "--jinja", "-m", "/m/zephyr 7b.gguf", "--alias", "zephyr",
    ]  # fmt: skip
    assert models["zephyr"].service is None
    assert models["awq"].upstream_name == "q"
    assert models["whisper"].command == [
        "docker",
        "run",
        "--name",
        "whisper",
        "-p",
        "9001:8000",
        "whisper",
    ]
    assert "HF_TOKEN is a secret" in notes


def test_macros_that_name_one_another_and_the_environment(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELS_HERE", "/m")
    monkeypatch.delenv("NOT_HERE", raising=False)
    models, notes = read(
        "macros: {a: '${b}', b: '${a}'}\nmodels:\n"
        "  x: {cmd: 'llama-server -m ${env.MODELS_HERE}/x.gguf', proxy: 'http://localhost:81'}\n"
        "  y: {cmd: 'llama-server ${a}'}\n  z: {cmd: 'llama-server -m ${env.NOT_HERE}'}\n"
        "  q: {cmd: 'llama-server \"'}\n  n: {}\n"
    )
    assert {name: (model.model_path, model.port) for name, model in models.items()} == {
        "x": ("/m/x.gguf", 81)
    }
    for told in ("models.y: its macros", "models.z: it takes ${env.NOT_HERE}", "models.q: its cmd",
                 "models.n: has no cmd"):  # fmt: skip
        assert told in notes


OLDER = """\
import os
os.abort()  # nothing of this is run
SGLANG: str = "sglang.service"
MODELS = {
    "mistral-large-2411-awq": {
        "backend": "sglang", "script": "/opt/llm/start_mistral.sh", "service": SGLANG,
    },
    "monstral-123b-exl2-4bpw": {
        "backend": "tabbyapi", "service": "tabbyapi", "model_name": "Monstral-123B-v2-exl2-4.0bpw",
        "vram": 90,
    },
    "computed": {"backend": "vllm", "service": os.environ["X"]},
    **os.environ,
    "odd": 1,
    "ollama": {"backend": "ollama"},
}
"""


def test_an_older_routers_python_file_is_read_and_never_run(read: Read) -> None:
    models, notes = read(OLDER, "router.py")
    assert {name: (m.backend, m.service, m.script) for name, m in models.items()} == {
        "mistral-large-2411-awq": ("sglang", "sglang.service", "/opt/llm/start_mistral.sh"),
        "monstral-123b-exl2-4bpw": ("tabby", "tabbyapi.service", None),
    }
    assert models["monstral-123b-exl2-4bpw"].model_name == "Monstral-123B-v2-exl2-4.0bpw"
    for told in ("monstral-123b-exl2-4bpw.vram:", "MODELS['computed'] in line 12", "MODELS[**…]",
                 "odd:", "ollama: its backend 'ollama'"):  # fmt: skip
        assert told in notes


START = """\
#!/bin/bash
cd "$(dirname "$0")"
MODEL=/home/me/models/Mistral-Large-2411-AWQ
exec python3 -m sglang.launch_server --model-path "$MODEL" \\
    --quantization awq --dtype half --port 30001 {more}
"""


def older(script: Path, **more: Any) -> str:
    """A router's file with one model."""
    entry = {"backend": "sglang", "script": str(script), "service": "sglang.service", **more}
    return f"MODELS = {{'mistral': {entry!r}}}\n"


def test_the_start_script_says_what_its_engine_calls_the_model(read: Read, tmp_path: Path) -> None:
    script = tmp_path / "start.sh"
    script.write_text(START.format(more=""))
    script.chmod(0o755)
    models, notes = read(older(script), "router.py")
    assert models["mistral"].model_name == "/home/me/models/Mistral-Large-2411-AWQ"
    assert (models["mistral"].port, notes) == (30001, "")
    text = (tmp_path / "models.yml").read_text()
    assert f"The model_name is that of {script}." in " ".join(text.replace("#", "").split())


def test_what_the_older_router_says_itself_counts(read: Read, tmp_path: Path) -> None:
    script = tmp_path / "start.sh"
    script.write_text(START.format(more="--served-model-name other"))
    models, _ = read(older(script, model_name="mine", port=9), "router.py")
    assert (models["mistral"].model_name, models["mistral"].port) == ("mine", 9)
    models, _ = read(older(script), "router.py")
    assert models["mistral"].model_name == "other"
    script.write_text(START.format(more="--served-model-name mistral"))
    models, _ = read(older(script), "router.py")
    assert models["mistral"].model_name is None


@pytest.mark.parametrize("text", [None, "#!/bin/sh\nexec sleep 1\n"])
def test_a_script_that_says_nothing_leaves_the_name_to_the_engine(
    read: Read, tmp_path: Path, text: str | None
) -> None:
    script = tmp_path / "start.sh"
    if text is not None:
        script.write_text(text)
    models, _ = read(older(script), "router.py")
    assert models["mistral"].model_name is None
    written = " ".join((tmp_path / "models.yml").read_text().replace("#", "").split())
    assert f"{script} cannot be read here, or starts no known engine" in written


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has other accounts")
def test_a_script_is_read_as_the_owner_of_the_file_that_names_it(read: Read) -> None:
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        directory.chmod(0o755)
        script = directory / "start.sh"
        script.write_text(START.format(more=""))
        script.chmod(0o700)  # root's alone
        (directory / "router.py").write_text(older(script))
        os.chown(directory / "router.py", 54321, 54321)
        (entry,) = read_foreign(directory / "router.py", "systemd").entries
        assert "model_name" not in entry.fields


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has other accounts")
def test_who_replaces_the_file_by_a_link_is_shown_no_more(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        directory.chmod(0o755)
        script, file = directory / "start.sh", directory / "router.py"
        script.write_text(START.format(more=""))
        script.chmod(0o700)  # root's alone
        file.write_text(older(script))
        os.chown(file, 54321, 54321)

        def replaced() -> list[Engine]:
            """In the moment in which the units are looked for."""
            file.unlink()
            file.symlink_to("/etc/passwd")
            return []

        monkeypatch.setattr(foreign, "engines", replaced)
        (entry,) = read_foreign(file, "systemd").entries
        assert "model_name" not in entry.fields


def test_the_units_of_this_host_say_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tabby = Tabby("/home/me/tabbyAPI/config.yml", "/m", "Monstral-123B-v2-exl2-4.0bpw")
    found = [
        Engine("tabbyapi.service", Launch("tabby", port=5001), "/u", "/u", tabby=tabby),
        Engine("vllm.service", Launch("vllm", model="/m/x", served_name="qwen"), "/u", "/u"),
    ]
    monkeypatch.setattr(foreign, "engines", lambda: found)
    (tmp_path / "router.json").write_text(json.dumps({
        "monstral": {"backend": "tabby", "script": None, "service": "tabbyapi.service",
                     "model_name": "Monstral-123B-v2-exl2-4.0bpw"},
        "x": {"backend": "vllm", "service": "vllm.service"},
        "y": {"backend": "sglang", "service": "vllm.service"},
    }))  # fmt: skip
    proposal = read_foreign(tmp_path / "router.json", "systemd")
    assert proposal.models == {
        "monstral": {
            "backend": "tabby",
            "model_name": "Monstral-123B-v2-exl2-4.0bpw",
            "service": "tabbyapi.service",
            "port": 5001,
            "config_file": "/home/me/tabbyAPI/config.yml",
        },
        "x": {"backend": "vllm", "service": "vllm.service", "model_name": "qwen"},
        "y": {"backend": "sglang", "service": "vllm.service"},
    }


@pytest.mark.parametrize(
    "document",
    [
        {"models": {"a": {"backend": "vllm", "unit": "vllm.service"}}, "port": 8002},
        {"MODELS": {"a": {"backend": "vllm", "service": "vllm"}}, "port": 8002},
        {"a": {"backend": "VLLM", "service": "vllm.service"}},
    ],
)
def test_an_older_routers_json(read: Read, document: Any) -> None:
    models, notes = read(json.dumps(document), "config.json")
    assert models["a"].service == "vllm.service"
    assert ("port: set" in notes) == ("port" in document)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("c.yaml", "models: [", "is not valid YAML in line 1"),
        ("c.yaml", "- a", "is not a mapping"),
        ("c.yaml", "a: 1", "is neither a llama-swap config.yaml"),
        ("c.py", "def", "is not Python in line 1"),
        ("c.py", "X = {}", "assigns no MODELS"),
        ("c.py", "MODELS = dict(a=1)", "no dict literal"),
        ("c.yaml", "\udcff", "is not UTF-8"),
    ],
)
def test_what_is_no_such_file(tmp_path: Path, name: str, text: str, why: str) -> None:
    (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(Unreadable, match=why.replace("(", "\\(")):
        read_foreign(tmp_path / name, "systemd")


def test_the_command_prints_a_models_yml_and_says_what_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("models: {a: {cmd: llama-server -m /m/a.gguf, cmdStop: x}}\n")
    assert main(["import", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "model_path: /m/a.gguf" in out
    assert (
        err
        == "not carried over: models.a.cmdStop: systemd stops the unit, or the router its child\n"
    )
    assert main(["import", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["valid"]
    assert said["models"]["a"]["service"] == "llamacpp@a.service"
    assert said["models_yml"] == out


def test_the_command_fails_where_the_checker_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"models": {"a": {"backend": "sglang"}}}')
    assert main(["import", str(path)]) == 1
    assert "to be put right first: models.yml:" in capsys.readouterr().err
    assert main(["import", str(path), "--json"]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["key"] == "models.a.service"
    assert main(["import", str(tmp_path / "missing.yaml")]) == 1
    assert "missing.yaml: cannot be read" in capsys.readouterr().err


def test_discover_prints_a_models_yml(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["discover", "--models-dir", str(tmp_path)]) == 0
    assert "schema: 1\nmodels:" in capsys.readouterr().out
    assert main(["discover", "--models-dir", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["valid"]
