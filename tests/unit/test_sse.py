"""The relay: the same bytes, whatever the borders; measured; held at its last event."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from llm_router.api.sse import LONGEST_EVENT, Measured, SseRelay

DONE = b"data: [DONE]\n\n"


def content(text: str, **extra: object) -> bytes:
    body = {"id": "e1", "choices": [{"index": 0, "delta": {"content": text}}], **extra}
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()


def usage(tokens: int) -> bytes:
    body = {"id": "e1", "choices": [], "usage": {"completion_tokens": tokens}}
    return f"data: {json.dumps(body)}\n\n".encode()


def relay(*, drop: bool = False, words: bytes = b"") -> SseRelay:
    return SseRelay(lambda _: words, lambda m: {"tokens_per_second": m.rate}, drop)


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
    borders = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    pieces = [whole[a:b] for a, b in pairwise(borders)]
    assert run(relay(), *pieces) == whole


def test_tokens_are_timed_from_the_first_to_the_last_and_counted_by_the_engine() -> None:
    it = relay(drop=True)
    role = b'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\n\n'
    run(it, role, content("a"), content("b"), content("c"), usage(11), DONE)
    measured = it.measured
    assert (measured.first_token, measured.last_token, measured.tokens) == (1.0, 3.0, 11)
    assert measured.rate == 5.0
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
