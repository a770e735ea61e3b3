"""What a unit's files name is read as the unit's user, and a key has a key's form."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_router.cli import adoption, main
from llm_router.discovery import survey
from llm_router.discovery.identity import NOBODY, acting_as
from llm_router.discovery.keys import NotAKey, key_of

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
SECRET = "secret-of-root"
UNIT = """\
[Service]
User={user}
ExecStart=/home/start.sh
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    """A host whose unit runs a script of its user, which names a file as its key."""
    for path in (tmp_path, *tmp_path.parents):
        if str(path).startswith("/tmp/pytest"):
            path.chmod(0o755)
    for name in ("etc/systemd/system", "home"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc/systemd/system/vllm.service").write_text(UNIT.format(user="nobody"))
    (tmp_path / "home/start.sh").write_text(
        "#!/bin/sh\nexec vllm serve /models/a --port 8000 --api-key-file /home/key\n"
    )
    (tmp_path / "home/start.sh").chmod(0o755)
    (tmp_path / "secret").write_text(SECRET + "\n")
    (tmp_path / "secret").chmod(0o600)
    yield tmp_path
    assert os.geteuid() == os.getuid()


def found(host: Path) -> str:
    (engine,) = survey.engines(str(host))
    with acting_as(engine.user, engine.groups):
        return key_of(engine, survey._Host(host).read)


@as_root
def test_a_key_file_that_leads_to_roots_is_not_read(host: Path) -> None:
    (host / "home/key").symlink_to(host / "secret")
    assert found(host) == ""


@as_root
def test_a_key_file_that_the_units_user_may_read_is_read(host: Path) -> None:
    (host / "home/key").write_text("key-of-nobody\n")
    (host / "home/key").chmod(0o600)
    os.chown(host / "home/key", NOBODY, NOBODY)
    assert found(host) == "key-of-nobody"


@as_root
@pytest.mark.parametrize("user", ["12345678", "no-such-user", "%i"])
def test_a_user_that_does_not_exist_reads_as_nobody(host: Path, user: str) -> None:
    (host / "etc/systemd/system/vllm.service").write_text(UNIT.format(user=user))
    (host / "home/key").symlink_to(host / "secret")
    assert found(host) == ""


@as_root
def test_a_script_that_its_user_may_not_read_names_no_engine(host: Path) -> None:
    (host / "home/start.sh").unlink()
    (host / "home/start.sh").symlink_to(host / "secret")
    (host / "secret").write_text("#!/bin/sh\nexec vllm serve /models/secret\n")
    assert survey.engines(str(host)) == []


@as_root
def test_adopt_keys_reads_as_the_units_user(
    host: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = host / "home/start.sh"
    script.write_text(script.read_text().replace("/home/key", str(host / "secret")))
    entry = f"{{backend: vllm, service: vllm.service, script: /s, api_key_file: {host}/copied}}"
    (host / "models.yml").write_text(f"models:\n  a: {entry}\n")
    (host / "config.yml").write_text("schema: 1\n")
    monkeypatch.setattr(adoption, "engines", lambda: survey.engines(str(host)))
    assert main(["adopt-keys", "--config", str(host / "config.yml")]) == 0
    assert not (host / "copied").exists()
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err


@pytest.mark.parametrize("text", ["two words", "a\x1b[2J", "clé", "x" * 513, "a\tb"])
def test_what_is_not_a_keys_form_is_not_taken_and_not_shown(host: Path, text: str) -> None:
    (host / "home/key").write_text(text + "\n")
    with pytest.raises(NotAKey) as caught:
        found(host)
    assert text not in str(caught.value)


@pytest.mark.parametrize("name", ["fifo", "device"])
def test_neither_a_fifo_nor_a_device_is_opened(host: Path, name: str) -> None:
    if name == "fifo":
        os.mkfifo(host / "home/key")
    else:
        (host / "home/key").symlink_to("/dev/null")
    assert found(host) == ""
