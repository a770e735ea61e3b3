"""``llm-router models``: what is written is valid, whole, and nothing else than what was asked."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import get_args

import pytest

from llm_router.cli import main
from llm_router.cli.models import FIELDS
from llm_router.cli.parser import BACKENDS, STYLES, build, parse
from llm_router.config import StatusStyle
from llm_router.config.schema import Backend, ModelEntry

ROUTER = Path(__file__).parents[2] / "roles/llm_router/files"
MODELS = """\
# mine
models:
  a:                 # the first
    backend: sglang
    service: sglang.service
"""


class Host:
    """A configuration directory, and the command line on it."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.config, self.models = directory / "config.yml", directory / "models.yml"
        self.config.write_text(f"admin_socket: {directory}/no.sock\n")
        self.models.write_text(MODELS)
        self._capsys = capsys

    def run(self, *arguments: str) -> tuple[int, str, str]:
        status = main([*arguments, "--config", str(self.config)])
        said = self._capsys.readouterr()
        place = f"{self.config.parent}/"
        return status, said.out.replace(place, ""), said.err.replace(place, "")

    def add(self, *arguments: str) -> tuple[int, str, str]:
        return self.run("models", "add", "b", "--backend", "vllm", *arguments)


@pytest.fixture
def host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Host:
    return Host(tmp_path, capsys)


def test_every_key_of_an_entry_can_be_given() -> None:
    given = [
        *("models", "add", "x", "--backend", "command", "--service", "u.service"),
        *("--script", "/s", "--model-path", "/m", "--model-name", "n", "--command", "a 'b c'"),
        *("--arg", "--ctx-size", "--arg", "4096", "--arg=-x", "--port", "1", "--timeout", "2"),
        *("--repo", "o/n", "--revision", "r", "--file", "a.gguf", "--file", "b*"),
        *("--status", "off", "--group", "g", "--ttl", "3.5", "--preload", "--no-warm-up"),
    ]
    options = parse(given)
    by_hand = {"repairs", "aliases", "variants", "defaults", "force", "strip"}
    by_hand |= {"context_length", "upstream_paths", "settings", "config_file", "api_key_file"}
    by_hand |= {"residency", "display_name", "description", "tags", "gpus"}
    by_hand |= {"environment"}  # whose values no list of processes may show
    assert set(FIELDS) == set(ModelEntry.model_fields) - by_hand
    fields = {name: getattr(options, name) for name in FIELDS}
    assert fields["args"] == ["--ctx-size", "4096", "-x"]
    assert fields["command"] == ["a", "b c"]
    assert None not in fields.values()
    ModelEntry.model_validate(fields)


def test_the_parser_knows_what_the_schema_knows() -> None:
    """The two are apart because the schema takes longer to import than a person waits."""
    assert get_args(Backend) == BACKENDS
    assert get_args(StatusStyle) == STYLES


def test_a_model_is_added_and_removed(host: Host) -> None:
    assert host.add("--service", "vllm@b.service", "--arg", "--max-len", "--timeout", "90") == (
        0,
        "added b to models.yml\n",
        "",
    )
    assert host.models.read_text() == MODELS + (
        "  b:\n    backend: vllm\n    service: vllm@b.service\n"
        '    args: ["--max-len"]\n    timeout: 90\n'
    )
    assert host.run("check")[0] == 0
    assert host.run("models", "remove", "b")[:2] == (0, "removed b from models.yml\n")
    assert host.models.read_text() == MODELS
    assert host.run("models", "remove", "a")[0] == 0
    assert host.models.read_text() == "# mine\nmodels: {}\n"
    assert host.run("models", "list", "--names") == (0, "", "")


def test_a_dry_run_shows_the_difference_and_changes_nothing(host: Host) -> None:
    status, out, _ = host.run("models", "remove", "a", "--dry-run")
    assert status == 0
    assert [line for line in out.splitlines() if line[:1] in "+-"][2:] == [
        "-models:",
        "-  a:                 # the first",
        "-    backend: sglang",
        "-    service: sglang.service",
        "+models: {}",
    ]
    assert host.models.read_text() == MODELS


def test_what_the_checker_refuses_is_not_written(host: Host) -> None:
    assert host.add("--service", "nothing") == (
        1,
        "",
        "models.yml:8: models.b.service: 'nothing' has not the right form; name a systemd unit, "
        "for example `sglang.service` or `llamacpp@NAME.service`\n",
    )
    status, out, _ = host.add("--json")
    assert status == 1
    error = json.loads(out)["error"]
    assert error["code"] == "config_invalid"
    assert [(item["line"], item["key"]) for item in error["problems"]] == [(6, "models.b.service")]
    assert error["problems"][0]["file"].endswith("models.yml")
    assert host.models.read_text() == MODELS


def test_a_broken_file_is_left_alone_until_it_is_mended(host: Host) -> None:
    host.models.write_text(broken := MODELS + "  b:\n    backend: vllm\n    service: [")
    for call in (host.add(), host.run("models", "remove", "a"), host.run("models", "list")):
        assert call[0] == 1
        assert "models.yml:8: is not valid YAML" in call[2]
    assert host.models.read_text() == broken
    host.models.write_text(half := MODELS[: MODELS.index("glang.service")])
    assert host.add("--service", "vllm.service")[0] == 1
    assert host.models.read_text() == half
    # an entry that is wrong can be taken out by its name
    host.models.write_text(MODELS + "  b:\n    backend: vlm\n")
    assert host.run("models", "remove", "b")[0] == 0
    assert host.models.read_text() == MODELS


