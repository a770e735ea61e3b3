"""The relay: the same bytes, whatever the borders; measured; held at its last event."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.api.sse import LONGEST_EVENT, Measured, SseRelay
from llm_router.engines import ENGINES, Repairs

DONE = b"data: [DONE]\n\n"
NO_REPAIRS = Repairs(role=False, done=False, reasoning=False, usage_apart=False)


def content(text: str, **extra: object) -> bytes:
    body = {"id": "e1", "choices": [{"index": 0, "delta": {"content": text}}], **extra}
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()


def usage(tokens: int) -> bytes:
    body = {"id": "e1", "choices": [], "usage": {"completion_tokens": tokens}}
    return f"data: {json.dumps(body)}\n\n".encode()


def chunk(delta: dict[str, object], finish: str | None = None, **extra: object) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps({'id': 'e1', 'choices': [choice], **extra})}\n\n".encode()


def bodies(out: bytes) -> list[dict[str, Any]]:
    """Every event's data that is JSON."""
    lines = [line[5:] for line in out.split(b"\n") if line.startswith(b"data:")]
    return [json.loads(line) for line in lines if b"[DONE]" not in line]


def relay(*, drop: bool = False, words: bytes = b"", **repairs: Any) -> SseRelay:
    made = SseRelay(lambda _: words, lambda m: {"tokens_per_second": m.rate}, drop)
    return replace(made, repairs=Repairs(**repairs) if repairs else NO_REPAIRS)


def run(it: SseRelay, *pieces: bytes, step: float = 1.0) -> bytes:
    out = b"".join(it.feed(piece, index * step) for index, piece in enumerate(pieces))
    return out + it.close(len(pieces) * step)


@given(
    st.lists(
        st.one_of(
            st.text().map(content),
            st.just(b": ping\n\n"),
            st.just(b"data: not json\r\n\r\n"),
            st.just(b"event: x\ndata: {\ndata: }\n\n"),
            st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b"") + b"\n\n"),
        ),
        max_size=12,
    ),
    st.lists(st.integers(0, 2000), max_size=20),
    st.booleans(),
)
def test_bytes_pass_unchanged_whatever_the_borders(
    events: list[bytes], cuts: list[int], final_newline: bool
) -> None:
    whole = b"".join(events) + DONE
    if not final_newline:
        whole = whole.rstrip(b"\n")
    assert run(relay(), *cut_up(whole, cuts)) == whole


def cut_up(whole: bytes, cuts: list[int]) -> list[bytes]:
    borders = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    return [whole[a:b] for a, b in pairwise(borders)]


ODD_EVENTS = st.one_of(
    st.text().map(content),
    st.sampled_from(
        [
            b": ping\n\n",
            b"data: {}\r\n\r\n",
            b"event: x\ndata: {\ndata: }\n\n",
            b'data: {"choices":[],"usage":null}\n\n',
            b'data: {"choices":[]}\n\n',
            b'data: {"choices":[null,{"delta":7}],"usage":{"completion_tokens":1}}\n\n',
            b'data: {"error":{"message":"x"}}\n\n',
            b"\n",
            usage(3),
            chunk({"role": "assistant", "content": ""}),
            chunk({"content": "a"}, usage={"completion_tokens": 2}),
            chunk({"reasoning": "hm \N{THINKING FACE}"}),
            chunk({"reasoning_content": "hm", "content": None}),
            chunk({}, "stop", usage={"completion_tokens": 5}),
            DONE,
        ]
    ),
)


@given(
    st.lists(ODD_EVENTS, max_size=12),
    st.lists(st.integers(0, 2000), max_size=20),
    st.integers(0, 60),
    st.booleans(),
)
def test_repairs_do_the_same_whatever_the_borders(
    events: list[bytes], cuts: list[int], missing: int, drop: bool
) -> None:
    whole = b"".join(events)
    whole = whole[: max(0, len(whole) - missing)]

    def repaired(pieces: list[bytes]) -> bytes:
        it = SseRelay(
            lambda m: b"data: %d tokens\n\n" % m.tokens,
            lambda m: {"seen": m.tokens},
            drop,
            repairs=Repairs(usage_apart=True),
        )
        return b"".join(it.feed(piece, 0.0) for piece in pieces) + it.close(0.0)

    assert repaired(cut_up(whole, cuts)) == repaired([whole])


