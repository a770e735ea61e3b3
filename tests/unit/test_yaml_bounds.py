"""YAML that multiplies or nests without end is refused at once, with its line."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_router import yaml_edit
from llm_router.config.errors import ConfigError
from llm_router.config.load import load_models
from llm_router.config.schema import Config
from llm_router.file_edits import EngineFileError, FileEdit, YamlKeys, YamlValue, apply
from llm_router.foreign import Unreadable, read_foreign

WIDTH = 9


def laughs(levels: int = 12) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        aliases = ", ".join([f"*a{level - 1}"] * WIDTH)
        lines.append(f"a{level}: &a{level} [{aliases}]")
    return "\n".join(lines) + "\n"


def merges(levels: int = 12) -> str:
    lines = ["a0: &a0 {k: v}"]
    for level in range(1, levels):
        aliases = ", ".join([f"*a{level - 1}"] * WIDTH)
        lines += [f"a{level}: &a{level}", f"  <<: [{aliases}]"]
    return "\n".join(lines) + "\n"


def chain(links: int = 2000) -> str:
    """Each mapping merges the one before it: the whole grows with the square of the file."""
    lines = ["a0: &a0 {k0: v}"]
    lines += [f"a{n}: &a{n} {{<<: *a{n - 1}, k{n}: v}}" for n in range(1, links)]
    return "\n".join(lines) + "\n"


HOSTILE = {
    "aliases that multiply": (laughs(), "aliases resolved"),
    "merge keys that multiply": (merges(), "aliases resolved"),
    "a chain of merge keys": (chain(), "aliases resolved"),
    "an alias to itself": ("model: &a\n  model_name: *a\n", "refers to itself"),
    "brackets without end": ("model: " + "[" * 5000 + "]" * 5000 + "\n", "levels"),
    "lists in one line": ("model:\n  " + "- " * 5000 + "x\n", "levels"),
    "too many values": ("model: [" + "1," * 200_000 + "1]\n", "values"),
}
SECONDS = 5.0


def quickly(action: Callable[[], object]) -> None:
    began = time.process_time()
    try:
        action()
    finally:
        assert time.process_time() - began < SECONDS


@pytest.mark.parametrize("name", HOSTILE)
def test_an_engines_file_that_multiplies_is_refused_with_its_line(
    name: str, tmp_path: Path
) -> None:
    text, problem = HOSTILE[name]
    path = tmp_path / "config.yml"
    path.write_text(text)
    edit = FileEdit(str(path), YamlKeys((YamlValue(("model", "model_name"), "a"),)))
    with pytest.raises(EngineFileError, match=rf"config\.yml:\d+: .*{problem}"):
        quickly(lambda: apply([edit]))
    assert path.read_text() == text


@pytest.mark.parametrize("name", HOSTILE)
def test_a_models_yml_that_multiplies_is_refused_with_its_line(name: str, tmp_path: Path) -> None:
    text, problem = HOSTILE[name]
    path = tmp_path / "models.yml"
    path.write_text("models: {}\n" + text)
    with pytest.raises(ConfigError) as caught:
        quickly(lambda: load_models(path, Config(schema=1)))
    (found,) = caught.value.problems
    assert problem in found.what
    assert found.line > 0


@pytest.mark.parametrize("name", HOSTILE)
def test_an_import_that_multiplies_is_refused_with_its_line(name: str, tmp_path: Path) -> None:
    text, problem = HOSTILE[name]
    path = tmp_path / "config.yaml"
    path.write_text("models: {}\n" + text)
    with pytest.raises(Unreadable, match=rf"line \d+: .*{problem}"):
        quickly(lambda: read_foreign(path, "systemd"))


def test_aliases_and_merge_keys_of_an_ordinary_file_are_read() -> None:
    text = "base: &base {a: 1, b: &b [1, 2]}\nmodel: {<<: *base, b: *b}\nagain: &b 3\nlast: *b\n"
    read = yaml_edit.mapping(text)
    assert read["model"] == {"a": 1, "b": [1, 2]}
    assert read["last"] == 3