def test_names_that_are_there_and_names_that_are_not(host: Host) -> None:
    assert host.run("models", "add", "a", "--backend", "vllm") == (
        1,
        "",
        "a is in models.yml already\n",
    )
    assert host.run("models", "remove", "c") == (1, "", "c is not in models.yml; its models: a\n")
    host.models.write_text("models:\n  <<: {a: {backend: vllm}}\n")
    assert "a merge or an alias); edit it by hand\n" in host.run("models", "remove", "a")[2]
    host.models.unlink()
    assert "does not exist; create it" in host.add()[2]


def test_owner_mode_line_ends_and_links_stay(host: Host, tmp_path: Path) -> None:
    kept = tmp_path / "elsewhere"
    kept.mkdir()
    target = kept / "shared.yml"
    target.write_bytes(MODELS.replace("\n", "\r\n").encode())
    target.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(target, 12345, 54321)
    before = target.stat()
    host.models.unlink()
    host.models.symlink_to(target)
    assert host.add("--service", "vllm@b.service")[:2] == (0, "added b to models.yml\n")
    after = target.stat()
    assert host.models.is_symlink()
    assert stat.S_IMODE(after.st_mode) == 0o640
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino, "replaced, not written into"
    assert target.read_bytes().count(b"\r\n") == target.read_bytes().count(b"\n") == 8
    assert [path.name for path in kept.iterdir()] == ["shared.yml"]


def test_edits_wait_for_each_other(host: Host) -> None:
    """Many at once, and none is lost."""
    environment = {**os.environ, "PYTHONPATH": str(ROUTER)}
    command = [sys.executable, "-m", "llm_router", "models", "add", "--backend", "vllm"]
    command += ["--config", str(host.config)]
    running = [
        subprocess.Popen([*command, "--service", f"vllm@{n}.service", f"m{n}"], env=environment)
        for n in range(6)
    ]
    assert [process.wait(60) for process in running] == [0] * 6
    assert host.run("check")[1] == "valid: 7 models, 0 keys\n"


def test_an_edit_waits_for_the_lock(host: Host) -> None:
    descriptor = os.open(host.models.parent, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    waiting = threading.Thread(target=host.add, args=("--service", "vllm.service"))
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    assert host.models.read_text() == MODELS
    os.close(descriptor)
    waiting.join(30)
    assert "  b:" in host.models.read_text()


def test_a_change_by_someone_else_is_not_overwritten(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llm_router.cli import models

    check = models._check

    def slow_check(*arguments: object) -> None:
        check(*arguments)  # type: ignore[arg-type]
        host.models.write_text(MODELS + "# more\n")

    monkeypatch.setattr(models, "_check", slow_check)
    status, _, said = host.add("--service", "vllm.service")
    assert (status, said) == (1, "models.yml was changed by someone else meanwhile; try again\n")
    assert host.models.read_text() == MODELS + "# more\n"


def test_ansibles_file_says_so(host: Host) -> None:
    template = Path(__file__).parents[2] / "roles/llm_router/templates/models.yml.j2"
    mark = template.read_text().splitlines()[0]
    host.models.write_text(mark + "\n" + MODELS)
    status, _, said = host.run("models", "remove", "a")
    assert status == 0
    assert said.startswith("Ansible writes this file: change llm_router_models too")


def test_a_list_without_a_router(host: Host) -> None:
    assert host.run("models", "list") == (
        0,
        "MODEL  BACKEND  GROUP    UNIT\na      sglang   default  sglang.service\n",
        "",
    )
    (model,) = json.loads(host.run("models", "list", "--json")[1])["models"]
    assert model["name"] == "a"
    assert model["unit"] == "sglang.service"
    assert model["state"] is None


def test_names_come_fast_and_even_from_a_file_that_is_wrong(host: Host) -> None:
    host.models.write_text("models:\n  org/b:3: {}\n  a: {backend: vlm}\n")
    assert host.run("models", "list", "--names") == (0, "org/b:3\na\n", "")
    assert json.loads(host.run("models", "list", "--names", "--json")[1]) == {
        "names": ["org/b:3", "a"]
    }
    host.models.write_text("models: {")
    status, out, said = host.run("models", "list", "--names")
    assert (status, out) == (1, "")
    assert "is not valid YAML" in said
    source = "import sys; from llm_router.cli import main; main(sys.argv[1:]); "
    source += "assert not {'pydantic', 'httpx', 'asyncio', 'http.client'} & set(sys.modules)"
    host.models.write_text(MODELS)
    subprocess.run(
        [sys.executable, "-c", source, "models", "list", "--names", "--config", host.config],
        env={**os.environ, "PYTHONPATH": str(ROUTER)},
        check=True,
    )


def test_no_option_may_be_abbreviated() -> None:
    """Else the next option that is added changes what a script says."""
    with pytest.raises(SystemExit) as ended:
        build().parse_args(["status", "--inter", "3"])
    assert ended.value.code == 2
