"""Which JSON of an engine is parsed in the event loop."""

from __future__ import annotations

import json

import pytest

from llm_router.api import weight
from llm_router.api.weight import from_engine, is_light


def test_usual_answers_are_parsed() -> None:
    text = "Some text, with lines.\n" * 2000
    logprobs = [{"token": "a", "logprob": -0.5, "bytes": [97]}] * 5000
    for body in ({"text": text}, {"logprobs": logprobs}, [1.5] * 4096):
        assert from_engine(json.dumps(body).encode()) == body


@pytest.mark.parametrize(
    "data",
    [
        b"[" + b"[]," * 60_000 + b"1]",
        b'{"a": "' + b"\\n" * 150_000 + b'"}',
        b'"' + b"x" * weight.LARGE + b'"',
    ],
    ids=["values", "escapes", "one text"],
)
def test_heavy_json_is_not_parsed(data: bytes) -> None:
    json.loads(data)
    assert not is_light(data)
    with pytest.raises(ValueError, match="too large"):
        from_engine(data)


def test_json_that_is_nested_too_deep_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="too deep"):
        from_engine(b"[" * 20_000 + b"]" * 20_000)
