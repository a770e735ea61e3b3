"""What engines say is checked where it comes in: numbers, texts, JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.api.engine_errors import engine_error
from llm_router.api.sse import SseRelay
from llm_router.config.schema import Model
from llm_router.engines import ENGINES
from llm_router.engines.base import ProbeAnswer, Repairs, ready, serves_model
from llm_router.engines.tabby import TABBY
from llm_router.engines.values import LONGEST_TEXT, count, cut_text, rate

MODEL = Model(name="m", backend="vllm", service="m.service", port=9000)
NOT_NUMBERS: list[Any] = [None, True, False, "5", [], {}, -1, -0.5, 2**31, 10**400]
NOT_FINITE = [math.nan, math.inf, -math.inf, 1e300]


@pytest.mark.parametrize("value", [*NOT_NUMBERS, *NOT_FINITE, 1.0, 0.5])
def test_what_is_no_count_is_absent(value: Any) -> None:
    assert count(value) is None


@pytest.mark.parametrize("value", [*NOT_NUMBERS, *NOT_FINITE])
def test_what_is_no_rate_is_absent(value: Any) -> None:
    assert rate(value) is None


def test_counts_and_rates_are_taken() -> None:
    assert [count(value) for value in (0, 1, 2**31 - 1)] == [0, 1, 2**31 - 1]
    assert [rate(value) for value in (0, 3, 41.5)] == [0.0, 3.0, 41.5]


def test_a_text_is_cut_and_says_by_how_much() -> None:
    assert cut_text("x" * LONGEST_TEXT) == "x" * LONGEST_TEXT
    assert cut_text("x" * (LONGEST_TEXT + 7)) == "x" * LONGEST_TEXT + "… (7 more characters)"


@pytest.mark.parametrize("value", [10**400, 2**31, -5, 0, True, 1e999, "4096", None])
def test_a_context_length_that_is_no_number_of_tokens_is_unknown(value: Any) -> None:
    assert ready(value).context_length is None
    body = {"data": [{"id": "m", "max_model_len": value}]}
    assert serves_model(ProbeAnswer(200, body), MODEL).context_length is None


@pytest.mark.parametrize("engine", ENGINES.values(), ids=lambda engine: engine.backend)
@pytest.mark.parametrize(
    "body",
    [
        {"data": [{"id": f"model-{number}" * 20} for number in range(10_000)]},
        {"id": "x" * 1_000_000},
        {"data": [{"id": {"deep": ["x"] * 100_000}}, "y", None]},
        {"data": "x" * 1_000_000, "id": 5},
        ["x"] * 100_000,
        {"is_sleeping": "x" * 1_000_000},
    ],
)
def test_no_detail_of_a_probe_is_long(engine: Any, body: Any) -> None:
    """It stands in errors, in ``/health``, in ``/admin/status`` and in the log."""
    for status in (200, 503):
        for probe in engine.probes:
            detail = probe.judge(ProbeAnswer(status, body), MODEL).detail
            assert len(detail) < 2 * LONGEST_TEXT


def test_a_tabbyapi_without_a_models_name_serves_another() -> None:
    (probe,) = TABBY.probes
    assert probe.judge(ProbeAnswer(200, {"id": None}), MODEL).verdict == "wrong"


def relay(**options: Any) -> SseRelay:
    return SseRelay(lambda _: b"", lambda _: {"extra": 1}, **options)


KEYS = st.sampled_from(
    [
        *("choices", "delta", "usage", "timings", "error", "index", "finish_reason", "type", "id"),
        *("response", "text", "content", "reasoning", "tool_calls", "completion_tokens", "data"),
        *("prompt_tokens", "predicted_per_second", "metrics", "tokens_per_second", "meta"),
        *("max_model_len", "n_ctx", "parameters", "max_seq_len", "is_sleeping", "message"),
    ]
)
KINDS = st.sampled_from(["response.completed", "message_stop", "response.x.delta"])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.text(), KINDS
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(KEYS, inner)),
    max_leaves=25,
)


@given(st.lists(VALUES), st.booleans(), st.sampled_from([frozenset(), frozenset({"message_stop"})]))
def test_no_json_of_an_engine_fails_its_stream(
    values: list[Any], drop_usage: bool, ends: frozenset[str]
) -> None:
    made = relay(drop_usage=drop_usage, repairs=Repairs(usage_apart=True), ends=ends)
    for number, value in enumerate(values):
        made.feed(b"data: " + json.dumps(value).encode() + b"\n\n", float(number))
    made.close(100.0)
    rate_ = made.measured.rate
    assert rate_ is None or math.isfinite(rate_)
    assert 0 <= made.measured.tokens < 2**31


@given(VALUES)
def test_no_json_of_an_engine_fails_a_probe(value: Any) -> None:
    for engine in ENGINES.values():
        for probe in engine.probes:
            probe.judge(ProbeAnswer(200, value), MODEL)
        engine.warm_up(MODEL).generated(value)


DEEP = b"data: " + b"[" * 200_000 + b"]" * 200_000 + b"\n\n"
ODD = b'{"id": "c", "choices": [{"index": 0, "delta": {"content": "a"}, "x": %b}], "usage": %b}'


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"1e999"])
@pytest.mark.parametrize("drop_usage", [True, False])
def test_an_event_that_could_not_be_written_again_passes_as_it_came(
    number: bytes, drop_usage: bool
) -> None:
    """The router would write ``Infinity`` for 1e999, which no client can read."""
    for usage in (b"null", b'{"completion_tokens": 3, "x": %b}' % number):
        event = b"data: " + ODD % (number, usage) + b"\n\n"
        made = relay(drop_usage=drop_usage, repairs=Repairs(usage_apart=True))
        assert made.feed(event, 0.0) == event
        assert made.measured.token_events == 1


def test_an_event_that_is_nested_too_deep_passes_as_it_came_and_the_next_is_read() -> None:
    made = relay(drop_usage=True)
    token = b'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "a"}}]}\n\n'
    assert made.feed(DEEP + token, 0.0) == DEEP + token
    assert made.measured.token_events == 1
    assert made.feed(DEEP[:-2], 0.0) == b""
    made.close(0.0)


@pytest.mark.parametrize("number", [10**400, -1, True, 2**31, "9", 1.5])
def test_an_answer_is_measured_by_numbers_that_can_be(number: Any) -> None:
    usage = {"completion_tokens": number, "prompt_tokens": number}
    body = {"choices": [], "usage": usage, "timings": {"predicted_per_second": number}}
    made = relay(drop_usage=True)
    made.feed(b"data: " + json.dumps(body).encode() + b"\n\n", 0.0)
    assert made.measured.tokens == 0
    assert made.measured.prompt_tokens is None
    assert made.measured.engine_rate in (None, 1.5)


def test_a_long_id_is_not_copied_into_the_routers_own_chunks() -> None:
    made = relay(drop_usage=True)
    made.feed(b'data: {"id": "%b", "choices": []}\n\n' % (b"x" * 1_000_000), 0.0)
    assert made.measured.chunk_id is None


@pytest.mark.parametrize(
    "data",
    [
        json.dumps({"error": {"message": "no memory " * 100_000}}).encode(),
        json.dumps({"error": {"message": {"a": ["no memory"] * 100_000}}}).encode(),
        json.dumps({"error": ["no memory"] * 100_000}).encode(),
        json.dumps(["no memory"] * 100_000).encode(),
        b"no memory " * 100_000,
        b"[" * 200_000,
    ],
)
def test_a_refusal_of_an_engine_is_quoted_in_part(data: bytes) -> None:
    """In a stream that has begun it is an event of the router's."""
    message = str(engine_error("m", 500, data))
    assert message.startswith("The engine of 'm' answered 500: ")
    assert len(message) < 2 * LONGEST_TEXT
