"""Requests of many shapes and answers of many kinds, direct and through the router: what differs is
what docs/api.md says."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llm_router.api.engine_errors import has_form
from llm_router.api.headers import OF_BODY, OF_ORIGIN, OF_STREAM, ROUTERS_OWN

from .conftest import Router
from .scripted_engine import Scripted

CHAT, EMBEDDINGS, OWN = "/v1/chat/completions", "/v1/embeddings", "/upstream/a"
NAMES = st.sampled_from(["x-a", "x-b", "server", "vary", "retry-after", "etag", "cache-control"])
VALUES = st.text("abc019 ,;=/\"'", max_size=20).map(str.strip)
TEXT = st.text(max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes]:
    """A path and a body."""
    path = draw(st.sampled_from([CHAT, EMBEDDINGS, "/v1/completions"]))
    if draw(st.integers(0, 3)) == 0:
        return OWN + path, draw(st.binary(max_size=200))
    body: dict[str, Any] = {"messages": [{"role": "user", "content": draw(TEXT)}]}
    body |= draw(st.dictionaries(st.sampled_from(["x", "prompt", "user", "temperature"]), JSON))
    stream = draw(st.sampled_from([None, True, False]))
    if stream is not None:
        body["stream"] = stream
    # asked for, so that nothing of an answer is the router's
    body |= {"stream_options": {"include_usage": True}} if stream else {}
    return path, json.dumps({**body, "model": "a"}, ensure_ascii=False).encode("utf-8", "replace")


def _event(delta: dict[str, Any], **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": more.pop("finish", None)}
    return f"data: {json.dumps({'id': 'x', 'choices': [choice], **more})}\n\n".encode()


USAGE = b'data: {"id":"x","choices":[],"usage":{"completion_tokens":2},"timings":{"a":1}}\n\n'
EVENT_FIELDS = [("content-type", "text/event-stream")]
EVENTS = st.one_of(
    TEXT.map(lambda text: _event({"role": "assistant", "content": text})),
    st.sampled_from(
        [
            b": comment\n\n",
            b"event: x\r\nid: 1\r\ndata: {}\r\n\r\n",
            b"data: not json\n\n",
            USAGE,
            b"data: [DONE]\n\n",
            _event({}, finish="stop"),
        ]
    ),
)


@st.composite
def answers(draw: st.DrawFn) -> tuple[int, list[tuple[str, str]], list[bytes], str]:
    """Status, fields, pieces of the body, and how the body is framed."""
    status = draw(st.sampled_from([200, 200, 200, 201, 400, 404, 429, 500, 503, 599]))
    fields = draw(st.lists(st.tuples(NAMES, VALUES), max_size=5))
    kinds = ["application/json", "text/event-stream", "application/x-ndjson", "text/plain", ""]
    kind = draw(st.sampled_from(kinds))
    if kind:
        fields.insert(0, ("content-type", kind))
    pieces = draw(st.lists(st.binary(min_size=1, max_size=100), max_size=4))
    if kind == "text/event-stream" and status == 200:
        ending = [_event({}, finish="stop"), b"data: [DONE]\n\n"]
        pieces = [*draw(st.lists(EVENTS, max_size=6)), *ending]
    elif kind == "application/json":
        pieces = [json.dumps(draw(JSON)).encode()]
    return status, fields, pieces, draw(st.sampled_from(["length", "chunked", "close"]))


def parsed(got: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    """An answer's status, fields and body without its framing."""
    head, _, body = got.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    fields = [(name.lower(), value.strip()) for name, _, value in pairs]
    if ("transfer-encoding", "chunked") in fields:
        rest, body = body, b""
        while True:
            size, _, rest = rest.partition(b"\r\n")
            if not (length := int(size, 16)):
                break
            body += rest[:length]
            rest = rest[length + 2 :]
    return int(first.split(" ")[1]), fields, body


def ask(port: int, path: str, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
        client.sendall(head.encode() + b"connection: close\r\n\r\n" + body)
        got = b"".join(iter(lambda: client.recv(65536), b""))
    return parsed(got)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Router, Scripted]]:
    """A router that adds nothing, and its engine."""
    router = Router(tmp_path_factory.mktemp("both"))
    engine = Scripted(router)
    repairs = dict.fromkeys(("role", "done", "reasoning", "usage_apart"), False)
    paths = ["POST /v1/completions", "POST /v1/chat/completions", "POST /v1/embeddings"]
    entry = engine.entry(repairs=repairs, upstream_paths=paths)
    router.write({"a": entry}, status={"style": "off", "usage_rate": False})
    engine.whole("200 OK", "content-type: application/json", body=b"{}")
    router.start()
    assert ask(router.port, CHAT, b'{"model": "a"}')[0] == 200
    yield router, engine
    router.end()


