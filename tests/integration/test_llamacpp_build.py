"""llama.cpp's pinned source with the pinned compilers: they fit each other.

Opt-in (ROUNDHOUSE_ROWS=all): CUDA's compiler and libraries are 900 MB, and one kernel takes a
minute. No GPU is needed. A whole build is `make test-llamacpp ARGS="trixie cpu"`.
"""

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
FILES = ROOT / "roles/llamacpp/files"
UV = ROOT / ".cache/uv/bin/uv"

pytestmark = [
    pytest.mark.packages,
    pytest.mark.skipif(os.environ.get("ROUNDHOUSE_ROWS") != "all", reason="installs 900 MB"),
]


def run(*command: str | Path, **options: Any) -> str:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the role makes before it compiles: the locked packages, CUDA's links, the source."""
    directory = tmp_path_factory.mktemp("release")
    python = directory / "bin/python"
    run(UV, "--no-config", "venv", "-q", "--clear", "--python", sys.executable, directory)
    run(
        *(UV, "--no-config", "pip", "install", "-q", "--only-binary=:all:", "--require-hashes"),
        *("--python", python, "-r", FILES / "cuda.lock"),
    )
    run(python, "-I", ROOT / "roles/sglang/files/cuda_toolkit.py", "link")
    said = yaml.safe_load((ROOT / "roles/llamacpp/vars/main.yml").read_text(encoding="utf-8"))
    run(
        *("/bin/sh", "-c", said["__llamacpp_get_pinned"], "sh", python, said["__llamacpp_pinned"]),
        cwd=directory,
    )
    assert (directory / said["__llamacpp_pinned_name"]).is_file()
    return directory


def test_a_cuda_kernel_of_the_pinned_source_compiles_for_the_gpu(release: Path) -> None:
    program = release / "llama_build.py"
    program.write_bytes((FILES / "llama_build.py").read_bytes())
    plan = {
        "source": str(next(release.glob("*.tar.gz"))),
        "work": str(release / "work"),
        "release": str(release),
        "backend": "cuda",
        "architectures": ["86"],
        "toolkit": str(release / "cuda"),
        "libraries": "$ORIGIN/../cuda/lib64",
    }
    environment = {**os.environ, "PATH": f"{release}/bin:/usr/bin:/bin"}
    script = (
        "import json, sys, llama_build as b; from pathlib import Path\n"
        "p = b.Plan(**json.loads(sys.argv[1])); b.unpack(Path(p.source), Path(p.work) / 'source')\n"
        "s = b.find_source(Path(p.work) / 'source')\n"
        "b._run(['cmake', '-G', 'Ninja', '-S', str(s), '-B', p.work + '/build',"
        " *b.configuration(p)])\n"
    )
    run(
        *(release / "bin/python", "-c", script, json.dumps(plan)),
        cwd=release,
        env={**environment, "PYTHONPATH": str(release)},
    )
    build = release / "work/build"
    commands = json.loads((build / "compile_commands.json").read_text(encoding="utf-8"))
    cuda = [each for each in commands if each["file"].endswith(".cu")]
    assert len(cuda) > 100
    for each in cuda:
        assert each["command"].startswith(f"{release}/cuda/bin/nvcc "), each["command"]
        assert re.search(r"arch=compute_86,code=\[?sm_86\]?", each["command"]), each["command"]
    one = next(each for each in cuda if each["file"].endswith("/scale.cu"))
    target = Path(one["output"]).relative_to(build)  # as ninja names it
    run("ninja", "-C", build, target, env=environment)
    made = (build / target).read_bytes()
    assert made.startswith(b"\x7fELF")
    assert b".nv_fatbin" in made
