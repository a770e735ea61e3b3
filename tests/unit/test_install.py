"""install.sh as far as its answers go; tests/install/run shows the rest on a host."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llm_router.config import load_settings

ROOT = Path(__file__).parents[2]
KEY = "a-key-of-16-and-more"
ANSWERS = "engines = llamacpp\nlisten = 0.0.0.0\nport = 8765\nkey = env:A_KEY\n"
NO_PYTHON = "install.sh: Ansible needs Python 3.10 or newer, and /none is not one"


UNITS = "/etc/systemd/system"
AS_ROOT = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]


def install(
    *arguments: str, key: str = KEY, stdin: int = subprocess.DEVNULL, units: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Without a Python that could run Ansible, it ends when the answers are written.

    ``units`` is a folder that stands where the machine's unit files are.
    """
    before = ["unshare", *AS_ROOT] if AS_ROOT else []
    if units:
        mount = f'mount --bind "$0" {UNITS} && exec "$@"'
        before = ["unshare", *AS_ROOT, "--mount", "sh", "-c", mount, str(units)]
    return subprocess.run(
        [*before, str(ROOT / "install.sh"), "--python", "/none", *arguments],
        stdin=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "A_KEY": key},
    )


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """An answer file, and a directory of models to go with it."""
    models = tmp_path / "models it's"
    for name in (
        "Gemma 3.gguf",
        "big/Q4-00001-of-00002.gguf",
        "big/Q4-00002-of-00002.gguf",
        "big/mmproj-x.gguf",
        "other/Gemma 3.gguf",
        ".partial/half.gguf",
        "awq/config.json",
    ):
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        (models / name).touch()
    file = tmp_path / "answers"
    file.write_text(f"# mine\n{ANSWERS}models-dir = {models}\n")
    return file


def test_answers_become_files_that_the_owner_keeps(answers: Path, tmp_path: Path) -> None:
    place = tmp_path / "etc"
    first = install("--directory", str(place), "--answers", str(answers))
    assert NO_PYTHON in first.stderr
    settings = yaml.safe_load((place / "group_vars/llm_servers.yml").read_text())
    assert settings == {
        "llm_router_models_file": "{{ inventory_dir }}/models.yml",
        "models_dir": f"{tmp_path}/models it's",
        "llm_router_host": "0.0.0.0",
        "llm_router_port": 8765,
        "llm_router_api_keys": [
            {
                "name": "install",
                "sha256": hashlib.sha256(KEY.encode()).hexdigest(),
                "scopes": ["use", "switch", "admin"],
            }
        ],
    }
    assert stat.S_IMODE((place / "group_vars/llm_servers.yml").stat().st_mode) == 0o600
    (host,) = yaml.safe_load((place / "inventory.yml").read_text())["llm_servers"]["hosts"].values()
    assert host["ansible_connection"] == "local"
    for each in place.rglob("*"):
        assert each.is_dir() or KEY not in each.read_text()
    (place / "models.yml").write_text("models: {}\n")
    second = install("--directory", str(place), "--answers", str(answers), "--port", "1")
    assert f"using the answers in {place}, with your changes to them" in second.stdout
    assert (place / "models.yml").read_text() == "models: {}\n"
    assert "llm_router_port: 8765" in (place / "group_vars/llm_servers.yml").read_text()


def test_the_models_that_are_there_make_the_first_models_yml(answers: Path, tmp_path: Path) -> None:
    install("--directory", str(tmp_path / "etc"), "--answers", str(answers))
    text = (tmp_path / "etc/models.yml").read_text()
    models = yaml.safe_load(text)["models"]
    where = f"{tmp_path}/models it's"
    assert {name: entry["model_path"] for name, entry in models.items()} == {
        "Gemma-3": f"{where}/Gemma 3.gguf",
        "Q4": f"{where}/big/Q4-00001-of-00002.gguf",
        "Gemma-3-3": f"{where}/other/Gemma 3.gguf",
    }
    assert {entry["service"] for entry in models.values()} == {
        f"llamacpp@{name}.service" for name in models
    }
    assert f"# there is also {where}/awq\n" in text
    (tmp_path / "config.yml").write_text(f"models_file: {tmp_path}/etc/models.yml\n")
    assert len(load_settings(tmp_path / "config.yml").models) == len(models)


