"""engine_info as Ansible runs it, on this machine; what it finds is tested with the discovery."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.roundhouse.llm.plugins.modules import engine_info


def test_it_answers_with_all_that_is_documented(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "Foo-AWQ"
    folder.mkdir()
    (folder / "config.json").write_text(
        '{"model_type": "llama", "quantization_config": {"quant_method": "awq", "bits": 4}}'
    )
    (folder / "model.safetensors").write_text("weights")
    with patch_module_args({"models_dirs": [str(tmp_path)]}), pytest.raises(SystemExit):
        engine_info.main()
    said = json.loads(capsys.readouterr().out)
    assert said["changed"] is False
    assert said["contradictions"] == []
    assert said["models_yml"].startswith("# Proposed by `llm-router discover`")
    assert f"{folder} (AWQ, 4 bit, 7 bytes): for SGLang or vLLM; no unit serves it" in said["notes"]
    documented = ("models_yml", "models", "engines", "contradictions", "notes", "unread")
    assert set(documented) <= set(said)
    for name in documented:
        assert f"\n{name}:\n" in engine_info.RETURN
