"""``llm-router adopt-keys``: keys go where the router reads them, once, and are never shown."""

from __future__ import annotations

import grp
import json
import os
from pathlib import Path

import pytest

from llm_router.cli import adoption, main
from llm_router.discovery.commands import Launch
from llm_router.discovery.survey import Engine

MINE = grp.getgrgid(os.getegid()).gr_name
MODELS = """\
models:
  a: {backend: vllm, service: vllm.service, api_key_file: FILE}
  b: {backend: sglang, service: sglang.service, script: /s, api_key_file: OTHER}
"""


def engine(unit: str, *arguments: str) -> Engine:
    return Engine(unit, Launch(unit.partition(".")[0], arguments), f"/u/{unit}", "")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """config.yml, and where the keys of two engines go; the second's is there already."""
    found = [engine("vllm.service", "--api-key", "s3cret"), engine("sglang.service", "--api-key=x")]
    monkeypatch.setattr(adoption, "engines", lambda: found)
    key, other = tmp_path / "key", tmp_path / "other"
    other.write_text("mine\n")
    models = MODELS.replace("FILE", str(key)).replace("OTHER", str(other))
    (tmp_path / "models.yml").write_text(models)
    (tmp_path / "config.yml").write_text("schema: 1\n")
    return [tmp_path / "config.yml", key, other]


def test_what_would_be_written(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    config, key, _ = files
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(adoption, "GROUP", MINE)
        assert main(["adopt-keys", "--check", "--config", str(config)]) == 0
        assert capsys.readouterr().out == f"would write {key}\n"
        assert not key.exists()


def test_a_key_is_written_once(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    config, key, other = files
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(adoption, "GROUP", MINE)
        for changed in (True, False):
            assert main(["adopt-keys", "--json", "--config", str(config)]) == 0
            said = capsys.readouterr().out
            assert json.loads(said)["changed"] is changed
            assert "s3cret" not in said
    assert key.read_text() == "s3cret\n"
    assert key.stat().st_mode & 0o777 == 0o640
    assert other.read_text() == "mine\n"


def test_nobody_else_may_read_it(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    config, key, _ = files
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(adoption, "GROUP", "no-such-group")
        assert main(["adopt-keys", "--config", str(config)]) == 1
    said = capsys.readouterr()
    assert "no group 'no-such-group'" in said.err
    assert "s3cret" not in said.out + said.err
    assert not key.exists()
