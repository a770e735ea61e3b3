"""What the role llm_router ships beside its tasks: the packer, the checker, the requirements."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

FILES = Path(__file__).resolve().parents[2] / "roles/llm_router/files"
CONFIG = "schema: 1\nunits: systemd\n"
MODELS = """\
schema: 1
models:
  gemma:
    backend: llamacpp
    service: llamacpp@gemma.service
    model_path: /srv/gemma.gguf
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A package in small, with one file behind a link as engine_files.py is."""
    files = tmp_path / "files"
    package = files / "llm_router"
    package.mkdir(parents=True)
    shutil.copy(FILES / "pack.py", files)
    (files / "requirements.lock").write_text("one==1\n")
    (package / "__init__.py").write_text("")
    (package / "api.py").write_text("API = 1\n")
    (tmp_path / "engine_files.py").write_text("WRITER = 1\n")
    (package / "engine_files.py").symlink_to("../../engine_files.py")
    return files


def pack(tree: Path, *arguments: str, python: str = "3.13 /usr/bin/python3.13") -> str:
    command = [sys.executable, str(tree / "pack.py"), python, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_id_is_twelve_hex_digits_and_stays(tree: Path) -> None:
    first = pack(tree)
    assert len(first) == 12
    assert int(first, 16) >= 0
    assert pack(tree) == first


@pytest.mark.parametrize(
    "changed",
    [
        "files/llm_router/api.py",
        "files/llm_router/new.py",
        "files/requirements.lock",
        "engine_files.py",
    ],
)
def test_the_id_follows_sources_lock_and_linked_files(tree: Path, changed: str) -> None:
    before = pack(tree)
    (tree.parent / changed).write_text("changed\n")
    assert pack(tree) != before


def test_the_id_follows_the_targets_python(tree: Path) -> None:
    assert pack(tree) != pack(tree, python="3.12 /usr/bin/python3.12")


def test_byte_code_is_neither_named_nor_packed(tree: Path, tmp_path: Path) -> None:
    before = pack(tree)
    cache = tree / "llm_router/__pycache__"
    cache.mkdir()
    (cache / "api.cpython-313.pyc").write_bytes(b"code")
    assert pack(tree, str(tmp_path / "app.tar.gz")) == before
    with tarfile.open(tmp_path / "app.tar.gz") as tar:
        assert not [name for name in tar.getnames() if "__pycache__" in name]


def test_the_tar_has_files_where_there_are_links(tree: Path, tmp_path: Path) -> None:
    pack(tree, str(tmp_path / "app.tar.gz"))
    with tarfile.open(tmp_path / "app.tar.gz") as tar:
        member = tar.getmember("app/llm_router/engine_files.py")
        assert member.isfile()
        assert member.mode == 0o644
        assert "app/requirements.lock" in tar.getnames()


def test_the_wheelhouse_is_packed_and_leaves_the_id(tree: Path, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "one-1-py3-none-any.whl").write_bytes(b"wheel")
    assert pack(tree, str(tmp_path / "app.tar.gz"), str(wheels)) == pack(tree)
    with tarfile.open(tmp_path / "app.tar.gz") as tar:
        assert "wheelhouse/one-1-py3-none-any.whl" in tar.getnames()


def test_an_empty_wheelhouse_is_said(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        pack(tree, str(tmp_path / "app.tar.gz"), str(tmp_path / "nowhere"))
    assert "has no wheels" in caught.value.stderr


def candidate(**given: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(FILES), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, str(FILES / "candidate.py")],
        input=json.dumps(given),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def files(**texts: str) -> dict[str, str]:
    wanted = {"config": CONFIG, "keys": "keys: []\n", "models": MODELS} | texts
    return {f"{name}.yml": text for name, text in wanted.items()}


def test_a_right_candidate_is_accepted() -> None:
    result = candidate(files=files())
    assert (result.returncode, result.stderr) == (0, "")


def test_a_wrong_one_is_refused_by_file_line_and_key() -> None:
    result = candidate(files=files(models=MODELS.replace("llamacpp\n", "lama\n")))
    assert result.returncode == 1
    assert result.stderr.startswith("models.yml:4: models.gemma.backend: ")


def test_the_owners_own_file_keeps_its_name(tmp_path: Path) -> None:
    theirs = tmp_path / "mine.yml"
    theirs.write_text(MODELS.replace("gemma.service", "gemma"))
    result = candidate(files=files(), models=str(theirs))
    assert result.returncode == 1
    assert result.stderr.startswith(f"{theirs}:5: models.gemma.service: ")


def test_an_open_address_without_a_key_is_refused() -> None:
    result = candidate(files=files(config="schema: 1\nlisten: {host: 0.0.0.0}\n"))
    assert result.returncode == 1
    assert "llm_router_allow_open" in result.stderr


def test_what_activation_would_do_is_said_and_not_done(tmp_path: Path) -> None:
    directory = tmp_path / "llamacpp"
    config = f"schema: 1\nengine_files: {{llamacpp: {directory}}}\n"
    result = candidate(files=files(config=config), activate=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["changed"]
    assert not directory.exists()


def test_missing_libraries_are_named_with_their_remedy() -> None:
    bare = subprocess.run(
        [sys.executable, "-I", "-S", str(FILES / "candidate.py")],
        input="{}",
        capture_output=True,
        text=True,
        check=False,
    )
    assert bare.returncode == 3
    assert bare.stderr.count("\n") == 1
    assert "-m pip install pydantic ruamel.yaml" in bare.stderr


def imported() -> set[str]:
    """The packages that the router imports and Python has not got itself."""
    names = set()
    for path in (FILES / "llm_router").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
    tops = {name.partition(".")[0] for name in names}
    return tops - set(sys.stdlib_module_names) - {"llm_router", "__future__"}


def test_what_the_router_imports_is_required_by_name() -> None:
    text = (FILES / "requirements.in").read_text(encoding="utf-8")
    required = re.findall(r"^([a-z][a-z0-9.-]*)", text, re.MULTILINE)
    other_names = {"nvidia-ml-py": "pynvml", "pyyaml": "yaml"}
    modules = {other_names.get(n, n.replace("-", "_").partition(".")[0]) for n in required}
    # the embedded engine comes with requirements/embedded.in, to those who want it
    assert imported() - {"xllamacpp"} <= modules