@pytest.fixture
def owners(tmp_path: Path) -> Path:
    """Units of somebody who has SGLang with a start script for each model, and TabbyAPI."""
    home, units = tmp_path / "home", tmp_path / "units"
    for folder in (home / "sglang", home / "tabbyAPI", units):
        folder.mkdir(parents=True)
    for name in ("mistral", "qwen"):
        script = home / f"sglang/start_{name}.sh"
        script.write_text(
            f"#!/bin/sh\nexec python3 -m sglang.launch_server --model-path {home}/m/{name}-awq\n"
        )
        script.chmod(0o755)
    tabby = "network:\n  port: 5000\nmodel:\n  model_dir: models\n  model_name: Big-exl2\n"
    (home / "tabbyAPI/config.yml").write_text(tabby)
    model(home / "tabbyAPI/models/Big-exl2", "exl2")
    (home / "tabbyAPI/backends/exllamav2").mkdir(parents=True)
    (units / "sglang.service").write_text(f"[Service]\nExecStart={home}/sglang/start_mistral.sh\n")
    (units / "tabbyapi.service").write_text(
        f"[Service]\nWorkingDirectory={home}/tabbyAPI\nExecStart=/usr/bin/python3 main.py\n"
    )
    (units / "sglang@.service").write_text(
        "# Written by the role roundhouse.llm.sglang. Changes of your own: `systemctl edit`.\n"
        "[Service]\nExecStart=/opt/sglang/bin/python -m sglang.launch_server\n"
    )
    return units


