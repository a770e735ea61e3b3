"""An engine's page, and other people's pages, in a real browser at a router without keys."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Error, Page

from .browser import browser
from .conftest import Router
from .test_engine_words import answers, raw_model

pytestmark = pytest.mark.ui
UNLOAD = (
    "fetch('/admin/unload', {method: 'POST', body: '{}'}).finally(() => document.title = 'ran')"
)
NAME = "router.lan"
"""A name of this machine, at which a browser sends no ``Sec-Fetch-Site``, as in a network."""
HTML = f'<html><title>page</title><script>{UNLOAD}</script><img src=x onerror="{UNLOAD}"></html>'
SVG = f'<svg xmlns="http://www.w3.org/2000/svg" onload="{UNLOAD}"><script>{UNLOAD}</script></svg>'
XHTML = f'<html xmlns="http://www.w3.org/1999/xhtml"><script>{UNLOAD}</script></html>'


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with browser(f"--host-resolver-rules=MAP {NAME} 127.0.0.1") as made:
        yield made


@pytest.fixture
def page(chrome: Browser) -> Iterator[Page]:
    context = chrome.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    router = Router(tmp_path_factory.mktemp("served"))
    router.write({name: raw_model(router, name) for name in ("a", "b")})
    router.start()
    answers(router, "a", b"{}", "application/json")
    answers(router, "b", b"\x89PNG", "image/png")
    yield router
    router.stop()


def load(router: Router) -> None:
    httpx.post(router.url + "/admin/switch", json={"model": "a"}, timeout=30).raise_for_status()


def state(router: Router, model: str) -> str:
    return str(router.status()["models"][model]["state"])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (HTML, "text/html"),
        (HTML, "text/html; charset=utf-8"),
        (HTML, None),
        (HTML, "application/json"),
        (HTML, "text/plain"),
        (SVG, "image/svg+xml"),
        (XHTML, "application/xhtml+xml"),
        (XHTML, "text/xml"),
        (HTML, "multipart/x-mixed-replace"),
    ],
)
def test_an_engines_page_runs_nothing(
    served: Router, page: Page, text: str, kind: str | None
) -> None:
    load(served)
    answers(served, "a", text.encode(), kind)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    # bytes are offered for download, and then there is no page
    with contextlib.suppress(Error):
        page.goto(served.url + "/upstream/a/metrics", wait_until="networkidle")
    assert asked
    assert page.title() != "ran"
    assert [url for url in asked if not url.endswith(("/upstream/a/metrics", "favicon.ico"))] == []
    assert state(served, "a") == "loaded"


@pytest.fixture(params=["127.0.0.1", NAME])
def elsewhere(served: Router, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of another site's page, which asks the router all that a page can ask."""
    target = f"http://{request.param}:{served.port}/upstream/b/metrics"
    text = f"""<html><meta name=referrer content=no-referrer><body>
        <img src={target}?img><script src={target}?script></script>
        <link rel=stylesheet href={target}?style><link rel=prefetch href={target}?prefetch>
        <iframe src={target}?frame></iframe><video src={target}?video></video>
        <object data={target}?object></object>
        <form id=form action={target} method=GET target=_self></form>
        <script>
          fetch("{target}?fetch", {{mode: "no-cors"}}).catch(() => 0)
          new EventSource("{target}?events")
          navigator.sendBeacon("{target}?beacon")
        </script></body></html>""".encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_another_sites_page_switches_no_model(served: Router, page: Page, elsewhere: str) -> None:
    load(served)
    asked: list[str] = []
    answered: dict[str, int] = {}
    page.on("request", lambda request: asked.append(request.url))
    page.on("response", lambda answer: answered.update({answer.url: answer.status}))
    page.goto(elsewhere, wait_until="networkidle")
    page.evaluate("document.getElementById('form').submit()")
    page.wait_for_url("**/upstream/b/metrics*")
    page.wait_for_load_state("networkidle")
    assert len({url for url in asked if "/upstream/" in url}) >= 9, asked
    assert {status for url, status in answered.items() if "/upstream/" in url} == {403}
    assert state(served, "b") == "stopped"
    assert state(served, "a") == "loaded"
