"""The gateway finds the model that the router would find, in every body that it can be given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lupa.lua53 import LuaRuntime

SOURCE = Path(__file__).parents[2] / "roles/gateway/files/gateway.lua"
LUA: Any = LuaRuntime(encoding="latin-1", unpack_returned_tuples=True)
FOUND: Any = LUA.execute(SOURCE.read_text())


def model_of(body: bytes, content_type: str = "application/json") -> str | None:
    found = FOUND.model_of(body.decode("latin-1"), content_type)
    return None if found is None else found.encode("latin-1").decode("utf-8", "replace")


def routers(body: bytes) -> str | None:
    """What the router reads."""
    read = json.loads(body)
    model = read.get("model") if isinstance(read, dict) else None
    return model if isinstance(model, str) else None


@pytest.mark.parametrize(
    "body",
    [
        '{"model": "a"}',
        '{"messages": [{"role": "user", "content": "{\\"model\\": \\"b\\"}"}], "model": "a"}',
        '{"messages": [{"model": "b"}], "model": "a", "tools": [{"model": "c"}]}',
        '{"model": "b", "model": "a"}',
        '{"model": "b", "model": null}',
        '{"model": "b", "model": {"model": "c"}}',
        '{"model": "b", "model": ["c"], "x": {"model": "d"}}',
        '{"\\u006dodel": "a"}',
        '{"model": "\\u0061\\/b"}',
        '{"Model": "b", "model ": "c", "models": "d"}',
        '{"x": "model", "y": "a"}',
        '{"x": "\\\\", "model": "a"}',
        '{"x": "\\\\\\"", "model": "a"}',
        '{"x": ["model", "b"], "model":"a"}',
        '{"model": ""}',
        '{"model": 7}',
        '{"prompt": "model\\": \\"b"}',
        ' \n{\t"model"\r\n:\n"a" } ',
        '{"model": "ä€"}',
        '["model", "a"]',
        '[{"model": "a"}]',
        '"model"',
        '{"model": "a", "x": ' + '{"x": [' * 50 + "]}" * 50 + "}",
        "{}",
    ],
)
def test_it_finds_what_the_router_finds(body: str) -> None:
    assert model_of(body.encode()) == routers(body.encode())


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4) | st.just("model"), inner, max_size=3)
    ),
    max_leaves=10,
)
NAMES = st.text(st.characters(codec="ascii", exclude_characters="\x00"), max_size=20)


@given(
    st.lists(st.tuples(st.text(max_size=4) | st.just("model"), NESTED | NAMES), max_size=6),
    st.booleans(),
    st.sampled_from([None, 1]),
)
def test_it_finds_it_in_any_json(
    members: list[tuple[str, Any]], escaped: bool, indent: int | None
) -> None:
    said = [
        json.dumps(key, ensure_ascii=escaped) + ": " + json.dumps(value, indent=indent)
        for key, value in members
    ]
    body = ("{" + ", ".join(said) + "}").encode("utf-8", "surrogatepass")
    wanted = routers(body)
    if wanted is None or wanted.isascii():
        assert model_of(body) == wanted
    else:
        # no model has such a name, so it need not be read right, but it may not be read as another
        found = model_of(body)
        assert found is not None
        assert not found.isascii()


@given(st.binary(max_size=200))
def test_it_takes_anything(body: bytes) -> None:
    model_of(body)
    model_of(b"{" + body)
    model_of(b"--x" + body, "multipart/form-data; boundary=x")


def test_half_a_body_has_the_model_that_it_has() -> None:
    whole = json.dumps({"model": "a", "messages": [{"content": "x" * 100}]}).encode()
    for length in range(len(whole)):
        assert model_of(whole[:length]) == ("a" if length >= len('{"model": "a"') else None)


def test_a_long_name_is_cut() -> None:
    assert model_of(json.dumps({"model": "x" * 1000}).encode()) == "x" * 256


def form(*parts: str) -> bytes:
    said = "".join(f"--B\r\n{part}\r\n" for part in parts)
    return (said + "--B--\r\n").encode()


FILE = (
    'Content-Disposition: form-data; name="file"; filename="model"\r\n'
    'Content-Type: audio/wav\r\n\r\nname="model"\r\n\r\nb'
)


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (form(FILE, 'Content-Disposition: form-data; name="model"\r\n\r\nwhisper'), "whisper"),
        (form("content-disposition: form-data; name=model\r\n\r\nwhisper", FILE), "whisper"),
        (form('Content-Disposition: form-data; name="model"; filename="x"\r\n\r\nb'), None),
        (form(FILE), None),
        (b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhis', None),
    ],
)
@pytest.mark.parametrize("quoted", ["B", '"B"'])
def test_it_finds_it_in_a_form(body: bytes, model: str | None, quoted: str) -> None:
    assert model_of(body, f"multipart/form-data; boundary={quoted}") == model
