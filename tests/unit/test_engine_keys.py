"""The key that an engine is shown: from which file, and what if the file is not right."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from llm_router.config.schema import Config, Model
from llm_router.engine_files import EngineFileError, read_key
from llm_router.engine_keys import EngineKeys, key_file

CONFIG = Config.model_validate({})


def model(backend: str = "vllm", **fields: str) -> Model:
    return Model.model_validate({"name": "m", "backend": backend, **fields})


def test_a_models_own_file_comes_before_its_engines() -> None:
    assert key_file(model(), CONFIG) == "/etc/vllm/api_key"
    assert key_file(model("tabby"), CONFIG) == "/etc/tabbyapi/api_key"
    assert key_file(model(api_key_file="/k"), CONFIG) == "/k"
    assert key_file(model("llamacpp"), CONFIG) is None
    assert key_file(model(), Config.model_validate({"engine_keys": {"vllm": None}})) is None


@pytest.mark.parametrize("text", ["secret", "secret\n", "secret\r\n"])
def test_a_key_is_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    assert read_key(str(tmp_path / "key")) == "secret"
    assert read_key(str(tmp_path / "none")) is None
    assert read_key(str(tmp_path / "key/none")) is None
    assert read_key(None) is None


@pytest.mark.parametrize("text", ["", "\n", "one\ntwo\n", "with blanks", "schlüssel", "a\0b"])
def test_what_is_no_key_is_not_shown_to_anybody(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(EngineFileError, match=f"{tmp_path}/key is not"):
        read_key(str(tmp_path / "key"))


def test_a_file_that_cannot_be_read_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "key").mkdir()
    keys, asker = EngineKeys(), model(api_key_file=str(tmp_path / "key"))
    with caplog.at_level(logging.WARNING):
        assert keys.headers(asker, CONFIG) == {}
        assert keys.headers(asker, CONFIG) == {}
    assert [record.message for record in caplog.records] == [
        f"the engine's key in {tmp_path}/key cannot be read: Is a directory; the file should be "
        "root:llm-router with mode 0640"
    ]


def test_a_new_key_is_seen_at_once(tmp_path: Path) -> None:
    file = tmp_path / "key"
    keys, asker = EngineKeys(), model(api_key_file=str(file))
    assert keys.headers(asker, CONFIG) == {}
    assert keys.shown(asker, CONFIG) == f"it was shown no key, as there is none in {file}"
    file.write_text("one")
    assert keys.headers(asker, CONFIG) == {"authorization": "Bearer one"}
    file.with_suffix(".new").write_text("two")
    file.with_suffix(".new").replace(file)
    assert keys.headers(asker, CONFIG) == {"authorization": "Bearer two"}
    assert keys.shown(asker, CONFIG) == f"it was shown the key in {file}"
    file.unlink()
    assert keys.headers(asker, CONFIG) == {}
