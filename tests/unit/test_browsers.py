"""Other people's web pages, and a router without keys."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from llm_router.api.browsers import refuse_foreign_pages
from llm_router.api.errors import ApiError

CHAT, SWITCH, STATUS, MODELS, METRICS, UPSTREAM = (
    ("POST", "/v1/chat/completions"),
    ("POST", "/admin/switch"),
    ("GET", "/admin/status"),
    ("GET", "/v1/models"),
    ("GET", "/metrics"),
    ("GET", "/upstream/a/v1/x"),
)


def verdict(what: tuple[str, str], *names: str, **headers: str) -> str | None:
    method, path = what
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    error = None
    try:
        refuse_foreign_pages({"method": method, "path": path}, given, names)
    except ApiError as refusal:
        error = refusal
    if error is None:
        return None
    assert error.status == 403
    assert "listen.names" in str(error)
    code: Any = error.body["error"]["code"]
    return str(code)


@pytest.mark.parametrize("what", [CHAT, SWITCH, STATUS])
@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8002", "[::1]:8002", "192.168.1.5:8002", "localhost:8002", "gpu1", "gpu1.lan:8002"],
)
def test_what_is_no_browser_and_the_routers_own_page_pass(what: tuple[str, str], host: str) -> None:
    assert verdict(what, host=host) is None
    own = f"http://{host}"
    assert verdict(what, host=host, origin=own, sec_fetch_site="same-origin") is None
    assert verdict(what, host=host, origin=own) is None


def test_an_address_is_the_same_in_all_its_forms() -> None:
    for host, origin in (
        ("[0:0:0:0:0:0:0:1]:8002", "http://[::1]:8002"),
        ("[::1]:8002", "http://[0:0:0:0:0:0:0:1]:8002"),
        ("[::1]", "http://[0::1]"),
    ):
        assert verdict(SWITCH, host=host, origin=origin) is None
    for host, origin in (
        ("[::1]:8002", "http://[::1]:8003"),
        ("[::1]:8002", "http://[::2]:8002"),
        ("[::1]:8002", "http://[::1"),
        ("[::1", "http://[::1"),
    ):
        assert verdict(SWITCH, host=host, origin=origin) == "foreign_page"


def test_the_machines_own_name_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "GPU1.example.com")
    assert verdict(STATUS, host="gpu1.example.com:8002") is None
    assert verdict(STATUS, host="gpu2.example.com:8002") == "foreign_name"


@pytest.mark.parametrize("what", [CHAT, SWITCH])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example.com"},
        {"origin": "null"},
        {"origin": "http://localhost:3000"},
        {"sec_fetch_site": "cross-site"},
        {"origin": "http://localhost:3000", "sec_fetch_site": "same-site"},
    ],
)
def test_a_page_from_elsewhere_changes_nothing(
    what: tuple[str, str], headers: dict[str, str]
) -> None:
    assert verdict(what, host="localhost:8002", **headers) == "foreign_page"


def test_a_page_whose_name_was_made_to_point_here_is_refused() -> None:
    own = {"host": "evil.example.com:8002", "origin": "http://evil.example.com:8002"}
    assert verdict(SWITCH, **own, sec_fetch_site="same-origin") == "foreign_name"
    assert verdict(CHAT, **own) == "foreign_name"
    assert verdict(STATUS, host="evil.example.com:8002") == "foreign_name"
    assert verdict(STATUS, host="evil.localhost.example.com") == "foreign_name"


def test_a_program_may_call_the_router_what_it_likes_but_for_administration() -> None:
    assert verdict(CHAT, host="llm.example.com") is None
    for what in (MODELS, METRICS, UPSTREAM):
        assert verdict(what, host="llm.example.com") is None
        assert verdict(what, host="llm.example.com", user_agent="curl/8.5.0") is None
        # Node's fetch
        assert (
            verdict(
                what,
                host="llm.example.com",
                user_agent="node",
                accept_language="*",
                sec_fetch_mode="cors",
            )
            is None
        )


@pytest.mark.parametrize("what", [MODELS, METRICS, UPSTREAM, STATUS, ("HEAD", "/v1/models")])
def test_a_page_from_elsewhere_reads_nothing_and_loads_no_model(what: tuple[str, str]) -> None:
    image = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}
    assert verdict(what, host="127.0.0.1:8002", **image) == "foreign_page"
    # an old browser sends none of these, and a new one none to an address in the network
    old = {"user_agent": "Mozilla/5.0", "referer": "http://evil.example.com/page"}
    assert verdict(what, host="192.168.1.5:8002", **old) == "foreign_page"


@pytest.mark.parametrize("what", [MODELS, METRICS, UPSTREAM, STATUS])
@pytest.mark.parametrize(
    "browser",
    [
        {"user_agent": "Mozilla/5.0"},
        {"accept_language": "de"},
        {"sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
    ],
)
def test_a_browser_that_only_reads_must_use_a_name_that_is_ours(
    what: tuple[str, str], browser: dict[str, str]
) -> None:
    assert verdict(what, host="evil.example.com:8002", **browser) == "foreign_name"


def test_an_image_that_says_nothing_of_its_page_loads_no_model() -> None:
    image = {"user_agent": "Mozilla/5.0", "accept": "image/*"}
    assert verdict(UPSTREAM, host="192.168.1.5:8002", **image) == "foreign_page"
    # what only reads has no effect, and its answer stays closed to the page
    assert verdict(MODELS, host="192.168.1.5:8002", **image) is None
    # a person who typed the address on the machine itself
    typed = {**image, "sec_fetch_site": "none"}
    assert verdict(UPSTREAM, host="127.0.0.1:8002", **typed) is None


def test_names_that_are_listed_are_trusted() -> None:
    names = ("llm.example.com", "chat.example.com")
    assert verdict(STATUS, *names, host="llm.example.com") is None
    page = {"origin": "https://chat.example.com", "sec_fetch_site": "same-site"}
    assert verdict(CHAT, *names, host="llm.example.com", **page) is None
    other = {"origin": "https://other.example.com", "sec_fetch_site": "same-site"}
    assert verdict(CHAT, *names, host="llm.example.com", **other) == "foreign_page"


@pytest.mark.parametrize(
    ("header", "value"),
    [("sec_purpose", "prefetch;prerender"), ("purpose", "prefetch"), ("x_moz", "prefetch")],
)
def test_what_a_browser_fetches_ahead_of_a_person_loads_no_model(header: str, value: str) -> None:
    """Chromium fetches what the address bar completes to, before anybody has pressed Enter."""
    typed = {"host": "127.0.0.1:8002", "sec_fetch_site": "none", "user_agent": "Mozilla/5.0"}
    assert verdict(UPSTREAM, **typed) is None
    assert verdict(UPSTREAM, **typed, **{header: value}) == "foreign_page"
    assert verdict(MODELS, **typed, **{header: value}) is None
