"""JSON on the wire says what the standard library says it says."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llm_router
from llm_router.api.wire import from_json, to_json
from llm_router.json_codec import json_text

FINITE = st.floats(allow_nan=False, allow_infinity=False)  # JSON has no word for the others
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(), FINITE),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=5,
)


@given(VALUES)
def test_what_goes_out_comes_in(value: object) -> None:
    assert from_json(to_json(value)) == value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_other_encodings_are_read_too(encoding: str) -> None:
    assert from_json(' {"a": "日本"}\n'.encode(encoding)) == {"a": "日本"}


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"a": 1} x', b'"\xff"', b"\x00", b"nul", b"{'a': 1}"]
)
def test_what_is_wrong_is_told_as_the_standard_library_tells_it(data: bytes) -> None:
    with pytest.raises(ValueError) as theirs:
        json.loads(data)
    with pytest.raises(ValueError) as ours:
        from_json(data)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nothing_but_json_goes_out(value: float) -> None:
    with pytest.raises(ValueError):
        to_json({"a": [value]})
    with pytest.raises(ValueError):
        json_text({"a": [value]})


@pytest.mark.parametrize("text", [b"NaN", b"[-Infinity]", b'{"a": 1e999}', b"-1e999"])
def test_numbers_that_are_not_finite_are_read_unless_the_reader_is_strict(text: bytes) -> None:
    from_json(text)
    for data in (text, text.decode().encode("utf-16")):
        with pytest.raises(ValueError, match=r"is not JSON|out of range"):
            from_json(data, strict=True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_values_nested_too_deep_are_no_other_error_than_wrong_json(encoding: str) -> None:
    deep = (200_000 * "[" + 200_000 * "]").encode(encoding)
    for strict in (False, True):
        with pytest.raises(ValueError, match="nested too deep"):
            from_json(deep, strict=strict)
    value: list[object] = []
    for _ in range(200_000):
        value = [value]
    with pytest.raises(ValueError, match="nested too deep"):
        to_json(value)


def test_the_package_writes_json_by_these_functions_alone() -> None:
    """`json.dumps` writes NaN and Infinity unless it is told not to."""
    package = Path(llm_router.__file__).parent
    calls = {
        f"{path.relative_to(package)}:{node.lineno}"
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in ("dump", "dumps", "JSONEncoder")
        and isinstance(node.value, ast.Name)
        and node.value.id == "json"
    }
    linked = {
        "engine_files.py",
        "file_edits.py",
        "yaml_edit.py",
    }  # for Ansible's hosts; their values are YAML's
    others = {place for place in calls if place.partition(":")[0] not in linked}
    assert {place.partition(":")[0] for place in others} == {"config/schema.py", "json_codec.py"}


def test_a_lone_surrogate_is_escaped() -> None:
    assert to_json({"a": "\ud800"}) == b'{"a": "\\ud800"}'
    assert from_json(b'"\\ud800"') == "\ud800"
