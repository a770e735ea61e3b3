"""What a connection may cost before its caller is known, and what its body may cost afterwards."""

from __future__ import annotations

import hashlib
import json
import resource
import select
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from bench.facts import rss

from .conftest import Router, wait_until

CHAT = "/v1/chat/completions"
MIB = 1024 * 1024
TIMES = {"client_timeout": 1.0, "body_timeout": 1.5}
HELLO = {"model": "a", "messages": [{"role": "user", "content": "hi"}]}
SHORT = {**HELLO, "max_tokens": 2}


def start(router: Router, *keys: str, **requests: Any) -> None:
    router.write(
        {"a": router.standin("a", interval=0.02, tokens=100)}, requests={**TIMES, **requests}
    )
    entries = [
        {
            "name": name,
            "sha256": hashlib.sha256(name.encode()).hexdigest(),
            "scopes": ["use", "switch", "admin"],
        }
        for name in keys
    ]
    if keys:
        (router.dir / "keys.yml").write_text(yaml.safe_dump({"keys": entries}))
    router.start()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """A router with the keys 'one' and 'two'."""
    router = Router(tmp_path_factory.mktemp("edge"))
    start(router, "one", "two", max_body=MIB, max_bodies=2 * MIB)
    yield router
    router.end()


def connect(router: Router) -> socket.socket:
    return socket.create_connection(("127.0.0.1", router.port), timeout=20)


def head(path: str, *fields: str, method: str = "POST", key: str | None = None) -> bytes:
    given = ["host: x", "content-type: application/json", *fields]
    if key is not None:
        given.append(f"authorization: Bearer {key}")
    return "\r\n".join([f"{method} {path} HTTP/1.1", *given, "", ""]).encode()


def answer_of(client: socket.socket) -> bytes:
    """Until the router closes the connection."""
    got = b""
    while data := client.recv(65536):
        got += data
    return got


def flood(client: socket.socket, limit: int) -> int:
    """Send until the router takes no more of it; the bytes that were sent."""
    sent, piece = 0, b"x" * 65536
    client.settimeout(5)
    try:
        while sent < limit:
            sent += client.send(piece)
    except OSError:
        pass
    client.settimeout(20)
    return sent


@pytest.mark.parametrize(
    "path",
    ["/admin/switch", "/admin/reload", "/admin/drain", "/v1/models", "/metrics", "/nowhere"],
)
@pytest.mark.parametrize("framing", ["content-length: 1500000000", "transfer-encoding: chunked"])
def test_without_a_key_no_body_is_read(guarded: Router, path: str, framing: str) -> None:
    with connect(guarded) as client:
        client.sendall(head(path, framing))
        got = answer_of(client)
    assert got.startswith(b"HTTP/1.1 401")
    assert b"\r\nconnection: close\r\n" in got
    assert b"invalid_api_key" in got


@pytest.mark.parametrize("path", ["/admin/switch", CHAT, "/upstream/a/x", "/health"])
def test_a_stranger_who_goes_on_sending_is_cut_off(guarded: Router, path: str) -> None:
    assert guarded.process is not None
    before = rss(guarded.process.pid)
    with connect(guarded) as client:
        client.sendall(head(path, "content-length: 1500000000"))
        began = time.monotonic()
        sent = flood(client, 200 * MIB)
        assert sent < 30 * MIB  # the kernel's buffers on both sides, and what is discarded
        assert time.monotonic() - began < 10
    assert rss(guarded.process.pid) - before < 20


@pytest.mark.parametrize("key", [None, "one"])
@pytest.mark.parametrize("path", [CHAT, "/admin/switch"])
def test_an_early_error_can_be_read_by_a_client_that_still_sends(
    guarded: Router, path: str, key: str | None
) -> None:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    answer = httpx.post(guarded.url + path, content=b"x" * (3 * MIB), headers=headers, timeout=20)
    assert answer.status_code == (401 if key is None else 413)
    assert "error" in answer.json()


def test_a_body_for_the_api_is_small_and_comes_in_time(guarded: Router) -> None:
    admin = {"authorization": "Bearer one", "content-type": "application/json"}
    call = {"dry_run": True}
    reload = guarded.url + "/admin/reload"
    assert httpx.post(reload, json=call, headers=admin).status_code == 200
    padded = json.dumps(call).encode() + b" " * 60_000
    assert httpx.post(reload, content=padded, headers=admin).status_code == 200
    # in pieces, and of unknown length
    pieces = iter([b'{"dry_run"', b": true}"])
    assert httpx.post(reload, content=pieces, headers=admin).status_code == 200
    large = httpx.post(reload, content=padded + b" " * 6000, headers=admin)
    assert large.json()["error"]["code"] == "request_too_large"
    assert large.status_code == 413
    with connect(guarded) as client:
        client.sendall(head("/admin/reload", "content-length: 5000", key="one"))
        began = time.monotonic()
        client.settimeout(0.3)
        got = b""
        while not got and time.monotonic() - began < 10:  # a byte at a time is not in time either
            client.sendall(b" ")
            try:
                got = client.recv(65536)
            except TimeoutError:
                continue
        assert got.startswith(b"HTTP/1.1 408")
        assert 0.8 < time.monotonic() - began < 5


