"""Header fields, statuses and kinds of answers: what goes on, and what is an error."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from llm_router.api.headers import OF_CONNECTION, OF_ORIGIN, ROUTERS_OWN, TO_ENGINE

from .conftest import Router
from .scripted_engine import Scripted

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "input": "x"}
ANSWER = b'{"id": "x", "choices": [{"index": 0, "message": {"content": "hello"}}]}'
EVENT = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"w"},"finish_reason":"stop"}]}'
DONE = b"data: [DONE]"


@pytest.fixture(scope="module")
def talked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Router, Scripted]]:
    """A router whose one engine says what a test wrote."""
    router = Router(tmp_path_factory.mktemp("headers"))
    engine = Scripted(router)
    router.write({"a": engine.entry()}, requests={"idle_timeout": 5})
    engine.whole("200 OK", "content-type: application/json", body=ANSWER)
    router.start()
    yield router, engine
    router.end()


def ask(router: Router, path: str = CHAT, **body: Any) -> httpx.Response:
    return httpx.post(router.url + path, json={**BODY, **body}, timeout=20)


def test_an_engine_gets_what_describes_and_traces_a_request_and_nothing_of_its_client(
    talked: tuple[Router, Scripted],
) -> None:
    router, engine = talked
    engine.whole("200 OK", "content-type: application/json", body=ANSWER)
    given = {name: f"the-{name}" for name in TO_ENGINE} | {"content-type": "application/json"}
    secret = {
        "authorization": "Bearer secret",
        "x-api-key": "secret",
        "cookie": "a=secret",
        "x-forwarded-for": "10.1.1.1",
        "accept-encoding": "br",
        "x-llm-router-status": "off",
        "x-unknown": "secret",
    }
    for path in (CHAT, "/v1/messages", "/v1/embeddings", "/upstream/a/v1/chat/completions"):
        httpx.post(router.url + path, json=BODY, headers={**given, **secret}).raise_for_status()
        _, fields, _ = engine.asked()[-1]
        got = dict(fields)
        assert len(got) == len(fields)
        own = {"host", "content-length", "accept-encoding"}
        assert got.pop("accept-encoding") == "identity"
        assert {k: v for k, v in got.items() if k not in own} == given, path
        assert "secret" not in str(fields)


def test_a_query_goes_on(talked: tuple[Router, Scripted]) -> None:
    router, engine = talked
    engine.whole("200 OK", "content-type: application/json", body=ANSWER)
    for path in (CHAT, "/v1/messages", "/v1/embeddings", "/upstream/a/v1/chat/completions"):
        query = "?beta=true&x=%2e%2E&y"
        httpx.post(router.url + path + query, json=BODY).raise_for_status()
        assert engine.asked()[-1][0] == f"POST {path.removeprefix('/upstream/a')}{query} HTTP/1.1"


OTHERS = [("x-own", "1"), ("x-own", "2"), ("server", "mine"), ("warning", '199 - "w"')]
OTHERS += [("openai-processing-ms", "7"), ("cache-control", "max-age=1"), ("vary", "accept")]


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/upstream/a/health", "stream"])
def test_a_client_gets_all_of_an_engines_fields_but_for_those_of_the_rule(
    talked: tuple[Router, Scripted], path: str
) -> None:
    router, engine = talked
    dropped = {*OF_CONNECTION, *ROUTERS_OWN, *OF_ORIGIN, "access-control-allow-origin"}
    dropped |= {"x-llm-router-model", "x-mine"}
    # these would be obeyed
    dropped -= {"connection", "content-type", "transfer-encoding", "upgrade"}
    fields = [f"{name}: engines" for name in sorted(dropped)]
    fields += ["connection: x-mine", *(f"{name}: {value}" for name, value in OTHERS)]
    if path == "stream":
        head = ["HTTP/1.1 200 OK", "content-type: text/event-stream", *fields, "", ""]
        engine.answers("\r\n".join(head).encode() + EVENT + b"\n\n" + DONE + b"\n\n", close=True)
        answer = ask(router, stream=True)
        assert answer.text.endswith("data: [DONE]\n\n")
        ours = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        assert {name: answer.headers[name] for name in ours} == ours
    else:
        etag = ['etag: "e"', "accept-ranges: none"]
        engine.whole("200 OK", "content-type: application/json", *etag, *fields, body=ANSWER)
        method = "GET" if path.startswith("/upstream") else "POST"
        answer = httpx.request(method, router.url + path, json=BODY, timeout=20)
        assert ("etag" in answer.headers) == (path != CHAT), "it may be written anew"
        assert answer.headers["content-type"] == "application/json"
    assert "engines" not in str(answer.headers)
    got = answer.headers.multi_items()
    wanted = [one for one in OTHERS if path != "stream" or one[0] != "cache-control"]
    assert [one for one in got if one in wanted] == wanted
    names = [name for name, _ in got if name != "x-own"]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("HTTP/1.1 600 X\r\ncontent-length: 0", "status 600"),
        ("HTTP/1.1 999 X\r\ncontent-length: 0", "status 999"),
        ("HTTP/1.1 204 No Content\r\ncontent-length: 5", "status 204 and a body"),
        ("HTTP/1.1 204 X\r\ntransfer-encoding: chunked", "status 204 and a body"),
        ("HTTP/1.1 205 X\r\ncontent-length: 5\r\n\r\nhello", "status 205 and a body"),
        ("HTTP/1.1 205 X\r\n\r\nhello", "status 205 and a body"),
        ("HTTP/1.1 307 X\r\nlocation: http://127.0.0.1:1/y\r\ncontent-length: 0", "127.0.0.1:1/y"),
        ("HTTP/1.1 300 X\r\ncontent-length: 0", "follows no redirect"),
        (f"HTTP/1.1 200 OK\r\ncontent-type: {'x' * 50_000}\r\ncontent-length: 0", "header fields"),
        ("HTTP/1.1 200 OK\r\n" + "x: y\r\n" * 100 + "content-length: 0", "101 header fields"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0",
            "transfer encoding 'gzip, chunked'",
        ),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/upstream/a/health"])
def test_a_head_that_cannot_go_on_is_an_error_of_the_api(
    talked: tuple[Router, Scripted], path: str, head: str, said: str
) -> None:
    router, engine = talked
    engine.answers(head.encode() + b"\r\n\r\n", close=True)
    before = len(engine.asked())
    method = "GET" if path.startswith("/upstream") else "POST"
    answer = httpx.request(method, router.url + path, json=BODY, timeout=20)
    assert answer.status_code == 502
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "engine_failed")
    assert said in error["message"]
    assert len(error["message"]) < 600
    assert len(engine.asked()) == before + 1, "nothing is sent again once an answer has begun"


def test_an_answer_that_has_no_body_goes_on_without_one(talked: tuple[Router, Scripted]) -> None:
    router, engine = talked
    for status, head in (
        (204, b"HTTP/1.1 204 No Content\r\n\r\n"),
        (204, b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n"),
        (205, b"HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n"),
    ):
        for path in ("/upstream/a/health", CHAT):
            engine.answers(head)
            with socket.create_connection(("127.0.0.1", router.port), timeout=20) as client:
                body = json.dumps(BODY).encode()
                asked = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
                if path != CHAT:
                    asked, body = f"GET {path} HTTP/1.1\r\nhost: x\r\n", b""
                client.sendall(asked.encode() + b"connection: close\r\n\r\n" + body)
                got = b"".join(iter(lambda: client.recv(65536), b""))
            assert got.startswith(b"HTTP/1.1 %d " % status)
            assert got.endswith(b"\r\n\r\n")
            assert (b"content-length" in got) == (status == 205)
            assert b"transfer-encoding" not in got


def test_an_encoded_answer_is_never_passed_on_unlabelled(talked: tuple[Router, Scripted]) -> None:
    """Nor where the encoding is one of two fields."""
    router, engine = talked
    fields = ["content-type: application/json", "content-encoding: gzip"]
    engine.whole("200 OK", *fields, "content-encoding: identity", body=b"\x1f\x8b")
    answer = ask(router)
    assert answer.status_code == 502
    assert "Content-Encoding: gzip" in answer.json()["error"]["message"]
    with httpx.stream("POST", router.url + "/v1/embeddings", json=BODY) as passed:
        assert b"".join(passed.iter_raw()) == b"\x1f\x8b"
        assert "gzip" in passed.headers.get_list("content-encoding")
