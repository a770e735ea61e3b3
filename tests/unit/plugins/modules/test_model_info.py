"""model_info against a real HTTP server on a real unix socket."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.roundhouse.llm.plugins.modules import model_info

BIG = {"state": "loaded", "backend": "sglang", "group": "default", "unit": "sglang.service"}
SMALL = {**BIG, "state": "failed", "failure": {"message": "no memory", "count": 1}}
VOICE = {**BIG, "state": "stopped", "group": "second"}
STATUS = {
    "models": {"big": BIG, "small": SMALL, "voice": VOICE},
    "groups": {"default": {"loaded": "big"}, "second": {"loaded": None}},
    "switches": [],
}
PLAN = {"model": "x", "changed": True, "expected_seconds": 3.0, "steps": [{"step": "Start"}]}
LOOKS = {
    "GET /health": (200, {"status": "degraded", "current_model": "big"}),
    "GET /admin/status": (200, STATUS),
}


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    def run_module(**arguments: Any) -> dict[str, Any]:
        arguments.setdefault("socket", str(tmp_path / "admin.sock"))
        with patch_module_args(arguments), pytest.raises(SystemExit):
            model_info.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return run_module


@pytest.mark.parametrize("check_mode", [False, True])
def test_the_models_and_what_is_loaded(router: Any, run: Any, check_mode: bool) -> None:
    router(LOOKS)
    result = run(_ansible_check_mode=check_mode)
    assert not result["changed"]
    assert result["status"] == "degraded"
    assert result["current_model"] == "big"
    assert result["loaded"] == {"default": "big", "second": None}
    assert result["models"] == [
        {"name": name, **STATUS["models"][name]}  # type: ignore[index]
        for name in ("big", "small", "voice")
    ]
    assert result["switches"] == []
    assert "problem" not in result


def test_one_model_and_what_a_switch_to_it_would_do(router: Any, run: Any) -> None:
    asked = router({**LOOKS, "GET /admin/plan?model=small": (200, PLAN)}).asked
    (model,) = run(name="small", plans=True)["models"]
    assert model["plan"] == {"changed": True, "expected_seconds": 3.0, "steps": PLAN["steps"]}
    assert [call for call, _ in asked][2:] == ["GET /admin/plan?model=small"]


def test_a_router_that_cannot_do_its_work_says_why(router: Any, run: Any) -> None:
    health = {"status": "unhealthy", "current_model": None, "problem": "the bus is away"}
    router({**LOOKS, "GET /health": (503, health)})
    result = run()
    assert (result["status"], result["problem"]) == ("unhealthy", "the bus is away")


def test_an_unknown_name_fails_with_the_known_ones(router: Any, run: Any) -> None:
    error = {"message": "The model 'x' does not exist. Known models: big.", "code": "x"}
    router({**LOOKS, "GET /admin/plan?model=x": (404, {"error": error})})
    result = run(name="x")
    assert result["failed"]
    assert result["msg"] == error["message"]


def test_no_router_is_told(run: Any) -> None:
    assert "llm-router.service is not running" in run()["msg"]
