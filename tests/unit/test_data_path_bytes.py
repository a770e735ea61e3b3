"""A thousand answers: the client reads what the engine sent, and the router's own chunks."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_router.api import sse

from .data_path import Stream, chunk, unchunked
from .test_sse import DONE, bodies, content, cut_up, usage

AS_THEY_ARE = {"role": False, "done": False, "reasoning": False, "usage_apart": False}
FOOTER = re.compile(rb"data: [^\n]*\xe2\x9a\xa1[^\n]*\n\n")
HUGE = 4000
CUTS = st.lists(st.integers(0, 20_000), max_size=30)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """An event stream as engines send them, and as they do not."""
    events = draw(
        st.lists(
            st.one_of(
                st.text().map(content),
                st.integers(0, 99).map(lambda number: content(f"w{number} ")),
                st.text(min_size=1).map(lambda text: content(text).replace(b"\n", b"\r\n")),
                st.text(max_size=20).map(
                    lambda text: b": %b\n\n" % text.encode().replace(b"\n", b"")
                ),
                st.integers(1, 3 * HUGE).map(lambda size: content("\u65e5" * size)),
                st.just(b"event: x\r\nid: 7\r\ndata: {\r\ndata: }\r\n\r\n"),
                st.just(b"data: not json\n\n"),
                st.just(b"\n\n"),
                st.just(usage(7).replace(b'"choices": []', b'"choices": null')),
            ),
            max_size=20,
        )
    )
    whole = b"".join(events) + draw(st.sampled_from([DONE, DONE.replace(b"\n", b"\r\n"), b""]))
    return whole if draw(st.booleans()) else whole.rstrip(b"\r\n")


@given(answers(), CUTS, CUTS, st.sampled_from(["off", "content"]))
@settings(max_examples=1000, suppress_health_check=list(HealthCheck), deadline=None)
def test_the_clients_bytes_are_the_engines(
    whole: bytes, chunks: list[int], reads: list[int], style: str
) -> None:
    sent = b"".join(chunk(part) for part in cut_up(whole, chunks) if part) + b"0\r\n\r\n"

    async def client() -> bytes:
        stream = Stream(style, AS_THEY_ARE)
        await stream.run(cut_up(sent, reads), lambda _: None, [])
        assert stream.client.got is not None
        return unchunked(bytes(stream.client.got))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sse, "LONGEST_EVENT", HUGE)
        got = asyncio.run(client())
    own = FOOTER.findall(got)
    assert len(own) <= (1 if style == "content" and b"[DONE]" in whole else 0)
    assert FOOTER.sub(b"", got) == whole


@pytest.mark.parametrize("style", ["content", "event"])
def test_the_routers_last_chunk_has_the_origin_of_its_neighbours(style: str) -> None:
    of_engine = {"created": 77, "system_fingerprint": "b1-abc"}
    pieces = [chunk(content(f"w{number} ", **of_engine)) for number in range(3)]
    pieces += [chunk(usage(3)), chunk(DONE) + b"0\r\n\r\n"]

    async def client() -> bytes:
        stream = Stream(style, wants_usage=False)
        await stream.run(pieces, lambda _: None, [])
        assert stream.client.got is not None
        return unchunked(bytes(stream.client.got))

    *_, last = bodies(asyncio.run(client()))
    assert {key: last[key] for key in ("id", *of_engine)} == {"id": "e1", **of_engine}
    assert "⚡" in str(last) if style == "content" else "tokens_per_second" in last["usage"]
