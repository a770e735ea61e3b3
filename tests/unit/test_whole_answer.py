"""A whole answer is measured and mended without being read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_router.api.repairs import mend_answer
from llm_router.api.whole_answer import WORTH_IT, WholeAnswer
from llm_router.engines.base import Repairs

LONG = "x" * 100
PAD = {"system_fingerprint": "p" * WORTH_IT}
"""With it an answer is split, without it read."""


def answer_of(message: dict[str, Any], **more: Any) -> dict[str, Any]:
    usage = {"completion_tokens": 5, "prompt_tokens": 1}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {"id": "1", "model": "m", "choices": choices, "usage": usage, **more}


@pytest.mark.parametrize("pad", [{}, PAD], ids=["short", "long"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("repairs", [Repairs(), Repairs(reasoning=False)])
@pytest.mark.parametrize(
    "body",
    [
        answer_of({"content": LONG}),
        answer_of({"content": "é🔄"}, timings={"predicted_per_second": 7.5}),
        answer_of({"content": LONG, "reasoning": "r"}),
        answer_of({"content": LONG, "reasoning_content": "r"}),
        answer_of({"content": LONG, "reasoning_content": "r", "reasoning": "r"}),
        answer_of({"content": '"reasoning": 1' + LONG}),
        {"choices": [], "usage": None},
        {"choices": [{"message": {"reasoning": "r"}}]},
        {},
        {"model": "\ud800" + LONG, "choices": [{"message": {"reasoning": "\ud800"}}]},
    ],
)
def test_an_answer_is_changed_as_if_it_were_read(
    body: dict[str, Any], repairs: Repairs, encoding: str, pad: dict[str, str]
) -> None:
    body = {**body, **pad}
    raw = json.dumps(body, ensure_ascii=encoding == "utf-8").encode(encoding, "surrogatepass")
    wanted = json.loads(raw)
    answer = WholeAnswer(raw)
    assert answer.mend(repairs) == mend_answer(wanted, repairs)
    answer.changed("usage", {"a": 1})
    assert json.loads(answer.written()) == {**wanted, "usage": {"a": 1}}
    for name in ("model", "timings"):
        assert answer.body.get(name) == wanted.get(name)
    assert (answer.body.get("choices") == []) == (wanted.get("choices") == [])


def test_what_is_not_changed_stays_as_the_engine_wrote_it() -> None:
    pad = b'"x": "%b"' % (b"p" * WORTH_IT)
    choices = b'[{"index": 0,  "logprobs": [1.10, -0.0, 1E2], "message": {"content": "\\u00e9"}}]'
    data = b'{"choices":' + choices + b',"usage":{"completion_tokens":1},' + pad + b"}"
    answer = WholeAnswer(data)
    assert not answer.mend(Repairs())
    answer.changed("usage", 1)
    assert answer.written() == b'{"choices": ' + choices + b', "usage": 1, ' + pad + b"}"


@pytest.mark.parametrize(
    "data",
    [b"", b"[1]", b"{", b'{"a": 1} x', b'{"a": "\xff"}', b"<html>", b"null", b'{"usage": [1,]}'],
)
@pytest.mark.parametrize("pad", [b"", b" " * WORTH_IT])
def test_what_is_not_an_answer_is_an_error(data: bytes, pad: bytes) -> None:
    data += pad
    with pytest.raises(ValueError):
        WholeAnswer(data)


def test_numbers_that_json_has_not_are_not_written_again() -> None:
    answer = WholeAnswer(b'{"choices": [NaN], "usage": {}}')
    answer.changed("usage", {})
    with pytest.raises(ValueError):
        answer.written()
