"""What the router's unit may see of GPUs, as Ansible makes it out of the role's template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_router.cli.exits import Exit
from tests.plays import run_plays

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/llm_router"
HOSTS = {
    "none": [],
    "unwatched": [],
    "older": [],
    "broken": ["/dev/nvidia0"],
    "two": ["/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm"],
}

VARIABLES = {
    "unwatched": {"llm_router_watchdog": 0, "llm_router_memory_max": "infinity"},
    "older": {"__llm_router_watchdog_module": {"stat": {"exists": False}}},
}


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The unit's lines for each host, in one run of Ansible."""
    directory = tmp_path_factory.mktemp("unit")
    play = [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars_files": [str(ROLE / f"{part}/main.yml") for part in ("defaults", "vars")],
            "vars": {
                "__llm_router_devices": {"stdout_lines": devices},
                "__llm_router_generation": "0123456789ab",
                "role_path": str(ROLE),
                "__llm_router_write_paths": ["/etc/llamacpp"],
            },
            "tasks": [
                {
                    "ansible.builtin.template": {
                        "src": str(ROLE / f"templates/{unit}.service.j2"),
                        "dest": str(directory / f"{name}{kind}.service"),
                        "mode": "0600",
                    },
                    "vars": VARIABLES.get(name, {}),
                }
                for unit, kind in {"llm-router": "", "llm-router-helper": " helper"}.items()
            ],
        }
        for name, devices in HOSTS.items()
    ]
    run_plays(directory, play, {"__llm_router_generation": "0123456789ab"})
    return {
        path.stem: path.read_text(encoding="utf-8").splitlines()
        for path in directory.glob("*.service")
    }


def test_a_router_whose_port_is_taken_is_not_started_again_and_again(
    units: dict[str, list[str]],
) -> None:
    assert f"RestartPreventExitStatus={int(Exit.PORT_TAKEN)}" in units["none"]


@pytest.mark.parametrize("host", ["none", "broken"])
def test_without_a_driver_the_router_sees_no_device(units: dict[str, list[str]], host: str) -> None:
    assert not [line for line in units[host] if "nvidia" in line]
    assert {"PrivateDevices=yes", "DevicePolicy=closed", "ProcSubset=pid"} <= set(units[host])


def test_with_gpus_it_may_ask_about_them_and_no_more(units: dict[str, list[str]]) -> None:
    unit = units["two"]
    assert {"PrivateDevices=yes", "DevicePolicy=closed", "ProcSubset=all"} <= set(unit)
    assert "BindPaths=-/dev/nvidia0 -/dev/nvidia1 -/dev/nvidiactl" in unit
    allowed = [line for line in unit if line.startswith("DeviceAllow=")]
    assert allowed == [f"DeviceAllow=/dev/char/195:{minor} rwm" for minor in (0, 1, 255)]
    assert "ExecStartPre=-+/usr/bin/nvidia-modprobe -c 0 -c 1 -c 255" in unit


def test_out_of_memory_only_the_router_ends_and_a_blocked_one_is_restarted(
    units: dict[str, list[str]],
) -> None:
    unit = units["none"]
    assert {
        "MemoryMax=2G",
        "MemorySwapMax=0",
        "OOMPolicy=kill",
        "OOMScoreAdjust=-100",
        "LimitCORE=0",
        "WatchdogSec=60",
        "Restart=on-failure",
    } <= set(unit)


def test_a_watchdog_of_0_is_none(units: dict[str, list[str]]) -> None:
    assert not [line for line in units["unwatched"] if "Watchdog" in line or "Abort" in line]
    assert "MemoryMax=infinity" in units["unwatched"]


def test_the_helper_is_bounded_and_watched(units: dict[str, list[str]]) -> None:
    assert {
        "LimitDATA=1G",
        # what it reads ahead counts as its own
        "MemoryMax=infinity",
        "OOMPolicy=continue",
        "OOMScoreAdjust=-100",
        "LimitCORE=0",
        "WatchdogSec=60",
        # the watchdog's time begins when it is ready
        "Type=notify",
        "NotifyAccess=main",
    } <= set(units["none helper"])


def test_the_router_is_told_the_accounts_of_others() -> None:
    """In a user namespace of its own, /proc/net/tcp would call each of them nobody."""
    lines = (ROLE / "templates/llm-router.service.j2").read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line.startswith("PrivateUsers=")]


def test_the_units_of_an_older_release_wait_for_nothing_that_it_does_not_send(
    units: dict[str, list[str]],
) -> None:
    """A rollback puts an older release under the units of this role."""
    for unit in (units["older"], units["older helper"]):
        assert not [line for line in unit if "Watchdog" in line or "Abort" in line]
    assert "Type=exec" in units["older helper"]
    assert "Type=notify" in units["older"]


def test_with_gpus_it_starts_after_what_keeps_the_driver_ready(units: dict[str, list[str]]) -> None:
    assert "After=nvidia-persistenced.service" in units["two"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By case: what the helper may write, and config.yml."""
    directory = tmp_path_factory.mktemp("paths")
    vllm = {"backend": "vllm", "service": "vllm@a.service", "model_path": "/m/a"}
    cases = {
        "bare": {"llm_router_models": {"a": vllm}},
        "gpus": {"llm_router_models": {"a": {**vllm, "gpus": [0]}}},
        "environment": {"llm_router_models": {"a": {**vllm, "environment": {"A": "1"}}}},
        "groups": {
            "llm_router_models": {"a": vllm},
            "llm_router_groups": {"default": {"gpus": [0]}},
        },
    }
    said = "{{ {'paths': __llm_router_write_paths, 'config': __llm_router_config_text} | to_json }}"
    plays = [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars_files": [
                *(str(ROLE / f"{part}/main.yml") for part in ("defaults", "vars")),
                str(directory / f"{case}.yml"),
            ],
            "vars": {"role_path": str(ROLE)},
            "tasks": [
                {
                    "ansible.builtin.copy": {
                        "content": said,
                        "dest": str(directory / f"{case}.json"),
                        "mode": "0600",
                    }
                }
            ],
        }
        for case in cases
    ]
    for case, given in cases.items():
        (directory / f"{case}.yml").write_text(json.dumps(given))
    (directory / "templates").symlink_to(ROLE / "templates")
    run_plays(directory, plays)
    return {case: json.loads((directory / f"{case}.json").read_text()) for case in cases}


def test_the_helper_may_write_drop_ins_where_models_need_them(
    written: dict[str, dict[str, Any]],
) -> None:
    units = "/etc/systemd/system"
    assert {case for case, each in written.items() if units in each["paths"]} == {
        *("gpus", "environment", "groups")
    }
    assert written["bare"]["paths"] == ["/etc/vllm"]


def test_groups_are_in_the_configuration_only_where_there_are_some(
    written: dict[str, dict[str, Any]],
) -> None:
    assert "groups" not in written["bare"]["config"]
    assert written["groups"]["config"].endswith("groups:\n  default:\n    gpus:\n    - 0\n")
