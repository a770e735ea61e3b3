"""Events that are recognised are measured and passed on exactly as those that are parsed."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_router.api import sse
from llm_router.api.sse import MOST_IN_VAIN, Measured, SseRelay
from llm_router.api.usual import learn
from llm_router.engines import Repairs

from .test_sse import DONE, ODD_EVENTS, chunk, content, cut_up


def body_of(event: bytes) -> dict[str, Any]:
    return dict(json.loads(event[6:]))


def usual_of(event: bytes) -> Any:
    return learn(event, body_of(event))


def seen(measured: Measured) -> tuple[Any, ...]:
    return (
        measured.tokens,
        measured.token_events,
        measured.first_token,
        measured.last_token,
        measured.chunk_id,
        measured.tool_calls,
        measured.finished,
        measured.failed,
        measured.unfinished,
    )


TEXTS = st.one_of(
    st.text(),
    st.sampled_from(['"', "\\", "\n", "\\u0041", '\\"', '"},{"', "", "\u2028", "日本語", "data: "]),
)
TOKENS = st.builds(
    lambda text, escaped: (
        b"data: %b\n\n"
        % json.dumps(
            {"id": "e1", "choices": [{"index": 0, "delta": {"content": text}}], "usage": None},
            ensure_ascii=escaped,
        ).encode()
    ),
    TEXTS,
    st.booleans(),
)


@given(
    st.lists(st.one_of(TOKENS, TOKENS, TOKENS, ODD_EVENTS), max_size=20),
    st.lists(st.integers(0, 3000), max_size=12),
    st.booleans(),
)
@settings(deadline=None)
def test_it_makes_no_difference(events: list[bytes], cuts: list[int], drop: bool) -> None:
    pieces = cut_up(b"".join(events) + DONE, cuts)

    def run(vain: int) -> tuple[bytes, tuple[Any, ...]]:
        it = SseRelay(
            lambda m: b"data: %d\n\n" % m.tokens,
            lambda m: {"seen": m.tokens},
            drop,
            repairs=Repairs(usage_apart=True),
        )
        it._vain = vain
        out = b"".join(it.feed(piece, float(at)) for at, piece in enumerate(pieces))
        return out + it.close(99.0), seen(it.measured)

    assert run(0) == run(MOST_IN_VAIN)


@pytest.mark.parametrize("text", ["b", " ", "\N{GRINNING FACE}", "\\n", '\\"', "\\u00e9", "\x7f"])
def test_another_token_is_recognised(text: str) -> None:
    usual = usual_of(content("a"))
    event = content("@").replace(b"@", text.encode())
    json.loads(event[6:])
    assert usual.run(event * 3, 0) == (3, 3 * len(event))
    assert usual.run(b"x" + event, 1) == (1, 1 + len(event))


def test_one_of_another_kind_between_them_ends_the_run() -> None:
    usual, event, other = usual_of(content("a")), content("b"), chunk({"content": "a"}, "stop")
    assert usual.run(event + other + event, 0) == (1, len(event))
    assert usual.run(event * 2 + DONE, 0) == (2, 2 * len(event))
    assert usual.run(event + content("@").replace(b"@", b"\0") + event, 0) == (1, len(event))


@pytest.mark.parametrize(
    "event",
    [
        content(""),
        content("@").replace(b"@", b"\n"),
        content("@").replace(b"@", b"\\x"),
        content("@").replace(b"@", b"\\"),
        content("@").replace(b"@", b"\xff"),
        content("a", id="e2"),
        content("a")[:-1],
        content("a").replace(b"\n", b"\r\n"),
        chunk({"content": "a"}, "stop"),
        chunk({"content": "a", "tool_calls": [{}]}),
        b": ping\n\n",
    ],
)
def test_what_differs_in_more_than_its_token_is_not(event: bytes) -> None:
    assert usual_of(content("a")).run(event, 0) == (0, 0)


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"choices":[{"delta":{"content":"a","content":"b"}}],"x":"content"}\n\n',
        b'data: {"x":[{"content":"q"}],"choices":[{"delta":{"content":"a"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"a"}}],"text":"b "}\n\n',
    ],
)
def test_the_place_of_the_token_is_proved(event: bytes) -> None:
    usual = usual_of(event)
    other = event.replace(b'"a"}', b'"z"}').replace(b'"b"}', b'"z"}')
    assert usual is not None
    assert usual.run(other, 0) == (1, len(other))
    assert json.loads(other[6:])["choices"][0]["delta"]["content"] == "z"


def test_events_of_two_lines_or_choices_teach_nothing() -> None:
    two = {"choices": [{"delta": {"content": "a"}}, {"delta": {}}]}
    assert learn(b"data: %b\n\n" % json.dumps(two).encode(), two) is None
    assert usual_of(b'data: {"choices":[{"delta":{"content":"a"}}]}\r\n\r\n') is None


def test_one_parse_is_enough_for_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []

    def parse(data: bytes) -> Any:
        parsed.append(data)
        return json.loads(data)

    monkeypatch.setattr(sse, "from_engine", parse)
    it = SseRelay(lambda _: b"", lambda _: {}, False, repairs=Repairs(role=False))
    whole = b"".join(content(f"w{number} ") for number in range(200))
    assert b"".join(it.feed(piece, 0.0) for piece in cut_up(whole, [7000, 15000])) == whole
    assert it.measured.tokens == 200
    assert len(parsed) <= 3


@pytest.mark.parametrize("texts", [20, 5_900])
def test_an_event_with_thousands_of_texts_costs_no_time(texts: int) -> None:
    """Each candidate for the token is a parse of the whole event."""
    event = chunk({"content": "x"})
    event = b'data: {"more": [' + b'{"text": "a"},' * texts + b"{}], " + event[7:]
    body = body_of(event)
    began = time.process_time()
    assert learn(event, body) is None
    assert time.process_time() - began < 0.05
