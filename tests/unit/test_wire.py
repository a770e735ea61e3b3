"""JSON on the wire says what the standard library says it says."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.api.wire import from_json, to_json

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.floats(allow_nan=False)),
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


def test_a_lone_surrogate_is_escaped() -> None:
    assert to_json({"a": "\ud800"}) == b'{"a": "\\ud800"}'
    assert from_json(b'"\\ud800"') == "\ud800"
