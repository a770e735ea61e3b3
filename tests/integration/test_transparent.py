"""Answers go on as they came: kinds of streams, and a router that adds nothing."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from .conftest import Router
from .scripted_engine import Scripted

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "a", "messages": [{"role": "user", "content": "hi"}]}
WHOLE = {
    "id": "x",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 5, "total_tokens": 6},
}


def event(text: str | None, *, usage: bool = False, end: str = "\n\n") -> bytes:
    delta = {"role": "assistant", "content": text} if text is not None else {}
    choice = {"index": 0, "delta": delta, "finish_reason": None if text is not None else "stop"}
    body: dict[str, Any] = {"id": "x", "choices": [choice]}
    if usage:
        body = {"id": "x", "choices": [], "usage": WHOLE["usage"]}
    return f"data: {json.dumps(body)}{end}".encode()


DONE = b"data: [DONE]\n\n"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Router, Scripted]]:
    """A router that adds nothing."""
    router = Router(tmp_path_factory.mktemp("bare"))
    engine = Scripted(router)
    router.write({"a": engine.entry()}, status={"style": "off", "usage_rate": False})
    router.start()
    yield router, engine
    router.end()


def test_a_router_that_adds_nothing_to_usage_passes_every_byte(
    bare: tuple[Router, Scripted],
) -> None:
    router, engine = bare
    body = json.dumps(WHOLE, indent=1).encode()
    engine.whole("200 OK", "content-type: application/json", body=body)
    answer = httpx.post(router.url + CHAT, json=BODY, timeout=20)
    assert answer.content == body
    assert "x-llm-router-tokens-per-second" not in answer.headers
    pieces = [event("one "), event("two "), event(None), event(None, usage=True), DONE]
    engine.stream(*pieces, pause=0.01)
    asked = {**BODY, "stream": True, "stream_options": {"include_usage": True}}
    for headers in ({}, {"x-llm-router-status": "event"}):
        answer = httpx.post(router.url + CHAT, json=asked, headers=headers, timeout=20)
        assert answer.content == b"".join(pieces)
    asked = {**BODY, "stream": True}
    headers = {"x-llm-router-status": "event"}
    answer = httpx.post(router.url + CHAT, json=asked, headers=headers, timeout=20)
    assert answer.content == b"".join([*pieces[:3], DONE])


def flushed(router: Router, body: dict[str, Any]) -> tuple[bytes, list[float]]:
    """An answer's bytes with their head, and when each read came."""
    data = json.dumps(body).encode()
    times = []
    got = b""
    with socket.create_connection(("127.0.0.1", router.port), timeout=20) as client:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n"
        client.sendall(head.encode() + b"connection: close\r\n\r\n" + data)
        while part := client.recv(65536):
            times.append(time.monotonic())
            got += part
    return got, times


@pytest.mark.parametrize("stream", [True, False], ids=["asked for", "not asked for"])
@pytest.mark.parametrize("kind", ["application/x-ndjson", "application/jsonl; charset=utf-8", ""])
def test_a_stream_that_is_not_of_events_passes_as_it_comes(
    bare: tuple[Router, Scripted], kind: str, *, stream: bool
) -> None:
    router, engine = bare
    lines = [json.dumps({"n": number}).encode() + b"\n" for number in range(4)]
    engine.stream(*lines, kind=kind or "text/plain", pause=0.2)
    got, times = flushed(router, {**BODY, "stream": stream})
    head, _, rest = got.partition(b"\r\n\r\n")
    assert f"content-type: {kind or 'text/plain'}\r\n".encode() in head + b"\r\n"
    assert rest == b"".join(b"%x\r\n%b\r\n" % (len(line), line) for line in lines) + b"0\r\n\r\n"
    assert times[-1] - times[0] > 0.5, "it was not held back"


def test_a_stream_that_is_cut_off_does_not_look_whole(bare: tuple[Router, Scripted]) -> None:
    router, engine = bare
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n"
    engine.answers(head + b"transfer-encoding: chunked\r\n\r\n3\r\n{}\n\r\n", close=True)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(router.url + CHAT, json={**BODY, "stream": True}, timeout=20)


