"""What an event of a stream costs the router: in bytecode and memory, not in seconds.

`make bench` measures; this guards. The same code does the same number of instructions each time,
on any machine and however busy that is; only Python's version changes it. A figure that has moved
on purpose is written anew here, with the reason in the commit.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from llm_router.api import journal
from llm_router.logs import formatter
from llm_router.logs.writer import LineWriter

from .data_path import Stream, chunk

INSTRUCTIONS = {(3, 13): 242.0}
"""Of bytecode for an event that comes by itself."""
LINE = {(3, 13): 1060.0}
"""Of bytecode for the line that the log has of a request."""
EVENTS = 200
SLACK = 0.15


def event(number: int) -> bytes:
    return chunk(
        b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m",'
        b'"choices":[{"index":0,"delta":{"content":"word%d "},"finish_reason":null}]}\n\n' % number
    )


def instructions(run: Callable[[], None]) -> int:
    """How many instructions of bytecode ``run`` takes."""
    count = 0

    def trace(frame: FrameType, what: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if what == "opcode":
            count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


def test_an_events_instructions_are_what_they_were() -> None:
    found = 0.0

    async def main() -> None:
        stream = Stream()

        def events(feed: Callable[[bytes], None]) -> None:
            nonlocal found
            pieces = [event(number) for number in range(EVENTS)]

            def all_of_them() -> None:
                for piece in pieces:
                    feed(piece)

            found = instructions(all_of_them) / EVENTS

        await stream.run([event(0), event(1)], events, [chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"])
        # it was a stream, and all of it went through
        assert len(stream.client.got or b"") > EVENTS * len(event(1))
        ((_, _, tokens, *_),) = stream.answered
        assert tokens == EVENTS + 2

    asyncio.run(main())
    known = INSTRUCTIONS.get(sys.version_info[:2])
    if known is None:
        # other Pythons have other instructions for the same code, but not so many more
        assert found < 1.5 * INSTRUCTIONS[3, 13], found
    else:
        assert found == pytest.approx(known, rel=SLACK)


def test_nothing_is_kept_of_a_stream() -> None:
    """A copy of the answer, or a list of its events, would show here."""
    kept: list[int] = []

    async def main() -> None:
        stream = Stream()

        def events(feed: Callable[[bytes], None]) -> None:
            for number in range(EVENTS):
                feed(event(number))
            stream.client.got = None
            gc.collect()
            tracemalloc.start()
            before, _ = tracemalloc.get_traced_memory()
            for number in range(20 * EVENTS):
                feed(event(number))
            gc.collect()
            kept.append(tracemalloc.get_traced_memory()[0] - before)
            tracemalloc.stop()

        await stream.run([event(0), event(1)], events, [chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"])

    asyncio.run(main())
    assert kept[0] < 20 * EVENTS  # a byte for each event


def test_a_requests_line_in_the_log_costs_what_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    writer = LineWriter(writing)
    writer.setFormatter(formatter("logfmt", journal=True))
    logger = logging.Logger("journal")
    logger.addHandler(writer)
    monkeypatch.setattr(journal, "log", logger)
    monkeypatch.setattr(logging, "_srcfile", None)  # as `log_to_stderr` has it
    exchange: Any = SimpleNamespace(
        model=SimpleNamespace(name="gemma-3-27b"),
        caller=SimpleNamespace(name="webui"),
        path="/v1/chat/completions",
        stream=True,
        queue_seconds=0.5,
        switch_seconds=0.0,
        measured=SimpleNamespace(tokens=128, rate=41.23, first_token=5.25),
        rate=None,
        sent=5.0,
    )

    def one() -> None:
        journal.request_ended("5f0c2a-7", exchange, 200, None, 3.5, "5f0c2a-s1", "127.0.0.1")

    def hundred() -> None:
        for _ in range(100):
            one()
            os.read(reading, 4096)

    one()
    assert os.read(reading, 4096) == (
        b"<6>level=info msg=request id=5f0c2a-7 model=gemma-3-27b status=200 key=webui "
        b"from=127.0.0.1 path=/v1/chat/completions "
        b"stream=true waited=0.5 switch=5f0c2a-s1 ttft=0.25 tokens=128 "
        b"tokens_per_second=41.2 duration=3.5\n"
    )
    found = instructions(hundred) / 100
    os.close(reading)
    os.close(writing)
    known = LINE.get(sys.version_info[:2])
    if known is None:
        assert found < 1.5 * LINE[3, 13], found
    else:
        assert found == pytest.approx(known, rel=SLACK)
