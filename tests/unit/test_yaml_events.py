"""libyaml and ruamel.yaml read the same out of every text that libyaml is given."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from llm_router import yaml_edit, yaml_events
from llm_router.config.document import load_document
from llm_router.yaml_bounds import YamlBoundError

PIECES = [
    *["a", "b", "key", "1", "- ", "? ", "-", " ", "  ", "\n", "\n  ", "\n    ", "\n\n", "\r\n"],
    *["\r", ": ", ":", ", ", ",", "[", "]", "{", "}", '"', "'", "#", " # c", "\\", "\\n", "/"],
    *["|\n", ">\n", "|-\n", ">+\n", "|2\n", "x: y\n", "é", "\x85", "\u2028", "\ufeff", "\t", "%"],
    *["@", "!", "!!str ", "&a ", "*a", "~", "null", "true", "True", "yes", "0x1", "0o7", "1.5"],
    *["1e3", ".5", "-0", "1_0", "2026-01-01", "<<: ", "=", "---\n", "...\n", "http://x:1/"],
    *["[1, 2]", "{a: b}", ".", "`", ".inf", '"q"', "\\ud800"],
]
BEGINNINGS = ["", "k: ", "- ", "a:\n  b: ", "models:\n  a: x\n  b: |\n    ", "a:\n  - b\n  - "]
TEXTS = st.builds(
    lambda first, pieces: first + "".join(pieces),
    st.sampled_from(BEGINNINGS),
    st.lists(st.sampled_from(PIECES), max_size=14),
)


def read(text: str) -> tuple[Any, ...]:
    """Everything that our readers find in a text: values with their types, lines, places."""
    try:
        document = load_document(text)
    except NotImplementedError:
        reject()  # ruamel.yaml cannot keep every comment, though nobody asked for it
    except Exception as error:
        checked: Any = type(error).__name__
    else:
        checked = repr(document.root), _lines(document, document.root)
    try:
        edited: Any = repr(yaml_edit.load(text)), repr(yaml_edit._root.__wrapped__(text))
    except Exception as error:
        edited = str(error)
    return checked, edited


def _lines(document: Any, node: Any, loc: tuple[Any, ...] = ()) -> list[int]:
    keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    found = [document.line(loc)]
    for key in keys:
        found += _lines(document, node[key], (*loc, key))
    return found


@settings(deadline=None, max_examples=int(os.environ.get("ROUNDHOUSE_RUNS", "500")))
@given(text=TEXTS)
def test_both_libraries_read_the_same(text: str) -> None:
    assert yaml_events.HAS_LIBYAML
    by_libyaml = read(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml_events, "HAS_LIBYAML", False)
        assert read(text) == by_libyaml


@pytest.mark.parametrize(
    "text",
    [
        "a:\tb\n",
        "a: !!str 1\n",
        "a: &x 1\nb: *x\n",
        "a: 1\n...\n",
        "a: 1\n---\nb: 2\n",
        "%YAML 1.1\n---\na: yes\n",
        "|\n# text\n",
        "a: b\rc: d\n",
        "a: [\n",
    ],
)
def test_what_libyaml_reads_otherwise_is_left_to_the_other(text: str) -> None:
    assert yaml_events.events(text) is None


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "<<: {a: 1}\n", "a: 2026-01-01\n", "[a]: b\n"])
def test_values_that_only_the_other_has_are_left_to_it(text: str) -> None:
    found = yaml_events.events(text)
    assert found is not None
    with pytest.raises(yaml_events.Unusual):
        yaml_events.values(found)


def test_an_ordinary_models_yml_is_read_by_libyaml() -> None:
    text = (
        "---\nschema: 1\nmodels:\n  # mine\n  a/b:\n    backend: llamacpp\n    port: 8080\n"
        '    args: ["--ctx-size", 4096, -1, 0.5]\n    preload: true\n    ttl: null\n'
        "    description: >-\n      two\n      lines\n    tags: []\n    files: ['*.gguf']\n"
    )
    found = yaml_events.events(text)
    assert found is not None
    assert yaml_events.values(found) == yaml_edit.load(text)


@pytest.mark.parametrize("text", ["[" * 65, "- " * 65 + "x", "[" + "1," * 150_000 + "1]"])
def test_the_limits_hold_before_a_value_is_built(text: str) -> None:
    with pytest.raises(YamlBoundError):
        yaml_events.events(text)