def test_a_trickled_body_has_a_time_for_all_of_it(guarded: Router) -> None:
    with connect(guarded) as client:
        client.sendall(head(CHAT, "content-length: 5000", key="one"))
        began = time.monotonic()
        client.settimeout(0.2)
        got = b""
        while not got and time.monotonic() - began < 10:
            client.sendall(b" ")
            try:
                got = client.recv(65536)
            except TimeoutError:
                continue
        assert got.startswith(b"HTTP/1.1 408")
        assert b"did not come within 1.5 s" in got
        assert 1.3 < time.monotonic() - began < 6


def test_health_and_models_answer_head(guarded: Router) -> None:
    answer = httpx.head(guarded.url + "/health")
    assert answer.status_code == 200
    assert answer.content == b""
    assert answer.headers["content-length"] != "0"
    assert httpx.head(guarded.url + "/v1/models").status_code == 401
    key = {"authorization": "Bearer one"}
    assert httpx.head(guarded.url + "/v1/models", headers=key).status_code == 200
    assert httpx.head(guarded.url + "/admin/events", headers=key).status_code == 200


def test_bodies_are_bounded_together_and_one_key_cannot_use_up_all(guarded: Router) -> None:
    """Two MiB for all, so one for each key."""

    def hold(key: str, size: int) -> socket.socket:
        client = connect(guarded)
        client.sendall(head(CHAT, f"content-length: {size + 1}", key=key) + b" " * size)
        return client

    def refused(client: socket.socket) -> bool:
        return bool(select.select([client], [], [], 0)[0])

    def full() -> bool:
        with hold("one", 200_000) as client:
            client.sendall(b" ")
            got = answer_of_first(client)
        return got.startswith(b"HTTP/1.1 503") and b"bodies_full" in got

    held = hold("one", 900_000)
    for turns in range(50):
        # The bytes that come last are refused, and those may be the first client's: each of its
        # successors is given more turns of the event loop to be read in.
        for _ in range(turns):
            httpx.get(guarded.url + "/health", timeout=20)
        if full() and not refused(held):
            break
        if refused(held):
            held.close()
            held = hold("one", 900_000)
    else:
        pytest.fail("bodies of more than the bound are read")
    with held:
        # the other key has its own part, and strangers none
        answer = httpx.post(
            guarded.url + CHAT,
            json={**SHORT, "pad": "x" * 500_000},
            headers={"authorization": "Bearer two"},
            timeout=30,
        )
        assert answer.status_code == 200
        # the body that is held is given up when its time is over, and its bytes are free again
        assert answer_of(held).startswith(b"HTTP/1.1 408")
    wait_until(lambda: not full(), "bytes are free again")


def test_an_empty_body_in_two_pieces_is_answered(guarded: Router) -> None:
    with connect(guarded) as client:
        client.sendall(head("/admin/reload", "transfer-encoding: chunked", key="one"))
        httpx.get(guarded.url + "/health", timeout=20)  # so the head has been read by itself
        client.sendall(b"0\r\n\r\n")
        assert answer_of_first(client).startswith(b"HTTP/1.1 ")


def answer_of_first(client: socket.socket) -> bytes:
    return client.recv(65536)


@pytest.mark.parametrize("path", [CHAT, "/upstream/a/v1/chat/completions"])
@pytest.mark.parametrize("writes", [1, 2])
def test_a_request_with_an_upgrade_is_answered_once(
    guarded: Router, path: str, writes: int
) -> None:
    """As Java's HttpClient and `curl --http2` send every POST."""
    within = head("/admin/unload", "content-length: 2", key="one") + b"{}"
    body = json.dumps({**SHORT, "pad": within.decode()}).encode()
    request = head(
        path,
        "connection: Upgrade, HTTP2-Settings",
        "upgrade: h2c",
        "http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
        f"content-length: {len(body)}",
        key="one",
    )
    with connect(guarded) as client:
        client.sendall(request + body if writes == 1 else request)
        if writes == 2:
            time.sleep(0.2)
            client.sendall(body)
        client.sendall(head("/health", "connection: close", method="GET"))
        got = answer_of(client)
    assert got.count(b"HTTP/1.1 200 OK") == got.count(b"HTTP/1.1") == 2
    assert b"w0 w1" in got
    assert guarded.requests()[-1]["pad"] == within.decode()