@settings(
    max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(requests(), answers())
@example((CHAT, b'{"model": "a"}'), (200, EVENT_FIELDS, [USAGE, b"data: [DONE]\n\n"], "length"))
def test_an_answer_through_the_router_is_the_engines(
    both: tuple[Router, Scripted],
    request: tuple[str, bytes],
    answer: tuple[int, list[tuple[str, str]], list[bytes], str],
) -> None:
    router, engine = both
    path, body = request
    status, fields, pieces, framing = answer
    lines = [f"{name}: {value}" for name, value in fields]
    whole = b"".join(pieces)
    if framing == "length":
        lines.append(f"content-length: {len(whole)}")
    elif framing == "chunked":
        lines.append("transfer-encoding: chunked")
        pieces = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces] + [b"0\r\n\r\n"]
    head = "\r\n".join([f"HTTP/1.1 {status} X", *lines, "", ""]).encode()
    engine.answers(head, *pieces, close=True)
    direct = ask(engine.port, path.removeprefix(OWN), body)
    sent = engine.asked()[-1]
    through = ask(router.port, path, body)
    got = engine.asked()[-1]
    assert through[0] == direct[0]
    rewritten = direct[0] >= 400 and not path.startswith(OWN) and not has_form(direct[2])
    if rewritten:
        assert json.loads(through[2])["error"]["code"] == "engine_error"
    else:
        assert through[2] == direct[2]
    # what the client sent has reached the engine
    if path.startswith(OWN):
        assert got[2] == sent[2]
    else:
        options = {"stream_options"}
        given, came = json.loads(sent[2]), json.loads(got[2])
        assert {k: came[k] for k in came.keys() - options} == {
            k: given[k] for k in given.keys() - options
        }
    unchanged = path.startswith(OWN) or path == EMBEDDINGS
    relayed = ("content-type", "text/event-stream") in direct[1] and (unchanged or status == 200)
    may_differ = {*ROUTERS_OWN, *OF_ORIGIN, "connection", "transfer-encoding", "content-length"}
    may_differ |= OF_STREAM if relayed else set()
    may_differ |= set() if unchanged else OF_BODY
    may_differ |= {"content-type"} if relayed and not unchanged else set()

    def seen(answer: tuple[int, list[tuple[str, str]], bytes]) -> list[tuple[str, str]]:
        own = "x-llm-router-"
        return [f for f in answer[1] if f[0] not in may_differ and not f[0].startswith(own)]

    if not rewritten:
        assert seen(through) == seen(direct)


PATIENCE = 5.0
"""Seconds until a piece that has not come is one that was held back."""
MAX_LATE = 0.05
"""Seconds by which the router may delay the median piece, beyond the direct way."""


@st.composite
def streams(draw: st.DrawFn) -> tuple[str, str, list[bytes], str, bool]:
    """A path, and what an engine flushes: a type, pieces, a framing, whether its head is first."""
    path = draw(st.sampled_from([CHAT, "/v1/completions", "/v1/embeddings", OWN + CHAT]))
    kinds = ["text/event-stream", "application/x-ndjson", "audio/mpeg", "text/plain"]
    kind = draw(st.sampled_from(kinds))
    if kind == "text/event-stream":
        # whole events: the router may hold half an event until the rest is here
        groups = draw(st.lists(st.lists(EVENTS, min_size=1, max_size=3), min_size=1, max_size=5))
        pieces = [b"".join(group) for group in groups]
        pieces += [_event({}, finish="stop"), b"data: [DONE]\n\n"]
    else:
        pieces = draw(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=6))
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    return path, kind, pieces, framing, draw(st.booleans())


def piece_by_piece(
    port: int, path: str, pieces: list[bytes], engine: Scripted, *, head_first: bool
) -> list[float]:
    """Ask an engine that flushes a piece only when the client has the one before.

    Returns by how many seconds each came later than it was flushed.
    """
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    asked = {"model": "a", "stream": True, "stream_options": {"include_usage": True}}
    client.request("POST", path, json.dumps(asked), {"content-type": "application/json"})
    what, came = "head", []
    try:
        answer = client.getresponse()
        if head_first:
            came.append(time.monotonic())
            engine.go_on()
        for number, piece in enumerate(pieces):
            what, got = f"piece {number}", b""
            while len(got) < len(piece):
                part = answer.read1(len(piece) - len(got))
                assert part, f"{what} was cut off after {got!r}"
                got += part
            came.append(time.monotonic())
            assert got == piece
            engine.go_on()
        assert answer.read() == b""
    except TimeoutError:
        pytest.fail(f"{path}: the {what} of {pieces} was held back")
    finally:
        client.close()
    return [there - sent for there, sent in zip(came, engine.sent_at(), strict=False)]


def test_no_piece_of_an_answer_waits_for_the_next_one(both: tuple[Router, Scripted]) -> None:
    router, engine = both
    late: dict[str, list[float]] = {"direct": [], "through": []}

    @settings(
        max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
    )
    @given(streams())
    def each(stream: tuple[str, str, list[bytes], str, bool]) -> None:
        path, kind, pieces, framing, head_first = stream
        fields = ["HTTP/1.1 200 OK", f"content-type: {kind}"]
        sent, end = list(pieces), [b""]
        if framing == "length":
            fields.append(f"content-length: {sum(map(len, pieces))}")
        elif framing == "chunked":
            fields.append("transfer-encoding: chunked")
            sent = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
            end = [b"0\r\n\r\n"]
        head = "\r\n".join([*fields, "", ""]).encode()
        sent = [head, *sent] if head_first else [head + sent[0], *sent[1:]]
        engine.answers(*sent, *end, close=True, held=True)
        ways = {"direct": (engine.port, path.removeprefix(OWN)), "through": (router.port, path)}
        for way, (port, asked) in ways.items():
            late[way] += piece_by_piece(port, asked, pieces, engine, head_first=head_first)

    each()
    direct, through = (sorted(times)[len(times) // 2] for times in late.values())
    print(f"median of {len(late['through'])} pieces: {direct:.4f} s, {through:.4f} s through")
    assert through < direct + MAX_LATE
