"""engine_info as Ansible runs it, on this machine; what it finds is tested with the discovery."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
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


def test_no_value_of_a_variable_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    logged: list[Any] = []
    monkeypatch.setattr(
        AnsibleModule, "log", lambda _self, *words, **more: logged.append((words, more))
    )
    entry = {"backend": "vllm", "service": "a.service", "environment": {"DB": "very-secret"}}
    given: dict[str, Any] = {"models_dirs": [str(tmp_path)], "models": {"a": entry}}
    given["_ansible_inject_invocation"] = True  # as a very verbose run has it
    with patch_module_args(given), pytest.raises(SystemExit):
        engine_info.main()
    said = json.loads(capsys.readouterr().out)
    assert said["invocation"]["module_args"]["models"]["a"]["service"] == "a.service"
    assert "very-secret" not in json.dumps(said) + repr(logged)
