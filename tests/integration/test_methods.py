"""HEAD and OPTIONS on every path, redirects, and pages of other origins."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator

import httpx
import pytest
import yaml

from llm_router.api.paths import OPERATIONS

from .conftest import Router
from .scripted_engine import Scripted

PAGE = "https://app.example.org"
KEY = {"authorization": "Bearer good"}
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


def serve(router: Router, *, keys: bool) -> Scripted:
    engine = Scripted(router)
    listen = {"port": router.port, "origins": [PAGE]}
    router.write({"a": engine.entry()}, listen=listen)
    digest = hashlib.sha256(b"good").hexdigest()
    entry = {"name": "k", "sha256": digest, "scopes": ["use", "switch", "admin"]}
    (router.dir / "keys.yml").write_text(yaml.safe_dump({"keys": [entry] if keys else []}))
    engine.whole("200 OK", "content-type: application/json", "access-control-allow-origin: *")
    router.start()
    return engine


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    router = Router(tmp_path_factory.mktemp("guarded"))
    serve(router, keys=True)
    yield router
    router.end()


def get_paths(router: Router) -> list[str]:
    described = httpx.get(router.url + "/openapi.json").json()["paths"]
    paths = [path for path, item in described.items() if "get" in item]
    assert len(paths) > 12
    named = (path.replace("{name}", "a").replace("{path}", "health") for path in paths)
    paths = [path.replace("{model}", "a") for path in named]
    assert not [path for path in paths if "{" in path]
    return [*paths, "/", "/ui", "/ui/", "/openapi.json"]


def test_head_is_answered_where_get_is_with_the_same_status(guarded: Router) -> None:
    for path in get_paths(guarded):
        given = {"model": "a"} if path in ("/admin/plan", "/admin/logs") else {}
        url = guarded.url + path
        with httpx.stream("GET", url, headers=KEY, params=given, timeout=20) as got:
            status, kind = got.status_code, got.headers.get("content-type")
        head = httpx.head(url, headers=KEY, params=given, timeout=5)
        assert (head.status_code, head.headers.get("content-type")) == (status, kind), path
        assert head.content == b""
        assert status in (200, 307), path


def test_a_stream_without_an_end_ends_at_once_for_head_and_the_connection_goes_on(
    guarded: Router,
) -> None:
    ask = "HEAD {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer good\r\n{}\r\n"
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as client:
        for path in ("/admin/events", "/admin/live", "/admin/status"):
            client.sendall(ask.format(path, "").encode())
            got = b""
            while not got.endswith(b"\r\n\r\n"):
                got += client.recv(65536)
            assert got.startswith(b"HTTP/1.1 200"), path
            assert got.count(b"\r\n\r\n") == 1


def test_options_says_what_a_path_takes(guarded: Router) -> None:
    def allowed(path: str) -> set[str]:
        answer = httpx.options(guarded.url + path, headers=KEY)
        assert (answer.status_code, answer.content) == (204, b""), path
        assert "content-length" not in answer.headers
        return set(answer.headers["allow"].split(", "))

    for path in get_paths(guarded):
        assert {"GET", "HEAD", "OPTIONS"} <= allowed(path), path
    for operation in OPERATIONS:
        for path in operation.paths:
            assert allowed(path) == {"POST", "OPTIONS"}
    assert httpx.options(guarded.url + "/nowhere", headers=KEY).status_code == 404
    assert httpx.options(guarded.url + "/v1/models").status_code == 401
    assert httpx.options(guarded.url + "/health").status_code == 204


def test_a_refused_key_is_told_how_to_authenticate(guarded: Router) -> None:
    for method, path in (
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("GET", "/upstream/a/health"),
        ("POST", "/v1/messages"),
    ):
        for headers in ({}, {"authorization": "Bearer bad"}):
            answer = httpx.request(method, guarded.url + path, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"


def test_a_redirect_names_no_scheme_and_no_host(guarded: Router) -> None:
    """Behind a proxy that ends TLS they would be wrong."""
    for path, where in (
        ("/metrics/?a=b", "/metrics?a=b"),
        ("/admin/status/", "/admin/status"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/ui/", "../ui"),
    ):
        method = "POST" if "chat" in path else "GET"
        answer = httpx.request(method, guarded.url + path, headers={**KEY, "host": "x.org"})
        assert (answer.status_code, answer.headers["location"]) == (307, where)
    answer = httpx.get(f"{guarded.url}//evil.example.org/metrics/", headers=KEY)
    assert answer.status_code == 404


def test_a_page_of_a_listed_origin_may_call_with_a_key(guarded: Router) -> None:
    asked = httpx.options(guarded.url + "/v1/chat/completions", headers=PREFLIGHT)
    assert (asked.status_code, asked.content) == (204, b"")
    assert asked.headers["access-control-allow-origin"] == PAGE
    assert "POST" in asked.headers["access-control-allow-methods"].split(", ")
    assert asked.headers["access-control-allow-headers"] == "authorization,content-type"
    assert int(asked.headers["access-control-max-age"]) > 0
    assert "access-control-allow-private-network" not in asked.headers
    local = {**PREFLIGHT, "access-control-request-private-network": "true"}
    asked = httpx.options(guarded.url + "/v1/models", headers=local)
    assert asked.headers["access-control-allow-private-network"] == "true"
    for method, path, status in (
        ("GET", "/v1/models", 200),
        ("GET", "/health", 200),
        ("POST", "/v1/chat/completions", 400),
        ("POST", "/v1/embeddings", 200),
        ("GET", "/nowhere", 404),
        ("GET", "/upstream/a/health", 200),
    ):
        body = {"model": "a"} if "embeddings" in path else None
        url = guarded.url + path
        answer = httpx.request(method, url, json=body, headers={**KEY, "origin": PAGE}, timeout=20)
        assert answer.status_code == status
        assert answer.headers.get_list("access-control-allow-origin") == [PAGE], path
        assert answer.headers["access-control-expose-headers"] == "*"
        assert "access-control-allow-credentials" not in answer.headers
        assert "Origin" in answer.headers.get_list("vary")
    refused = httpx.get(guarded.url + "/v1/models", headers={"origin": PAGE})
    assert refused.status_code == 401, "an origin is no key"
    assert refused.headers["access-control-allow-origin"] == PAGE, "so that the page can say why"


@pytest.mark.parametrize(
    "origin",
    [
        "https://other.example.org",
        "http://app.example.org",
        "https://app.example.org:8443",
        "https://app.example.org.evil.org",
        "null",
        "",
    ],
)
def test_a_page_of_another_origin_may_not(guarded: Router, origin: str) -> None:
    asked = httpx.options(guarded.url + "/v1/models", headers={**PREFLIGHT, "origin": origin})
    assert asked.status_code == 401
    answer = httpx.get(guarded.url + "/v1/models", headers={**KEY, "origin": origin})
    assert answer.status_code == 200
    for one in (asked, answer):
        assert not [name for name in one.headers if name.startswith("access-control-")]
        assert one.headers["vary"] == "Origin"


def test_without_keys_a_listed_origin_is_trusted_and_no_other(router: Router) -> None:
    serve(router, keys=False)
    host = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}
    for origin, status in ((PAGE, 200), ("https://other.example.org", 403)):
        answer = httpx.get(router.url + "/v1/models", headers={**host, "origin": origin})
        assert answer.status_code == status
        assert ("access-control-allow-origin" in answer.headers) == (status == 200)
    asked = httpx.options(router.url + "/v1/models", headers={**PREFLIGHT, **host})
    assert asked.status_code == 204
    image = {"referer": PAGE + "/page", "sec-fetch-site": "cross-site"}
    assert httpx.get(router.url + "/upstream/a/health", headers=image).status_code == 403
