"""How TabbyAPI goes astray when it starts, and what the role's start.py makes of that.

The checkout is the stand-in's; each test shows the trap first, without start.py.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.hosts import tabbyapi_repository

from .conftest import ROOT, free_port, wait_until

pytestmark = pytest.mark.contracts

START = ROOT / "roles/tabbyapi/files/start.py"
KEY = "0123456789abcdef0123456789abcdef"


class Tabby:
    """A checkout, its config and its working directory."""

    def __init__(self, directory: Path) -> None:
        self.checkout = directory / "checkout"
        self.config = directory / "etc/config.yml"
        self.cwd = directory / "lib"
        self.models = directory / "models"
        self.port = free_port(and_next=1)
        self.environment: dict[str, str] = {}
        for made in (self.checkout, self.config.parent, self.cwd / "logs"):
            made.mkdir(parents=True)
        self.flavor("exl3")
        self.tokens()
        self.model("good", "exl3")
        self.write()
        self.processes: list[subprocess.Popen[str]] = []

    def flavor(self, name: str) -> None:
        tabbyapi_repository.write_tree(self.checkout, name)

    def tokens(self) -> None:
        (self.cwd / "api_tokens.yml").write_text(f"api_key: {KEY}\nadmin_key: {KEY}\n")

    def model(self, name: str, quant_method: str, **own: Any) -> None:
        folder = self.models / name
        folder.mkdir(parents=True)
        details = {"quantization_config": {"quant_method": quant_method}}
        (folder / "config.json").write_text(json.dumps(details))
        if own:
            (folder / "tabby_config.yml").write_text(yaml.safe_dump({"model": own}))

    def write(self, **changes: dict[str, Any] | None) -> None:
        """The config, with some of its sections changed."""
        sections: dict[str, Any] = {
            "network": {"port": self.port},
            "model": {"model_dir": str(self.models), "model_name": "good"},
            "developer": {"unsafe_launch": True},
        }
        for name, settings in changes.items():
            sections[name] = {**sections.get(name, {}), **(settings or {})}
        self.config.write_text(yaml.safe_dump(sections))

    def run(self, *, guarded: bool) -> subprocess.Popen[str]:
        """As the unit runs it, or as it is."""
        program = [START, self.checkout] if guarded else [self.checkout / "main.py", "--config"]
        process = subprocess.Popen(
            [sys.executable, *map(str, program), str(self.config)],
            cwd=self.cwd,
            env=os.environ | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def get(
        self, path: str, port: int = 0, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        headers = headers or {"authorization": f"Bearer {KEY}"}
        url = f"http://127.0.0.1:{port or self.port}{path}"
        return httpx.get(url, headers=headers, timeout=10)

    def serves(self, *, guarded: bool, port: int = 0) -> subprocess.Popen[str]:
        """Started, and it answers."""
        process = self.run(guarded=guarded)

        def listens() -> bool:
            assert process.poll() is None, process.communicate()[0]
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port or self.port)) == 0

        wait_until(listens, "it listens")
        return process

    def refusal(self) -> str:
        """What start.py says instead of running it: one line."""
        process = self.run(guarded=True)
        output = process.communicate(timeout=20)[0]
        assert process.returncode == 1, output
        assert output.startswith("TabbyAPI was not started: "), output
        assert output.count("\n") == 1, output
        return output

    def end(self, process: subprocess.Popen[str]) -> str:
        """Ended by SIGTERM; all that it said."""
        process.terminate()
        output = process.communicate(timeout=20)[0]
        assert process.returncode == 0, output
        return output


@pytest.fixture
def tabby(tmp_path: Path) -> Iterator[Tabby]:
    made = Tabby(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()


def test_a_right_config_is_served_by_the_models_own_settings(tabby: Tabby) -> None:
    tabby.model("maker/exl3/4.0bpw", "exl3", max_seq_len=1234)
    tabby.write(model={"model_name": "maker/exl3/4.0bpw"})
    process = tabby.serves(guarded=True)
    answer = tabby.get("/v1/model").json()
    assert answer["id"] == "4.0bpw"  # of a path, only the last part
    assert answer["parameters"]["max_seq_len"] == 1234
    tabby.end(process)


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({"authorization": f"Bearer {KEY}"}, "/v1/model", 200),
        ({"x-api-key": KEY}, "/v1/model", 200),
        ({"x-admin-key": KEY}, "/v1/model", 401),
        ({"authorization": "Bearer other"}, "/v1/model", 401),
        ({"x-none": ""}, "/v1/model", 401),
        ({"x-none": ""}, "/health", 200),
    ],
)
def test_who_may_ask(tabby: Tabby, headers: dict[str, str], path: str, status: int) -> None:
    tabby.serves(guarded=True)
    assert tabby.get(path, headers=headers).status_code == status


def test_a_config_that_is_no_yaml(tabby: Tabby) -> None:
    """It starts all the same, with defaults: no model, and port 5000 were this one not given."""
    text = tabby.config.read_text() + "model: [\n"
    tabby.config.write_text(text)
    tabby.environment = {
        "TABBY_NETWORK_PORT": str(tabby.port),
        "TABBY_DEVELOPER_UNSAFE_LAUNCH": "1",
    }
    process = tabby.serves(guarded=False)
    assert tabby.get("/v1/model").status_code == 503
    assert "couldn't load" in " ".join(tabby.end(process).split())  # its lines are broken
    tabby.environment = {}
    assert f"{tabby.config}:9: is no YAML" in tabby.refusal()
    assert tabby.config.read_text() == text


@pytest.mark.parametrize("text", ["", "- a\n", "network: 5000\n"])
def test_a_config_without_sections(tabby: Tabby, text: str) -> None:
    tabby.config.write_text(text)
    assert "section" in tabby.refusal()


def test_a_config_that_is_not_there(tabby: Tabby) -> None:
    tabby.config.unlink()
    assert "cannot be read: No such file" in tabby.refusal()


@pytest.mark.parametrize(
    ("section", "settings", "said"),
    [
        ("model", {"draft": {"draft_model_name": "small"}}, "model.draft"),
        ("model", {"lora": {"lora_dir": "loras"}}, "model.lora"),
        ("logging", {"prompt": True}, "call it log_prompt"),
    ],
)
def test_keys_of_older_versions(
    tabby: Tabby, section: str, settings: dict[str, Any], said: str
) -> None:
    """The file is replaced by one without its comments and other keys."""
    tabby.write(**{section: settings})
    text = "# mine\n" + tabby.config.read_text()
    tabby.config.write_text(text)
    assert said in tabby.refusal()
    assert tabby.config.read_text() == text
    tabby.serves(guarded=False)
    assert "# mine" not in tabby.config.read_text()
    assert Path(f"{tabby.config}.bak").read_text() == text


def test_a_port_that_is_in_use(tabby: Tabby) -> None:
    """It takes the next one, so whoever asks the old port gets the old server's answers."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", tabby.port))
        other.listen()
        process = tabby.serves(guarded=False, port=tabby.port + 1)
        assert tabby.get("/v1/model", tabby.port + 1).status_code == 200
        tabby.end(process)
        assert f"port {tabby.port} is in use" in tabby.refusal()


