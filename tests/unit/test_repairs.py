"""What is mended outside of a stream: the request, and an answer that comes as a whole."""

from __future__ import annotations

from typing import Any

import pytest

from llm_router.api.repairs import ChunkRepair, ask_for_usage, mend_answer, mend_request
from llm_router.engines import Repairs
from llm_router.engines.base import AsksForUsage


@pytest.mark.parametrize(
    ("how", "stream", "asks"),
    [
        ("never", True, False),
        ("streamed", True, True),
        ("streamed", False, False),
        ("always", True, True),
        ("always", False, True),
    ],
)
def test_usage_is_asked_for_where_the_engine_wants_to_be_asked(
    how: AsksForUsage, stream: bool, asks: bool
) -> None:
    body = {"model": "a", "stream_options": {"continuous_usage_stats": True}}
    asked = ask_for_usage(body, Repairs(ask_for_usage=how), stream=stream)
    expected = {"continuous_usage_stats": True, "include_usage": True}
    assert asked["stream_options"] == (expected if asks else body["stream_options"])
    assert "include_usage" not in str(body)


def test_options_that_are_none_are_no_obstacle() -> None:
    asked = ask_for_usage({"stream_options": None}, Repairs(), stream=True)
    assert asked == {"stream_options": {"include_usage": True}}


def test_an_answers_reasoning_is_given_under_both_names() -> None:
    answer: dict[str, Any] = {
        "choices": [{"message": {"reasoning": "r", "content": "c"}}, {"text": "t"}, None]
    }
    assert mend_answer(answer, Repairs())
    assert answer["choices"][0]["message"]["reasoning_content"] == "r"
    assert not mend_answer(answer, Repairs())


@pytest.mark.parametrize("answer", [{}, {"choices": None}, {"choices": [{"message": None}]}])
def test_strange_answers_are_left_alone(answer: dict[str, Any]) -> None:
    before = repr(answer)
    assert not mend_answer(answer, Repairs())
    assert repr(answer) == before


def test_a_repair_that_is_off_does_nothing() -> None:
    answer = {"choices": [{"message": {"reasoning": "r"}}]}
    assert not mend_answer(answer, Repairs(reasoning=False))


ALL = Repairs(tools=True, unlimited=True)


def test_a_tool_gets_what_it_may_leave_out() -> None:
    whole = {"name": "f", "description": "d", "parameters": {"x": 1}}
    tools = [{"function": {"name": "f", "strict": True}}, {"function": whole}, {"a": 1}, None]
    body: dict[str, Any] = {"messages": [], "tools": tools}
    first, *others = mend_request(body, ALL, stream=True)["tools"]
    parameters = {"type": "object", "properties": {}}
    assert first["function"] == {
        "name": "f",
        "strict": True,
        "description": "",
        "parameters": parameters,
    }
    assert others == tools[1:]
    assert "description" not in str(tools[0])
    assert mend_request(body, Repairs(), stream=True) is body


@pytest.mark.parametrize(
    ("body", "unlimited"),
    [
        ({"prompt": "x"}, True),
        ({"prompt": ["x"], "max_tokens": None, "n": 1}, True),
        ({"prompt": "x", "max_tokens": 3}, False),
        ({"prompt": "x", "max_completion_tokens": 3}, False),
        ({"prompt": "x", "max_length": 3}, False),
        # of several, the engine would take 0 for a limit
        ({"prompt": "x", "n": 2}, False),
        ({"prompt": ["x", "y"]}, False),
        ({"messages": []}, False),
    ],
)
def test_a_streamed_text_has_no_limit_in_the_engines_own_word(
    body: dict[str, Any], unlimited: bool
) -> None:
    assert (mend_request(body, ALL, stream=True).get("max_tokens") == 0) is unlimited
    assert mend_request(body, ALL, stream=False) is body
    assert mend_request(body, Repairs(), stream=True) is body


def test_a_chunk_without_model_object_and_time_gets_them() -> None:
    """79126f9's chats have ``model_name`` alone."""
    repair = ChunkRepair(Repairs(model=True))
    choice = {"index": 0, "delta": {"role": "assistant", "content": "a"}, "finish_reason": None}
    chunk: dict[str, Any] = {"id": "x", "choices": [choice], "model_name": "m"}
    assert repair.mend(chunk)
    assert (chunk["model"], chunk["object"]) == ("m", "chat.completion.chunk")
    assert type(chunk["created"]) is int
    told = {**chunk, "choices": [choice], "object": "text_completion", "created": 5}
    del told["model"]
    assert repair.mend(told)
    assert (told["model"], told["object"], told["created"]) == ("m", "text_completion", 5)