@given(st.lists(st.text().map(content) | st.just(b": ping\n\n") | st.just(usage(1))))
def test_what_needs_no_repair_is_the_same_but_for_the_usage_chunk(events: list[bytes]) -> None:
    begun = chunk({"role": "assistant"})
    out = run(relay(drop=True, usage_apart=True), begun, *events, DONE)
    assert out == b"".join([begun, *(e for e in events if e != usage(1)), DONE])


def test_the_first_delta_of_each_choice_gets_its_role_once() -> None:
    first = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    other = b'data: {"choices":[{"index":1,"delta":{"role":null,"content":"b"}}]}\n\n'
    out = run(relay(role=True), first, other, first, other)
    roles = [body["choices"][0]["delta"].get("role") for body in bodies(out)]
    assert roles == ["assistant", "assistant", None, None]
    assert out.endswith(first + other)


def test_reasoning_is_given_under_both_names() -> None:
    vllm, others = chunk({"reasoning": "a"}), chunk({"reasoning_content": "b"})
    both = chunk({"reasoning": "c", "reasoning_content": "c"})
    null = chunk({"reasoning_content": None, "content": "d"})
    out = run(relay(role=False), vllm, others, both, null)
    deltas = [body["choices"][0]["delta"] for body in bodies(out)]
    for delta, text in zip(deltas, "abc", strict=False):
        assert delta == {"reasoning": text, "reasoning_content": text}
    assert out.endswith(both + null)


def test_a_repaired_event_keeps_its_other_fields_and_line_ends() -> None:
    lines = [
        b"id: 7",
        b'data: {"choices":[{"index":0,',
        b'data: "delta":{"x":"\xc3\xa9"}}]}',
        b": c",
    ]
    out = run(relay(role=True), b"\r\n".join([*lines, b"", b""]))
    body = b'{"choices": [{"index": 0, "delta": {"x": "\xc3\xa9", "role": "assistant"}}]}'
    assert out == b"id: 7\r\ndata: " + body + b"\r\n: c\r\n\r\n"