@pytest.mark.parametrize("kind", ["Text/Event-Stream", "text/event-stream;charset=utf-8"])
@pytest.mark.parametrize("end", ["\n\n", "\r\r", "\r\n\r\n"], ids=["LF", "CR", "CRLF"])
def test_events_are_read_whatever_their_line_ends_and_their_types_case(
    bare: tuple[Router, Scripted], kind: str, end: str
) -> None:
    """The usage that the router asked for is found and taken out."""
    router, engine = bare
    done = f"data: [DONE]{end}".encode()
    pieces = [event("one ", end=end), event("two ", end=end), event(None, end=end)]
    engine.stream(*pieces, event(None, usage=True, end=end), done, kind=kind, pause=0.02)
    got, times = flushed(router, {**BODY, "stream": True})
    assert b"usage" not in got
    text = b"".join(part for part in got.split(b"\r\n") if part.startswith(b"data") or not part)
    for piece in (*pieces, done):
        assert piece.rstrip(b"\r\n") in text
    assert len(times) > 3, "events go out as they come"
    assert got.endswith(b"\r\n0\r\n\r\n")


def test_an_engine_that_forgot_all_kept_connections_is_asked_over_a_new_one(
    bare: tuple[Router, Scripted],
) -> None:
    """Six are kept, and each is reset at its next request: the second attempt must not use one."""
    router, engine = bare
    engine.stream(event("one "), event(None), DONE, pause=0.3)
    asked = {**BODY, "stream": True}
    made = engine.connections()
    with ThreadPoolExecutor(6) as pool:
        url = router.url + CHAT
        six = [pool.submit(httpx.post, url, json=asked, timeout=20) for _ in range(6)]
        assert {answer.result().status_code for answer in six} == {200}
    made = engine.connections() - made
    assert made >= 5, "they are answered at the same time, all but one over a connection of its own"
    engine.forget_connections()
    body = b'{"choices": [{"index": 0}]}'
    engine.whole("200 OK", "content-type: application/json", body=body)
    before = len(engine.asked())
    for _ in range(2):
        answer = httpx.post(router.url + CHAT, json=BODY, timeout=20)
        assert answer.status_code == 200, answer.text
        assert answer.content == body
    assert len(engine.asked()) == before + 2
    assert router.health()["status"] == "healthy"


def test_what_comes_behind_the_end_of_a_stream_goes_on(bare: tuple[Router, Scripted]) -> None:
    router, engine = bare
    behind = [event("late"), b": comment\n\n", DONE, b"data: half"]
    engine.stream(event("one "), event(None), DONE, *behind, pause=0.01)
    answer = httpx.post(router.url + CHAT, json={**BODY, "stream": True}, timeout=20)
    assert answer.content == b"".join([event("one "), event(None), DONE, *behind[:3]])
    assert answer.content.count(b'"error"') == 0


def test_curl_that_offers_http_2_is_answered_by_http_1_1(bare: tuple[Router, Scripted]) -> None:
    """Its body comes behind ``Upgrade: h2c``, and its second request on the same connection."""
    curl = shutil.which("curl")
    if curl is None or "HTTP2" not in subprocess.check_output([curl, "--version"], text=True):
        pytest.skip("no curl with HTTP/2")
    router, engine = bare
    engine.whole("200 OK", "content-type: application/json", body=b'{"choices": [{"index": 0}]}')
    before = len(engine.asked())
    form = " %{http_code} %{http_version} %{num_connects}\n"
    asked = ["-sS", "--http2", "-m", "20", "-w", form, "-d", json.dumps(BODY), router.url + CHAT]
    asked[1:1] = ["-H", "content-type: application/json"]
    done = subprocess.run([curl, *asked, "--next", *asked], capture_output=True, check=True)
    answer = '{"choices": [{"index": 0}]} 200 1.1'
    assert done.stdout.decode() == f"{answer} 1\n{answer} 0\n"
    assert len(engine.asked()) == before + 2
