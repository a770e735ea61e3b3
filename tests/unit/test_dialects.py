"""Streams of named events: measured, passed as they are, and ended in their own way."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llm_router.api.dialects import ANTHROPIC, OPENAI, RESPONSES, Dialect
from llm_router.api.errors import bad_request, refused, unknown_model
from llm_router.api.sse import SseRelay
from llm_router.scheduler.core import Refusal


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


MESSAGE = b"".join(
    [
        event("message_start", message={"usage": {"input_tokens": 3, "output_tokens": 0}}),
        event("content_block_delta", delta={"type": "text_delta", "text": "a"}),
        event("content_block_delta", delta={"type": "text_delta", "text": "b"}),
        event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 7}),
        event("message_stop"),
    ]
)
RESPONSE = b"".join(
    [
        event("response.created", response={"usage": None}),
        event("response.output_text.delta", delta="a"),
        event("response.output_text.delta", delta="b"),
        event("response.completed", response={"usage": {"output_tokens": 7}}),
    ]
)


def relay(dialect: Dialect) -> SseRelay:
    return SseRelay(
        before_done=lambda _: b"never",
        enrich=lambda _: {"never": 1},
        drop_usage=True,
        ends=dialect.ends,
    )


@given(st.sampled_from([(ANTHROPIC, MESSAGE), (RESPONSES, RESPONSE)]), st.integers(1, 40))
def test_they_pass_byte_for_byte_and_are_measured(case: tuple[Dialect, bytes], size: int) -> None:
    dialect, stream = case
    made = relay(dialect)
    out = [made.feed(stream[at : at + size], at) for at in range(0, len(stream), size)]
    assert b"".join(out) + made.close(9) == stream
    assert made.measured.finished
    assert made.measured.tokens == 7
    assert made.measured.token_events == 2


@given(st.sampled_from([(ANTHROPIC, MESSAGE), (RESPONSES, RESPONSE)]), st.data())
def test_one_that_is_cut_ends_with_its_last_whole_event_and_is_not_finished(
    case: tuple[Dialect, bytes], data: st.DataObject
) -> None:
    dialect, stream = case
    made = relay(dialect)
    # the very last bytes are only the end of the event that finishes it
    cut = data.draw(st.integers(0, len(stream) - 5))
    out = made.feed(stream[:cut], 0) + made.close(1)
    assert stream.startswith(out.rstrip(b"\n"))
    assert b"[DONE]" not in out
    assert not made.measured.finished
    for part in out.split(b"\n\n")[:-1]:
        json.loads(part.split(b"\ndata: ")[1])


def test_errors_are_what_each_apis_clients_read() -> None:
    wrong = unknown_model("x", ["a"])
    assert ANTHROPIC.error_body(wrong)["error"]["type"] == "not_found_error"
    failed = refused(Refusal("a", "it broke", log_lines=("last words",)), with_log=True)
    body = ANTHROPIC.error_body(failed)
    assert body["type"] == "error"
    assert body["error"]["type"] == "overloaded_error"
    assert body["error"]["log_lines"] == ["last words"]
    assert ANTHROPIC.error_event(failed).startswith(b"event: error\ndata: {")
    told = json.loads(RESPONSES.error_event(bad_request("no")).split(b"\ndata: ")[1])
    assert told["type"] == "error"
    assert told["message"] == told["error"]["message"] == "no"
    assert OPENAI.error_event(wrong).endswith(b"data: [DONE]\n\n")