def test_usage_beside_the_last_choice_comes_apart_for_who_asked() -> None:
    last = chunk({}, "stop", usage={"completion_tokens": 2})
    out = run(relay(usage_apart=True, role=False), content("a"), content("b"), last, DONE)
    finish, apart = bodies(out)[2:]
    assert finish == {"id": "e1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    assert apart["choices"] == []
    assert apart["usage"] == {"completion_tokens": 2, "tokens_per_second": 1.0}


def test_usage_beside_a_choice_goes_and_the_choice_stays_for_who_did_not_ask() -> None:
    last = chunk({}, "stop", usage={"completion_tokens": 2})
    out = run(relay(drop=True), content("a"), last, DONE)
    assert out == content("a") + chunk({}, "stop") + DONE


def test_usage_in_every_chunk_stays_for_who_asked() -> None:
    every = chunk({"content": "a"}, usage={"completion_tokens": 1})
    assert run(relay(role=False), every, every, DONE) == every + every + DONE


def test_usage_of_another_dialect_is_not_touched() -> None:
    event = b'event: message_delta\ndata: {"delta":{},"usage":{"output_tokens":3}}\n\n'
    assert run(relay(drop=True, done=True), event) == event


def test_an_empty_chunk_after_the_usage_passes() -> None:
    empty = b'data: {"choices":[]}\n\n'
    assert run(relay(drop=True), usage(2), empty, DONE) == empty + DONE


@pytest.mark.parametrize("tail", [b"", b"data: {", b"da", b"\n", b"data: [DON"])
def test_a_whole_answer_without_done_gets_it_and_half_an_event_goes(tail: bytes) -> None:
    it = relay(done=True, role=False, words=b"data: {}\n\n")
    out = run(it, content("a"), chunk({}, "stop") + tail)
    assert out == content("a") + chunk({}, "stop") + b"data: {}\n\n" + DONE
    assert it.measured.finished


def test_an_answer_that_was_cut_gets_no_done_here_but_ends_at_an_event() -> None:
    it = relay(done=True, role=False)
    assert run(it, content("a"), content("b")[:-20]) == content("a")
    assert not it.measured.finished


def test_a_last_event_that_lacks_its_blank_line_gets_it() -> None:
    it = relay(done=True, role=False)
    assert run(it, content("a") + DONE.rstrip()) == content("a") + DONE


def test_an_error_in_the_stream_is_followed_by_done() -> None:
    error = b'data: {"error": {"message": "CUDA"}}\n\n'
    it = relay(done=True, role=False)
    assert run(it, content("a"), error) == content("a") + error + DONE


def test_one_choice_of_two_that_has_not_ended_is_no_answer() -> None:
    other = b'data: {"choices":[{"index":1,"delta":{"content":"b"}}]}\n\n'
    it = relay(done=True, role=False)
    run(it, content("a"), other, chunk({}, "stop"))
    assert not it.measured.answered


def test_last_words_come_once() -> None:
    assert run(relay(words=b"w"), DONE, DONE) == b"w" + DONE + DONE


def test_each_engine_says_what_is_mended() -> None:
    assert ENGINES["tabby"].repairs == Repairs(
        usage_apart=True, ask_for_usage="always", model=True, tools=True, unlimited=True
    )
    assert ENGINES["vllm"].repairs == Repairs(role=False)
    assert ENGINES["vllm"].asks_for_usage


def test_tokens_are_timed_from_the_first_to_the_last_and_counted_by_the_engine() -> None:
    it = relay(drop=True)
    role = b'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\n\n'
    run(it, role, content("a"), content("b"), content("c"), usage(4), DONE)
    measured = it.measured
    assert (measured.first_token, measured.last_token, measured.tokens) == (1.0, 3.0, 4)
    assert measured.rate == 1.5
    assert measured.finished


def test_without_the_engines_count_events_are_counted() -> None:
    it = relay()
    run(it, content("a"), content("b"), DONE)
    assert it.measured.tokens == 2


def test_the_usage_chunk_is_dropped_for_who_did_not_ask() -> None:
    assert run(relay(drop=True), content("a"), usage(2), DONE) == content("a") + DONE


def test_the_usage_chunk_carries_the_rate_for_who_asked() -> None:
    out = run(relay(), content("a"), content("b"), usage(2), DONE)
    chunk = json.loads(out.split(b"\n\n")[2][6:])
    assert chunk["usage"] == {"completion_tokens": 2, "tokens_per_second": 1.0}


def test_last_words_come_right_before_done() -> None:
    out = run(relay(words=b"data: {}\n\n"), content("a"), DONE)
    assert out == content("a") + b"data: {}\n\n" + DONE


def test_tool_calls_are_noticed() -> None:
    it = relay()
    run(it, b'data: {"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}\n\n')
    assert it.measured.tool_calls
    assert not it.measured.finished


def test_one_token_has_no_rate() -> None:
    assert Measured(1.0, 1.0, 1).rate is None


def test_an_endless_event_does_not_fill_memory() -> None:
    it = relay()
    piece = b"x" * (LONGEST_EVENT // 2 + 1)
    assert it.feed(piece, 0.0) == b""
    assert len(it.feed(piece, 0.0)) == 2 * len(piece)
    assert it.close(0.0) == b""


@pytest.mark.parametrize("sizes", [[1], [2, 3], [LONGEST_EVENT - 1, 2], [LONGEST_EVENT + 8]])
@pytest.mark.parametrize("end", [b"\n\n", b"\n\r\n"])
def test_an_event_that_is_too_long_passes_unread_and_the_next_is_read(
    sizes: list[int], end: bytes
) -> None:
    long = b"data: [DONE] " + b"x" * LONGEST_EVENT + end
    whole = long + content("a") + DONE
    cuts = [sizes[0], *(len(long) - size for size in (*sizes, 4, 3, 2, 1) if size < len(long))]
    it = relay(role=True)
    out = run(it, *cut_up(whole, cuts))
    assert out[: len(long)] == long
    assert bodies(out[len(long) :])[0]["choices"][0]["delta"]["role"] == "assistant"
    assert it.measured.finished


def test_a_long_event_in_many_pieces_is_not_searched_again_and_again() -> None:
    it = relay()
    piece = b"x" * 1024
    began = time.process_time()
    for _ in range(LONGEST_EVENT // len(piece) - 1):
        assert it.feed(piece, 0.0) == b""
    assert time.process_time() - began < 2


TIMINGS = {"timings": {"predicted_per_second": 50.0}}
CALL: dict[str, object] = {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([content("a"), content("b")], id="hidden reasoning"),
        pytest.param([chunk(CALL)], id="a tool call that was held back"),
        pytest.param([content("word " * 8) for _ in range(8)], id="stream interval of eight"),
        pytest.param([content("a")], id="all at once"),
    ],
)
def test_the_rate_is_the_engines_or_none_where_events_do_not_show_it(events: list[bytes]) -> None:
    """64 tokens a second apart from what the events show: a wrong number is worse than none."""
    cases: list[tuple[dict[str, Any], float | None]] = [({}, None), (TIMINGS, 50.0)]
    for extra, rate in cases:
        body: dict[str, Any] = {"choices": [], "usage": {"completion_tokens": 64}, **extra}
        it = relay()
        run(it, *events, f"data: {json.dumps(body)}\n\n".encode(), DONE)
        assert it.measured.tokens == 64
        assert it.measured.rate == rate


def test_several_choices_have_their_tokens_counted_together() -> None:
    it = relay()
    it.measured.choices = 2
    both = [{"index": index, "delta": {"content": "x"}} for index in (0, 1)]
    event = f"data: {json.dumps({'choices': both})}\n\n".encode()
    run(it, *[event] * 5, usage(10), DONE)
    assert it.measured.rate == 9 / 4


@pytest.mark.parametrize("number", [True, -1, 2**31, 10**400, 1.5, "7", None])
def test_a_number_of_tokens_that_is_none_is_not_taken(number: object) -> None:
    it = relay()
    counts = {"completion_tokens": number, "prompt_tokens": number}
    body = {"choices": [], "usage": counts, "timings": {"predicted_per_second": math.inf}}
    run(it, content("a"), content("b"), f"data: {json.dumps(body)}\n\n".encode(), DONE)
    assert it.measured.tokens == 2
    assert it.measured.prompt_tokens is None
    assert it.measured.engine_rate is None


@given(st.lists(st.integers(0, 400), max_size=12))
def test_a_stream_whose_lines_end_in_cr_alone_is_read(cuts: list[int]) -> None:
    whole = b"".join([content("a"), b": ping\n\n", content("b"), usage(2), DONE]).replace(
        b"\n", b"\r"
    )
    it = relay(words=b"data: {}\n\n")
    out = b"".join(it.feed(piece, 1.0) for piece in cut_up(whole, cuts))
    assert it.measured.tokens == 2
    assert it.measured.finished
    assert out.endswith(b"data: {}\n\ndata: [DONE]\r\r")
    assert out.startswith(content("a").replace(b"\n", b"\r"))


def test_each_event_of_a_stream_with_cr_alone_goes_out_at_once() -> None:
    it = relay()
    for event in (content("a"), content("b")):
        event = event.replace(b"\n", b"\r")
        assert it.feed(event, 1.0) == event


@pytest.mark.parametrize("cuts", [[], [1], [2], [1, 2], [3], [5]])
def test_a_byte_order_mark_at_the_start_goes(cuts: list[int]) -> None:
    whole = b"\xef\xbb\xbf" + content("a") + content("b") + DONE
    it = relay()
    assert run(it, *cut_up(whole, cuts)) == whole[3:]
    assert it.measured.token_events == 2


def test_one_choice_of_two_that_never_began_is_no_answer() -> None:
    it = relay(done=True)
    it.measured.choices = 2
    assert b"[DONE]" not in run(it, content("a"), chunk({}, "stop"))
    assert not it.measured.answered


@pytest.mark.parametrize("tiny", [b"\n\n", b":\n\n", b"data: {}\n\n"])
def test_a_flood_of_tiny_events_is_read_in_smaller_pieces(tiny: bytes) -> None:
    asked: list[None] = []
    it = replace(relay(), on_many=lambda: asked.append(None))
    assert it.feed(tiny * 10, 0.0) == tiny * 10
    assert asked == []
    assert it.feed(tiny * 1000, 0.0) == tiny * 1000
    assert asked == [None]


@pytest.mark.parametrize(
    "data",
    [
        b"[" + b"[]," * 200_000 + b"1]",
        b"[" * 200_000 + b"]" * 200_000,
        b'{"a":' * 200_000,
        b"\\" * 200_000,
    ],
    ids=["lists", "deep", "objects", "escapes"],
)
def test_an_event_that_takes_long_to_read_passes_unread(data: bytes) -> None:
    event = b"data: " + data + b"\n\n"
    began = time.process_time()
    assert relay().feed(event, 0.0) == event
    assert time.process_time() - began < 0.02


def test_a_long_text_is_read() -> None:
    it = relay()
    text = "a long text, and its lines.\n" * 3000
    it.feed(
        b"data: "
        + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode()
        + b"\n\n",
        0.0,
    )
    assert it.measured.token_events == 1


def test_choices_that_an_engine_invents_are_bounded() -> None:
    it = relay(role=True)
    for index in range(5000):
        it.feed(b'data: {"choices":[{"index":%d,"delta":{"content":"a"}}]}\n\n' % index, 0.0)
    assert len(it.measured.unfinished) <= 4096
    assert len(it._chunks._begun) <= 4096


OF_LLAMACPP = {"predicted_per_second": 41.5, "predicted_n": 2}


def test_what_else_a_dropped_usage_chunk_carries_goes_on() -> None:
    """llama.cpp's ``timings`` came only because the router asked for usage. The chunk has a choice,
    since a client that did not ask for usage reads choices[0] of every chunk."""
    last = {"id": "e1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
    last |= {"choices": [], "usage": {}, "timings": OF_LLAMACPP, "extra": None}
    event = f"data: {json.dumps(last)}\n\n".encode()
    out = run(relay(drop=True), content("a"), event, DONE)
    assert out.startswith(content("a"))
    assert out.endswith(DONE)
    [_, kept] = bodies(out)
    choice = {"index": 0, "delta": {}, "finish_reason": None}
    del last["usage"]
    assert kept == {**last, "choices": [choice]}

    text = f"data: {json.dumps({**last, 'object': 'text_completion', 'usage': {}})}\n\n".encode()
    [kept] = bodies(run(relay(drop=True), text, DONE))
    assert kept["choices"] == [{"index": 0, "text": "", "finish_reason": None}]
    assert kept["timings"] == OF_LLAMACPP


def test_a_dropped_usage_chunk_that_carries_nothing_else_leaves_nothing() -> None:
    known = {"system_fingerprint": "f", "service_tier": "default", "metrics": None}
    last = {"id": "e1", "object": "x", "created": 7, "model": "m", **known}
    event = f"data: {json.dumps({**last, 'choices': [], 'usage': {}})}\n\n".encode()
    assert run(relay(drop=True), event, DONE) == DONE


def test_the_origin_of_an_answer_is_noted_from_its_first_chunk() -> None:
    it = relay()
    run(it, content("a", created=7, system_fingerprint="f"), content("b", created=8), DONE)
    assert (it.measured.created, it.measured.system_fingerprint) == (7, "f")
    strange = relay()
    run(strange, content("a", created="now", system_fingerprint=["f"]), DONE)
    assert (strange.measured.created, strange.measured.system_fingerprint) == (None, None)


@pytest.mark.parametrize(
    "end", ["\n\n", "\n\r", "\n\r\n", "\r\r", "\r\r\n", "\r\n\n", "\r\n\r", "\r\n\r\n"]
)
def test_an_event_ends_with_an_empty_line_whatever_its_line_ends(end: str) -> None:
    last = {"id": "e1", "choices": [], "usage": {"completion_tokens": 2}}
    events = [content("a"), f"data: {json.dumps(last)}\n\n".encode(), content("b"), DONE]
    events = [event.rstrip(b"\n") + end.encode() for event in events]
    for size in (1, 2, 3, 7, 1000):
        whole = b"".join(events)
        pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
        it = relay(drop=True, done=True, role=False, reasoning=False)
        out = run(it, *pieces)
        assert it.measured.finished
        assert it.measured.usage == last["usage"]
        lines = b"".join([events[0], *events[2:]]).split()
        assert out.split() == lines, size


def test_a_chunk_of_another_model_passes_in_no_part() -> None:
    own, foreign = content("a", model="own"), content("b", model_name="foreign")
    it = replace(relay(), model="own")
    assert run(it, own, DONE) == own + DONE
    assert it.measured.stranger is None
    it = replace(relay(), model="own", measured=Measured())
    assert it.feed(foreign + own, 0.0) == b""
    assert it.measured.stranger == "foreign"


def test_a_chunk_names_its_model_where_the_engine_has_another_word_for_it() -> None:
    chunks = bodies(run(relay(model=True), content("a", model_name="m"), content("b", model="o")))
    assert [one["model"] for one in chunks] == ["m", "o"]


def test_the_error_of_a_stream_is_remembered() -> None:
    it = relay()
    run(it, content("a"), b'data: {"error": {"message": "x"}}\n\n', DONE)
    assert (it.measured.failed, it.measured.error) == (True, {"message": "x"})


@pytest.mark.parametrize(
    "event",
    [
        {"type": "error", "error": {"type": "overloaded_error"}},
        {"type": "response.failed", "response": {"error": {"type": "overloaded_error"}}},
    ],
)
def test_the_error_of_a_typed_stream_is_remembered(event: dict[str, Any]) -> None:
    it = replace(relay(), ends=frozenset({"error", "response.failed"}))
    it.feed(f"data: {json.dumps(event)}\n\n".encode(), 0.0)
    assert it.measured.error == {"type": "overloaded_error"}