def model(folder: Path, kind: str) -> None:
    """A folder with a quantized model."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {"model_type": "mistral", "quantization_config": {"quant_method": kind, "bits": 4}}
    (folder / "config.json").write_text(json.dumps(said))
    (folder / "model.safetensors").write_bytes(bytes(4096))


def test_units_of_engines_are_adopted_where_nobody_can_be_asked(
    owners: Path, tmp_path: Path
) -> None:
    answered = ["--models-dir", "/none/m", "--listen", "::1", "--port", "8002", "--key", "none"]
    done = install("--directory", str(tmp_path / "etc"), *answered, units=owners)
    assert NO_PYTHON in done.stderr
    script = f"{tmp_path}/home/sglang/start_mistral.sh"
    assert f"    sglang.service (unknown) starts sglang by {script}, and serves " in done.stdout
    assert "    tabbyapi.service (unknown) starts tabby, and serves Big-exl2\n" in done.stdout
    assert "the router is put in front of them (--adopt no ignores them)" in done.stdout
    settings = yaml.safe_load((tmp_path / "etc/group_vars/llm_servers.yml").read_text())
    assert settings["llm_router_adopt"] is True
    models = yaml.safe_load((tmp_path / "etc/models.yml").read_text())["models"]
    assert {name: (entry["service"], entry["model_name"]) for name, entry in models.items()} == {
        "mistral-awq": ("sglang.service", f"{tmp_path}/home/m/mistral-awq"),
        "qwen-awq": ("sglang.service", f"{tmp_path}/home/m/qwen-awq"),
        "Big-exl2": ("tabbyapi.service", "Big-exl2"),
    }


def test_units_of_engines_are_ignored_where_that_is_the_answer(
    owners: Path, answers: Path, tmp_path: Path
) -> None:
    done = install(
        *("--directory", str(tmp_path / "etc"), "--answers", str(answers), "--adopt", "no"),
        units=owners,
    )
    assert "this machine has units of engines:" in done.stdout
    settings = yaml.safe_load((tmp_path / "etc/group_vars/llm_servers.yml").read_text())
    assert "llm_router_adopt" not in settings
    models = yaml.safe_load((tmp_path / "etc/models.yml").read_text())["models"]
    assert {entry["backend"] for entry in models.values()} == {"llamacpp"}


def test_a_person_is_asked_again_after_a_wrong_answer(tmp_path: Path) -> None:
    person, terminal = os.openpty()
    typed = ["vlm", "vllm", "models", str(tmp_path), "0.0.0.0", "99999", "9000", "none", "generate"]
    os.write(person, "".join(f"{line}\n" for line in typed).encode())
    done = install("--directory", str(tmp_path / "etc"), stdin=terminal)
    os.close(terminal)
    os.close(person)
    for wrong in (
        "engines: 'vlm' is not an engine",
        "models-dir: 'models' is not an absolute path",
        "port: '99999' is not a port number (1-65535)",
        "key: 0.0.0.0 can be reached from other machines",
    ):
        assert wrong in done.stderr
    # llama.cpp is not to be installed, so nothing is asked of it
    assert "A llama.cpp build" not in done.stderr
    settings = yaml.safe_load((tmp_path / "etc/group_vars/llm_servers.yml").read_text())
    assert (settings["llm_router_host"], settings["llm_router_port"]) == ("0.0.0.0", 9000)


def test_a_person_is_asked_whether_to_adopt(owners: Path, tmp_path: Path) -> None:
    person, terminal = os.openpty()
    typed = ["yes", "", str(tmp_path), "", "9000", "none", ""]
    os.write(person, "".join(f"{line}\n" for line in typed).encode())
    done = install("--directory", str(tmp_path / "etc"), stdin=terminal, units=owners)
    os.close(terminal)
    os.close(person)
    assert "put the router in front of them (yes, no) [yes]: " in done.stderr
    assert "Engines to install beside them" in done.stderr
    settings = yaml.safe_load((tmp_path / "etc/group_vars/llm_servers.yml").read_text())
    assert (settings["llm_router_adopt"], settings["llm_router_port"]) == (True, 9000)


def test_folders_of_models_become_entries_of_the_engines_that_serve_them(
    answers: Path, tmp_path: Path
) -> None:
    where = tmp_path / "models it's"
    model(where / "Mistral-AWQ", "awq")
    model(where / "deep/Mistral-AWQ", "gptq")
    model(where / "Big-exl2", "exl2")
    model(where / "Big-exl3", "exl3")
    install(
        *("--directory", str(tmp_path / "etc"), "--answers", str(answers)),
        *("--engines", "tabbyapi,vllm,sglang"),
    )
    text = (tmp_path / "etc/models.yml").read_text()
    models = yaml.safe_load(text)["models"]
    assert models == {
        "Big-exl2": {
            "backend": "tabby",
            "service": "tabbyapi-exl2.service",
            "port": 5001,
            "model_path": f"{where}/Big-exl2",
        },
        "Big-exl3": {
            "backend": "tabby",
            "service": "tabbyapi.service",
            "model_path": f"{where}/Big-exl3",
        },
        "Mistral-AWQ": {
            "backend": "vllm",
            "service": "vllm@Mistral-AWQ.service",
            "model_path": f"{where}/Mistral-AWQ",
        },
        "Mistral-AWQ-4": {
            "backend": "tabby",
            "service": "tabbyapi-exl2.service",
            "port": 5001,
            "model_path": f"{where}/deep/Mistral-AWQ",
        },
    }
    assert "there is also" in text  # the folder whose config.json is empty
    (tmp_path / "config.yml").write_text(f"models_file: {tmp_path}/etc/models.yml\n")
    assert len(load_settings(tmp_path / "config.yml").models) == len(models)


def test_a_models_yml_that_is_given_is_taken_as_it_is(tmp_path: Path) -> None:
    given = tmp_path / "mine.yml"
    given.write_text("models: {}  # none yet\n")
    answered = ["--models-dir", "/m", "--listen", "::1", "--port", "08002", "--key", "none"]
    install("--directory", str(tmp_path / "etc"), "--models-file", str(given), *answered)
    assert (tmp_path / "etc/models.yml").read_text() == given.read_text()
    settings = yaml.safe_load((tmp_path / "etc/group_vars/llm_servers.yml").read_text())
    assert (settings["llm_router_host"], settings["llm_router_port"]) == ("::1", 8002)


def test_nothing_is_written_by_check(answers: Path, tmp_path: Path) -> None:
    said = install("--check", "--directory", str(tmp_path / "etc"), "--answers", str(answers))
    assert f"would write {tmp_path}/etc/models.yml:" in said.stdout
    assert "    llm_router_port: 8765" in said.stdout
    assert not (tmp_path / "etc").exists()


def test_a_generated_key_is_shown_once(answers: Path, tmp_path: Path) -> None:
    asked = ["--directory", str(tmp_path / "etc"), "--answers", str(answers), "--key", "generate"]
    shown = install(*asked).stdout.split("shown this once: ")[1].split()[0]
    assert len(shown) == 64
    written = (tmp_path / "etc/group_vars/llm_servers.yml").read_text()
    assert hashlib.sha256(shown.encode()).hexdigest() in written
    assert "shown this once" not in install(*asked).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engines", "vlm"], "engines: 'vlm' is not an engine; choose from llamacpp"),
        (["--models-dir", "models"], "models-dir: 'models' is not an absolute path"),
        (["--import", "/none"], "import: /none cannot be read"),
        (
            ["--import", "/etc/passwd", "--models-file", "/etc/passwd"],
            "import: models-file is given",
        ),
        (["--adopt", "maybe"], "adopt: 'maybe' is neither yes nor no"),
        (["--port", "99999"], "port: '99999' is not a port number (1-65535)"),
        (
            ["--key", "none"],
            "key: 0.0.0.0 can be reached from other machines, so a key is required",
        ),
        (["--key", "secret"], "key: is not generate, file:PATH, env:VARIABLE or none"),
        (["--key", "env:NO_SUCH"], "key: there is no variable NO_SUCH"),
        (["--models-file", "/none"], "models-file: /none cannot be read"),
        (["--prot", "1"], "'prot' is not a question or an option; see --help"),
        (["--port"], "--port needs a value; see --help"),
        (["serve"], "serve is not an option; see --help"),
    ],
)
def test_a_wrong_answer_is_refused(
    arguments: list[str], said: str, answers: Path, tmp_path: Path
) -> None:
    place = tmp_path / "etc"
    done = install("--directory", str(place), "--answers", str(answers), *arguments)
    assert done.returncode == 1
    assert f"install.sh: {said}" in done.stderr
    assert not place.exists()


def test_a_short_key_is_refused(answers: Path, tmp_path: Path) -> None:
    place = tmp_path / "etc"
    done = install("--directory", str(place), "--answers", str(answers), key="short")
    assert done.stderr == "install.sh: key: has fewer than 16 characters; use a longer one\n"
    assert not place.exists()


def test_a_line_that_is_no_answer_is_named(answers: Path) -> None:
    answers.write_text("port = 1\nlisten\n")
    assert (
        f"{answers}:2: is not an answer; write it like `port = 8002`"
        in install("--answers", str(answers)).stderr
    )


def test_nobody_is_asked_where_nobody_is(tmp_path: Path) -> None:
    done = install("--directory", str(tmp_path / "etc"), "--port", "1")
    assert done.returncode == 1
    assert done.stderr == (
        "install.sh: there is no terminal to ask on; give engines models-dir listen key as options "
        "or with --answers FILE (see --help)\n"
    )


def test_a_person_is_asked_what_is_not_answered_yet(tmp_path: Path) -> None:
    person, terminal = os.openpty()
    typed = ["", str(tmp_path), "", "9000", "none", "/opt/llama.tar.gz", "sha256:00"]
    os.write(person, "".join(f"{line}\n" for line in typed).encode())
    done = install("--directory", str(tmp_path / "etc"), stdin=terminal)
    os.close(terminal)
    os.close(person)
    assert "Where are the models [/srv/models]: " in done.stderr
    settings = yaml.safe_load((tmp_path / "etc/group_vars/llm_servers.yml").read_text())
    assert settings == {
        "llm_router_models_file": "{{ inventory_dir }}/models.yml",
        "models_dir": str(tmp_path),
        "llm_router_host": "127.0.0.1",
        "llm_router_port": 9000,
        "llamacpp_source": "archive",
        "llamacpp_archive": "/opt/llama.tar.gz",
        "llamacpp_checksum": "sha256:00",
    }


def test_no_module_of_the_working_directory_is_run(tmp_path: Path) -> None:
    """It belongs to another user mostly: the one whose configuration is imported."""
    theirs, marker = tmp_path / "theirs", tmp_path / "run"
    theirs.mkdir()
    for name in ("argparse", "ensurepip", "json", "pathlib", "runpy", "venv"):
        code = f"with open({str(marker)!r}, 'a') as file: file.write('{name} ')\n"
        (theirs / f"{name}.py").write_text(f"{code}raise SystemExit(1)\n")
    mapping = {"a": {"backend": "llamacpp", "service": "a.service", "model_path": "/a.gguf"}}
    (theirs / "config.json").write_text(json.dumps(mapping))
    # a Python whose environments have the packages of the tests, as nothing is fetched here
    inner, python = tmp_path / "inner", tmp_path / "python"
    inner.write_text(
        f'#!/bin/sh\ncase "$*" in *"-m pip "*) exit 0; esac\nexec {sys.executable} "$@"\n'
    )
    python.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *realpath*) echo {python}; exit; esac\n'
        f'case "$*" in *"-m venv "*) {sys.executable} "$@" --without-pip || exit\n'
        'eval "place=\\${$#}"; rm "$place/bin/python"\n'
        f'cp {inner} "$place/bin/python"; exit; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    for file in (inner, python):
        file.chmod(0o755)
    answered = ["--models-dir", "/m", "--listen", "::1", "--port", "8765", "--key", "none"]
    answered += ["--adopt", "no", "--import", "config.json", "--directory", str(tmp_path / "etc")]
    before = ["unshare", *AS_ROOT] if AS_ROOT else []
    done = subprocess.run(
        [*before, str(ROOT / "install.sh"), "--check", "--python", str(python), *answered],
        cwd=theirs,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not marker.exists(), marker.read_text()
    assert "service: a.service" in done.stdout, done.stderr
