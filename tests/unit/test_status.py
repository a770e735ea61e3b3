"""Status lines: which style, what they look like, and that they come out of the history again."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.api import status

BASE = {"id": "x", "created": 1, "model": "m"}
HEAD = "\n".join(
    [
        status.switching("mistral-large-2411-awq"),
        status.loading(10, 180),
        status.loading(20, 180, 44),
        status.loading(67, 180, 44),
        status.waiting("other", 3),
        status.ready(44),
        "",
        "",
    ]
)
FOOT = "\n\n" + status.footer(23.4, 125, 5.3)


def test_the_lines_are_the_promised_ones() -> None:
    assert HEAD.splitlines()[:4] == [
        "🔄 Switching to mistral-large-2411-awq...",
        "⏳ Loading model... 10s / 180s",
        "⏳ Loading model... 20s / ~44s",
        "⏳ Loading model... 67s / 180s",
    ]
    assert status.ready(44) == "✅ Model ready! (44s)"
    assert FOOT.strip() == "⚡ 23.4 tok/s (~125 tokens in 5.3s)"


def assistant(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": HEAD}, {"role": "assistant", "content": content}]


@given(st.text().filter(lambda text: not text.startswith("\n") and not text.endswith("\n")))
def test_what_the_router_added_comes_out_and_nothing_else(answer: str) -> None:
    cleaned, changed = status.strip_status(assistant(HEAD + answer + FOOT))
    assert changed
    assert cleaned[1]["content"] == answer
    assert cleaned[0]["content"] == HEAD


def test_text_in_parts_is_cleaned_too() -> None:
    parts = [{"type": "text", "text": HEAD + "hi" + FOOT}, {"type": "image_url", "image_url": {}}]
    cleaned, _ = status.strip_status(assistant(parts))
    assert cleaned[1]["content"][0] == {"type": "text", "text": "hi"}


@pytest.mark.parametrize(
    "text",
    [
        "The router says 🔄 Switching to x... when it switches.",
        "⚡ 23.4 tok/s (~125 tokens in 5.3s) is fast.",
        "  🔄 Switching to x...\nindented",
        "",
        None,
    ],
)
def test_text_that_only_speaks_of_them_stays(text: str | None) -> None:
    messages = assistant(text)
    cleaned, changed = status.strip_status(messages)
    assert not changed
    assert cleaned == messages


def test_what_is_no_list_of_messages_is_left_to_the_engine() -> None:
    assert status.strip_status("hi") == ("hi", False)
    assert status.strip_status([1, None]) == ([1, None], False)


@pytest.mark.parametrize(
    ("header", "key", "model", "default", "style"),
    [
        (None, None, None, "auto", "event"),
        (None, None, None, "off", "off"),
        (None, None, "event", "off", "event"),
        (None, "reasoning", "event", "off", "reasoning"),
        ("off", "reasoning", "event", "auto", "off"),
        ("auto", "off", None, "off", "event"),
        ("auto", None, None, "content", "event"),
        ("content", "off", None, "off", "content"),
        (None, "content", None, "auto", "content"),
        (None, None, "content", "auto", "content"),
        (None, None, None, "content", "content"),
    ],
)
def test_header_before_key_before_model_before_default(
    header: Any, key: Any, model: Any, default: Any, style: str
) -> None:
    chosen = status.choose_style({}, header=header, key=key, model=model, default=default)
    assert chosen == style


@pytest.mark.parametrize(
    "request_",
    [{"tools": [1]}, {"functions": [1]}, {"response_format": {}, "n": 2}, {"logprobs": 1}],
)
def test_structured_requests_never_get_content(request_: dict[str, Any]) -> None:
    for header in (None, "auto", "content"):
        chosen = status.choose_style(request_, header=header, key=None, model=None, default="auto")
        assert chosen == "event"


def test_empty_tools_are_a_plain_chat() -> None:
    request_ = {"tools": [], "n": 1, "response_format": None}
    assert (
        status.choose_style(request_, header=None, key=None, model=None, default="content")
        == "content"
    )


@pytest.mark.parametrize("style", ["content", "event", "reasoning"])
def test_every_chunk_is_a_whole_one(style: status.Style) -> None:
    raw = status.status_chunk(BASE, style, "line", done=True)
    assert raw.startswith(b"data: ")
    assert raw.endswith(b"\n\n")
    body = json.loads(raw[6:])
    assert {key: body[key] for key in BASE} == BASE
    assert body["object"] == "chat.completion.chunk"
    assert body["choices"][0]["finish_reason"] is None
    assert status.status_chunk(BASE, "off", "line", done=True) == b""


def test_hostile_history_costs_no_time() -> None:
    began = time.perf_counter()
    for text in (
        "\n" * 200_000 + "x",
        "⚡ 1.0 tok/s (~1 tokens in 1.0s)\n" * 20_000 + "x",
        status.switching("a" * 200_000) + "x",
        "⏳ Loading model... " + "1" * 200_000,
    ):
        status.strip_status([{"role": "assistant", "content": text}])
    assert time.perf_counter() - began < 1


def test_a_line_that_goes_on_is_not_the_routers() -> None:
    said = "✅ Model ready! (3s) is what it prints"
    kept, changed = status.strip_status([{"role": "assistant", "content": said}])
    assert kept[0]["content"] == said
    assert not changed


@pytest.mark.parametrize(
    "key", ["json_schema", "grammar", "guided_json", "structured_outputs", "regex", "ebnf"]
)
def test_the_engines_own_ways_to_ask_for_structure_keep_the_text_clean(key: str) -> None:
    style = status.choose_style({key: "x"}, header="content", key=None, model=None, default="auto")
    assert style == "event"
