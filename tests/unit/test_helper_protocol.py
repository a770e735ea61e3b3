"""The helper's protocol: what is a request, and what is none."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.helper.protocol import (
    MAX_LINES,
    MAX_REQUEST,
    VERBS,
    ProtocolError,
    Request,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
)

requests = st.builds(
    Request,
    verb=st.sampled_from(VERBS),
    model=st.text(st.characters(codec="utf-8"), min_size=1, max_size=200),
    timeout=st.none() | st.floats(min_value=0.001, max_value=3600),
)


@given(requests)
def test_a_request_comes_back_as_it_was(request_: Request) -> None:
    assert decode_request(encode_request(request_)) == request_


def test_a_check_comes_back() -> None:
    asked = Request("activate", "m", check=True)
    assert decode_request(encode_request(asked)) == asked
    assert "check" not in json.loads(encode_request(Request("activate", "m")))


def test_lines_come_back() -> None:
    asked = Request("logs", "m", lines=7, since=1764000000.25)
    assert decode_request(encode_request(asked)) == asked


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "has no end"),
        (b'{"verb": "start", "model": "m"}', "has no end"),
        (b"\n", "is not JSON"),
        (b"start m\n", "is not JSON"),
        (b"\xff\xfe\n", "is not JSON"),
        (b"[" * 4000 + b"\n", "is not JSON"),
        (b"[]\n", "is not a JSON object"),
        (b"null\n", "is not a JSON object"),
        (b"{}\n", "verb must be one of activate, prewarm, start, stop, logs"),
        (b'{"verb": "restart", "model": "m"}\n', "verb must be one of"),
        (b'{"verb": ["start"], "model": "m"}\n', "verb must be one of"),
        (b'{"verb": "start"}\n', "model must be a model's name"),
        (b'{"verb": "start", "model": ""}\n', "model must be a model's name"),
        (b'{"verb": "start", "model": 1}\n', "model must be a model's name"),
        (b'{"verb": "start", "model": "' + b"m" * 201 + b'"}\n', "model must be a model's name"),
        (b'{"verb": "start", "model": "m", "unit": "sshd.service"}\n', "unknown field 'unit'"),
        (b'{"verb": "activate", "model": "m", "check": 1}\n', "check must be true or false"),
        (b'{"verb": "start", "model": "m", "check": true}\n', "for activate alone"),
        (b'{"verb": "logs", "model": "m", "lines": 0}\n', "lines must be a whole number"),
        (b'{"verb": "logs", "model": "m", "since": "1 h"}\n', "since must be a number"),
        (b'{"verb": "logs", "model": "m", "since": true}\n', "since must be a number"),
        (b'{"verb": "logs", "model": "m", "since": -1}\n', "since must be a time"),
        (b'{"verb": "logs", "model": "m", "since": NaN}\n', "since must be a time"),
        (b'{"verb": "logs", "model": "m", "since": Infinity}\n', "since must be a time"),
        (b'{"verb": "logs", "model": "m", "lines": 501}\n', f"from 1 to {MAX_LINES}"),
        (b'{"verb": "logs", "model": "m", "lines": true}\n', "lines must be a whole number"),
        (b'{"verb": "logs", "model": "m", "lines": 1.5}\n', "lines must be a whole number"),
        (b'{"verb": "stop", "model": "m", "timeout": 0}\n', "timeout must be more than 0"),
        (b'{"verb": "stop", "model": "m", "timeout": -1}\n', "timeout must be more than 0"),
        (b'{"verb": "stop", "model": "m", "timeout": 1e9}\n', "at most 3600 seconds"),
        (b'{"verb": "stop", "model": "m", "timeout": NaN}\n', "timeout must be more than 0"),
        (b'{"verb": "stop", "model": "m", "timeout": true}\n', "a number of seconds"),
        (b'{"verb": "stop", "model": "m", "timeout": "5"}\n', "a number of seconds"),
        (b'{"verb": "start", "model": "m"}' + b" " * MAX_REQUEST + b"\n", "at most 4096 bytes"),
    ],
)
def test_what_is_no_request_is_refused_in_a_sentence(line: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        decode_request(line)


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_refuse(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_request(line + b"\n")


def test_an_answer_is_one_line_whatever_is_in_it() -> None:
    answer = {"ok": False, "error": "line\nline \ud800 ü"}
    line = encode_answer(answer)
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert decode_answer(line) == answer


@pytest.mark.parametrize("fields", [{}, {"ok": 1}, {"ok": False}, {"ok": False, "error": 3}])
def test_what_is_no_answer_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match="an answer needs ok"):
        decode_answer(json.dumps(fields).encode() + b"\n")