def test_without_a_free_file_descriptor_the_engine_is_not_blamed(router: Router) -> None:
    start(router)
    assert httpx.post(router.url + CHAT, json=SHORT, timeout=30).status_code == 200
    assert router.process is not None
    router_pid, engine_pids = router.process.pid, router.engine_pids()
    with ThreadPoolExecutor(1) as pool:
        # it has the connection that was kept
        long = {**HELLO, "max_tokens": 90}
        other = pool.submit(httpx.post, router.url + CHAT, json=long, timeout=30)
        wait_until(lambda: len(router.requests()) == 2, "the engine answers")
        old = resource.prlimit(router_pid, resource.RLIMIT_NOFILE)
        used = {int(file.name) for file in Path(f"/proc/{router_pid}/fd").iterdir()}
        free = (number for number in range(4096) if number not in used)
        next(free)  # one for the client's connection
        resource.prlimit(router_pid, resource.RLIMIT_NOFILE, (next(free), old[1]))
        try:
            answer = httpx.post(router.url + CHAT, json=SHORT, timeout=30)
        finally:
            resource.prlimit(router_pid, resource.RLIMIT_NOFILE, old)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "out_of_files"
        assert "LimitNOFILE" in answer.json()["error"]["message"]
        assert answer.headers["retry-after"] == "1"
        assert other.result().status_code == 200
    assert "LimitNOFILE" in (router.dir / "router.log").read_text()
    assert httpx.post(router.url + CHAT, json=SHORT, timeout=30).status_code == 200
    assert router.engine_pids() == engine_pids
    assert router.health()["status"] == "healthy"
    metrics = httpx.get(router.url + "/metrics").text
    assert 'llm_router_engines_lost_total{model="a"} 0.0' in metrics


def test_a_full_router_refuses_clearly_and_can_still_be_administered(router: Router) -> None:
    start(router, max_connections=2)
    with connect(router) as one, connect(router) as two:
        for client in (one, two):
            client.sendall(head("/health", method="GET"))
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
        full = httpx.post(router.url + CHAT, json=SHORT)
        assert full.status_code == 503
        assert full.json()["error"]["code"] == "too_many_connections"
        assert full.headers["retry-after"] == "1"
        assert httpx.get(router.url + "/health").status_code == 200
        local = httpx.HTTPTransport(uds=str(router.dir / "admin.sock"))
        with httpx.Client(transport=local, base_url="http://router") as admin:
            assert admin.get("/admin/status").status_code == 200
    assert "requests.max_connections" in (router.dir / "router.log").read_text()
    wait_until(
        lambda: httpx.post(router.url + CHAT, json=SHORT, timeout=30).status_code == 200,
        "connections are accepted again",
    )


@pytest.mark.parametrize("path", ["/health", "/ui", "/nowhere", "/v1/models"])
def test_a_long_query_is_not_parsed(guarded: Router, path: str) -> None:
    answer = httpx.get(f"{guarded.url}{path}?{'a=&' * 9000}", headers={"x-api-key": "one"})
    assert answer.status_code == 414, answer.text
    assert answer.json()["error"]["code"] == "query_too_long"
    assert httpx.get(f"{guarded.url}/health?{'a=&' * 600}").status_code == 200


def test_other_peoples_pages_load_no_model_of_a_router_without_keys(router: Router) -> None:
    start(router)
    image = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    rebound = {"host": "evil.example.com", "user-agent": "Mozilla/5.0"}
    for path in ("/upstream/a/metrics", "/v1/models", "/metrics", "/admin/status"):
        for headers, code in ((image, "foreign_page"), (rebound, "foreign_name")):
            answer = httpx.get(router.url + path, headers=headers)
            assert answer.status_code == 403, path
            assert answer.json()["error"]["code"] == code
    assert router.engine_pids() == {}
    for path in ("/health", "/ui", "/ui/api.js"):
        for headers in (image, rebound):
            assert httpx.get(router.url + path, headers=headers).status_code == 200
    assert httpx.get(router.url + "/v1/models").status_code == 200


def test_a_connection_that_is_over_leaves_nothing_for_a_search(router: Router) -> None:
    """References free it. Cycles of a thousand connections were one long turn for everybody."""
    router.module = "tests.integration.counting_garbage"
    router.write({"a": router.standin("a")})
    router.start()
    assert router.process is not None

    def each(times: int) -> None:
        for _ in range(times):
            for body in (SHORT, {**SHORT, "stream": True}, {"model": "b"}):
                httpx.post(router.url + CHAT, json=body, timeout=20)
            for path in ("/health", "/v1/models", "/no"):
                httpx.get(router.url + path, timeout=20)
            with connect(router) as client:
                client.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert answer_of(client).startswith(b"HTTP/1.1 400")

    def found() -> int:
        before = counts()
        assert router.process is not None
        router.process.send_signal(signal.SIGUSR2)
        wait_until(lambda: len(counts()) > len(before), "garbage is counted")
        return counts()[-1]

    def counts() -> list[int]:
        return (
            [int(line) for line in router.turns.read_text().split()]
            if router.turns.exists()
            else []
        )

    each(2)
    found()
    each(20)
    assert found() < 100
