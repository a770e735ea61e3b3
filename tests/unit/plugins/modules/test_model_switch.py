"""model_switch against a real HTTP server on a real unix socket."""

from __future__ import annotations

import json
import socketserver
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.roundhouse.llm.plugins.modules import model_switch

STEPS = [
    {"step": "Stop", "model": "small", "deadline": 30.0},
    {"step": "Start", "model": "big", "deadline": 180.0},
]
SWITCHED = {"changed": True, "model": "big", "previous": "small", "seconds": 3.5, "steps": STEPS}
UNKNOWN = {
    "error": {
        "message": "The model 'bigg' does not exist; known models: big, small.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
}


def status(*models: str, loaded: str | None) -> dict[str, Any]:
    """What the router says of models in the group `default`."""
    entries = {name: {"state": "stopped", "group": "default"} for name in models}
    return {"models": entries, "groups": {"default": {"loaded": loaded}}, "switches": []}


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    def run_module(**arguments: Any) -> dict[str, Any]:
        arguments.setdefault("socket", str(tmp_path / "admin.sock"))
        with patch_module_args(arguments), pytest.raises(SystemExit):
            model_switch.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return run_module


def test_a_switch_reports_what_happened(router: Any, run: Any) -> None:
    asked = router({"POST /admin/switch": (200, SWITCHED)}).asked
    result = run(name="big")
    assert asked == [("POST /admin/switch", {"model": "big"})]
    assert result["changed"]
    assert (result["model"], result["previous"], result["seconds"]) == ("big", "small", 3.5)
    assert result["steps"] == STEPS
    assert result["diff"] == {"before": "small\n", "after": "big\n"}


def test_a_loaded_model_is_left_alone(router: Any, run: Any) -> None:
    same = {"changed": False, "model": "big", "previous": "big", "seconds": 0.0, "steps": []}
    router({"POST /admin/switch": (200, same)})
    result = run(name="big")
    assert not result["changed"]
    assert result["diff"] == {"before": "big\n", "after": "big\n"}


def test_the_timeout_goes_to_the_router(router: Any, run: Any) -> None:
    asked = router({"POST /admin/switch": (200, SWITCHED)}).asked
    run(name="big", timeout=900)
    assert asked == [("POST /admin/switch", {"model": "big", "timeout": 900.0})]


def test_check_mode_asks_for_the_plan_only(router: Any, run: Any) -> None:
    asked = router(
        {
            "GET /admin/plan?model=org%2Fbig": (
                200,
                {"model": "org/big", "changed": True, "steps": STEPS},
            ),
            "GET /admin/status": (200, status("org/big", loaded=None)),
        }
    ).asked
    result = run(name="org/big", _ansible_check_mode=True)
    assert [each[0] for each in asked] == ["GET /admin/plan?model=org%2Fbig", "GET /admin/status"]
    assert result["changed"]
    assert result["steps"] == STEPS
    assert result["diff"] == {"before": "no model\n", "after": "org/big\n"}


@pytest.mark.parametrize("check_mode", [False, True])
def test_an_unknown_name_fails_with_the_known_ones(router: Any, run: Any, check_mode: bool) -> None:
    router(
        {
            "POST /admin/switch": (404, UNKNOWN),
            "GET /admin/plan?model=bigg": (404, UNKNOWN),
        }
    )
    result = run(name="bigg", _ansible_check_mode=check_mode)
    assert result["failed"]
    assert result["msg"] == UNKNOWN["error"]["message"]


def test_a_failed_switch_brings_the_reason_and_the_log(router: Any, run: Any) -> None:
    error = {
        "message": "big did not get ready: the engine exited with status 1.",
        "type": "server_error",
        "param": None,
        "code": "switch_failed",
        "log_lines": ["loading", "CUDA out of memory"],
    }
    router({"POST /admin/switch": (503, {"error": error})})
    result = run(name="big")
    assert result["failed"]
    assert result["msg"] == error["message"]
    assert result["log_lines"] == error["log_lines"]


def test_a_model_is_unloaded(router: Any, run: Any) -> None:
    unloaded = {"changed": True, "group": "default", "previous": "big", "seconds": 1.5}
    asked = router(
        {
            "GET /admin/status": (200, status("big", "small", loaded="big")),
            "POST /admin/unload": (200, {**unloaded, "steps": STEPS[:1]}),
        }
    ).asked
    result = run(name="big", state="unloaded")
    assert asked[-1] == ("POST /admin/unload", {"group": "default"})
    assert (result["changed"], result["model"], result["previous"]) == (True, None, "big")
    assert (result["seconds"], result["steps"]) == (1.5, STEPS[:1])
    assert result["diff"] == {"before": "big\n", "after": "no model\n"}


def test_another_model_than_the_one_to_unload_stays(router: Any, run: Any) -> None:
    asked = router({"GET /admin/status": (200, status("big", "small", loaded="small"))}).asked
    result = run(name="big", state="unloaded")
    assert [each[0] for each in asked] == ["GET /admin/status"]
    assert (result["changed"], result["model"]) == (False, "small")
    assert result["diff"] == {"before": "small\n", "after": "small\n"}


def test_check_mode_foretells_an_unload(router: Any, run: Any) -> None:
    plan = {"model": None, "changed": True, "steps": STEPS[:1]}
    router(
        {
            "GET /admin/status": (200, status("big", loaded="big")),
            "GET /admin/plan?group=default": (200, plan),
        }
    )
    result = run(state="unloaded", _ansible_check_mode=True)
    assert (result["changed"], result["previous"], result["steps"]) == (True, "big", STEPS[:1])
    assert result["diff"] == {"before": "big\n", "after": "no model\n"}


def test_a_model_to_load_needs_a_name(run: Any) -> None:
    assert "name" in run()["msg"]


def test_no_router_names_the_unit_and_its_journal(run: Any) -> None:
    result = run(name="big")
    assert result["failed"]
    assert "llm-router.service is not running" in result["msg"]
    assert "journalctl -u llm-router" in result["msg"]


def test_a_socket_that_nobody_listens_on_is_no_router(tmp_path: Path, run: Any) -> None:
    with socketserver.UnixStreamServer(str(tmp_path / "admin.sock"), BaseHTTPRequestHandler):
        pass
    assert "is not running" in run(name="big")["msg"]


def test_an_answer_of_something_else_is_refused(router: Any, run: Any) -> None:
    router({"POST /admin/switch": (502, b"<html>Bad gateway</html>")})
    result = run(name="big")
    assert result["failed"]
    assert "HTTP 502" in result["msg"]


def test_a_router_that_hangs_is_given_up(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_switch, "GRACE", 0.05)
    with socketserver.UnixStreamServer(str(tmp_path / "admin.sock"), BaseHTTPRequestHandler):
        result = run(name="big", timeout=0.05)
    assert result["failed"]
    assert "did not answer within 0.1 s" in result["msg"]


@pytest.mark.parametrize("check_mode", [True, False])
def test_a_first_sleep_is_the_routers_to_know(router: Any, run: Any, check_mode: bool) -> None:
    slept = {"changed": True, "previous": "small", "seconds": 40.0, "steps": STEPS, "reason": ""}
    asked = router({"POST /admin/sleep": (200, slept)}).asked
    result = run(name="big", state="slept", _ansible_check_mode=check_mode)
    assert asked == [("POST /admin/sleep", {"model": "big", "dry_run": check_mode})]
    assert result["changed"]
    assert result["diff"] == {"before": "small\n", "after": "no model\n"}


def test_who_slept_before_sleeps_no_more_for_that(router: Any, run: Any) -> None:
    before = {"changed": False, "previous": "small", "seconds": 0.0, "steps": []}
    router({"POST /admin/sleep": (200, before)})
    result = run(name="big", state="slept")
    assert not result["changed"]
    assert result["diff"] == {"before": "small\n", "after": "small\n"}


@pytest.mark.parametrize("check_mode", [True, False])
def test_a_first_load_is_the_routers_to_know(router: Any, run: Any, check_mode: bool) -> None:
    loaded = {"changed": True, "previous": "small", "seconds": 400.0, "steps": STEPS}
    asked = router({"POST /admin/first-load": (200, loaded)}).asked
    result = run(name="big", state="warmed", _ansible_check_mode=check_mode)
    assert asked == [("POST /admin/first-load", {"model": "big", "dry_run": check_mode})]
    assert result["changed"]
    assert result["diff"] == {"before": "small\n", "after": "big\n"}


def test_what_a_release_has_loaded_is_not_loaded_again_for_that(router: Any, run: Any) -> None:
    before = {"changed": False, "previous": "small", "seconds": 0.0, "steps": []}
    router({"POST /admin/first-load": (200, before)})
    result = run(name="big", state="warmed")
    assert not result["changed"]
    assert result["diff"] == {"before": "small\n", "after": "small\n"}