def test_a_port_that_is_none(tabby: Tabby) -> None:
    tabby.write(network={"port": "http"})
    assert "network.port is 'http'" in tabby.refusal()


def test_a_config_in_the_working_directory(tabby: Tabby) -> None:
    """It is read too, and says what a blank key of the right one leaves open."""
    tabby.model("other", "exl3")
    tabby.write(model={"model_name": None})
    (tabby.cwd / "config.yml").write_text("model: {model_name: other}\n")
    process = tabby.serves(guarded=False)
    assert tabby.get("/v1/model").json()["id"] == "other"
    tabby.end(process)
    assert f"{tabby.cwd}/config.yml is read as well" in tabby.refusal()


def test_a_setting_in_the_environment(tabby: Tabby) -> None:
    tabby.model("other", "exl3")
    tabby.write(model={"model_name": None})
    tabby.environment = {"TABBY_MODEL_MODEL_NAME": "other"}
    process = tabby.serves(guarded=False)
    assert tabby.get("/v1/model").json()["id"] == "other"
    tabby.end(process)
    assert "the environment has TABBY_MODEL_MODEL_NAME" in tabby.refusal()


def test_the_keys_in_the_log(tabby: Tabby) -> None:
    """Both are written at each start, to the journal and to a file in logs/."""
    logged = tabby.end(tabby.serves(guarded=False))
    assert logged.count(KEY) == 2
    shutil.rmtree(tabby.cwd / "logs")
    (tabby.cwd / "logs").mkdir()
    logged = tabby.end(tabby.serves(guarded=True))
    files = [file.read_text() for file in (tabby.cwd / "logs").iterdir()]
    assert files
    for text in (logged, *files):
        assert "Your admin key is: (in api_tokens.yml)" in text
        assert KEY not in text


def test_keys_that_are_not_there(tabby: Tabby) -> None:
    """It makes some that nobody knows."""
    tokens = tabby.cwd / "api_tokens.yml"
    tokens.unlink()
    process = tabby.serves(guarded=False)
    assert tabby.get("/v1/model").status_code == 401
    tabby.end(process)
    tokens.unlink()
    assert f"{tokens} cannot be read" in tabby.refusal()
    tokens.write_text("api_key: a\n")
    assert "admin_key is missing" in tabby.refusal()


@pytest.mark.parametrize(("flavor", "code"), [("exl3", 1), ("exl2", 0)])
def test_an_exl2_model_needs_the_flavor_that_has_exllamav2(
    tabby: Tabby, flavor: str, code: int
) -> None:
    tabby.flavor(flavor)
    tabby.model("old", "exl2")
    tabby.write(model={"model_name": "old"})
    if code == 0:
        tabby.end(tabby.serves(guarded=True))
        return
    process = tabby.run(guarded=True)
    output = process.communicate(timeout=20)[0]
    assert process.returncode == code
    assert "require the exllamav2 backend" in output


def test_an_engine_stays_with_the_release_that_it_was_started_from(tabby: Tabby) -> None:
    release = tabby.checkout.parent / "release"
    (release / "bin").mkdir(parents=True)
    python = release / "bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    tabby.checkout.rename(release / "app")
    current = release.with_name("current")
    current.symlink_to("release")
    tabby.checkout = current / "app"
    process = tabby.serves(guarded=True)
    command = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
    assert command[1:4] == [str(START), str(release / "app"), str(tabby.config)]
    tabby.end(process)


def test_without_the_libraries_of_a_gpu_it_ends(tabby: Tabby) -> None:
    tabby.write(developer={"unsafe_launch": False})
    process = tabby.run(guarded=True)
    assert "Inference dependencies" in process.communicate(timeout=20)[0]
    assert process.returncode == 1
