"""The dashboard in a real browser, against a real router."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml
from playwright.sync_api import Browser, expect

from llm_router.api.dashboard import UI

from .browser import Dashboard, browser, weight
from .conftest import Router, wait_until

pytestmark = pytest.mark.ui
BIG, OTHER, SMALL, BROKEN = (
    "mistral-large-2411-awq",
    "monstral-123b-exl2-4bpw",
    "gemma-3-27b-it",
    "phi-4-q8",
)


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with browser() as made:
        yield made


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """Models as an operator may have them, of which BIG answers for long."""
    router = Router(tmp_path_factory.mktemp("served"), module="tests.integration.with_gpus")
    models = {
        BIG: router.standin(BIG, interval=0.05, tokens=2000, first=0.2, load=0.4),
        OTHER: router.standin(OTHER, interval=0.04, tokens=40, load=4.0),
        SMALL: router.standin(SMALL, interval=0.02, tokens=60, load=0.2),
        BROKEN: router.standin(BROKEN, fault="exit-while-loading"),
    }
    router.write(models, scheduler={"max_wait": 0.2, "drain_timeout": 30})
    router.start()
    yield router
    router.stop()


@pytest.fixture
def idle(served: Router) -> Router:
    """The router, when nothing of the test before is left."""
    if served.process is None:
        served.start()
    with httpx.Client(base_url=served.url, timeout=30) as client:
        client.post("/admin/cancel", json={})
        for one in client.get("/admin/requests").json()["requests"]:
            client.delete(f"/admin/requests/{one['id']}")
        client.post("/admin/clear", json={"model": BROKEN})
        client.post("/admin/unload", json={}).raise_for_status()
    return served


@pytest.fixture
def board(chrome: Browser, idle: Router) -> Iterator[Dashboard]:
    """The dashboard, open; in the end it has complained of nothing and asked nobody else."""
    context = chrome.new_context(viewport={"width": 1360, "height": 850})
    made = Dashboard(context.new_page(), idle.url)
    made.open()
    yield made
    context.close()
    assert made.complaints == []
    assert [url for url in made.asked if not url.startswith(idle.url)] == []


class Stream(threading.Thread):
    """A streamed chat that goes on beside a test."""

    def __init__(self, router: Router, model: str, **extra: Any) -> None:
        super().__init__(daemon=True)
        self._url = router.url
        self._body = {
            "model": model,
            "stream": True,
            "messages": [{"role": "user", "content": "x"}],
        }
        self._body |= extra
        self.text = ""
        self.start()

    def run(self) -> None:
        with (
            httpx.Client(timeout=60) as client,
            client.stream("POST", self._url + "/v1/chat/completions", json=self._body) as answer,
        ):
            for part in answer.iter_text():
                self.text += part

    def end(self) -> str:
        self.join(30)
        assert not self.is_alive()
        return self.text


def test_it_loads_from_the_router_alone_and_is_small(board: Dashboard, served: Router) -> None:
    expect(board.page.locator("#models .rows .row")).to_have_count(4)
    expect(board.page.locator("#models .count")).to_have_text("4 configured, 0 loaded")
    for model in (BIG, OTHER, SMALL, BROKEN):
        board.state(model, "stopped")
    assert weight(UI) <= 300_000
    page = httpx.get(served.url + "/")
    assert page.text == httpx.get(served.url + "/ui").text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in policy
    tag = {"if-none-match": page.headers["etag"]}
    assert httpx.get(served.url + "/", headers=tag).status_code == 304
    for strange in ("/ui/none.js", "/ui/%2e%2e", "/ui/%2e%2e%2fserve.py", "/ui/uplot.LICENSE"):
        assert httpx.get(served.url + strange).status_code == 404, strange
    board.is_accessible()


def test_a_switch_from_the_page_while_a_stream_runs(board: Dashboard, served: Router) -> None:
    page = board.page
    stream = Stream(served, BIG, max_tokens=120)
    board.state(BIG, "loaded")
    expect(board.row(BIG)).to_contain_text("1 answered")
    board.press(f"Switch to {OTHER}").click()
    steps = page.locator("#switches .steps li")
    running = page.locator("#switches li[data-state=running]")
    expect(running).to_contain_text(f"Let the answers of {BIG} finish")
    expect(steps).to_have_count(6)
    board.state(OTHER, "loading")
    expect(running).to_contain_text(f"Wait until {OTHER} is ready")
    expect(running).to_contain_text("at most 20 s")
    expect(steps.nth(0)).to_have_attribute("data-state", "done")
    board.shot("switch")
    board.is_accessible()
    board.state(OTHER, "loaded")
    expect(page.locator("#switches h3")).to_have_text(f"Switched to {OTHER}")
    expect(page.locator("#announce")).to_have_text(f"Switched to {OTHER}")
    text = stream.end()
    assert "w119" in text
    assert text.endswith("data: [DONE]\n\n")
    page.get_by_text("Its steps").click()
    told = [step.inner_text().split("\n")[0] for step in steps.all()]
    assert told == [
        f"Let the answers of {BIG} finish",
        f"Stop {BIG}",
        f"Configure the engine for {OTHER}",
        f"Start the engine of {OTHER}",
        f"Wait until {OTHER} is ready",
        f"First token of {OTHER}",
    ]
    board.press(f"Unload {OTHER}").click()
    board.state(OTHER, "stopped")
    assert served.health()["current_model"] is None


def test_a_running_switch_is_cancelled(board: Dashboard, served: Router) -> None:
    board.press(f"Switch to {OTHER}").click()
    board.state(OTHER, "loading")
    board.press("Cancel the switch").click()
    expect(board.page.locator("#switches .switch")).to_contain_text("an operator cancelled")
    board.state(OTHER, "stopped")
    assert served.status()["switches"] == []


def test_requests_in_flight_are_seen_and_cancelled(board: Dashboard, served: Router) -> None:
    streams = [Stream(served, BIG) for _ in range(3)]
    rows = board.page.locator("#requests .rows .row")
    expect(rows.and_(board.page.locator("[data-state=answering]"))).to_have_count(3)
    expect(board.page.locator("#requests .count")).to_have_text("3 answered, 0 waiting")
    first = rows.nth(0)

    def tokens() -> int:
        said = first.locator(".c4").inner_text()
        return int(said) if said.isdigit() else 0

    wait_until(lambda: tokens() > 10, "tokens are counted")
    before = tokens()
    wait_until(lambda: tokens() > before, "and counted on")
    assert 5 < float(first.locator(".c5").inner_text()) < 25
    number = int(first.locator(".c0").inner_text())
    # so that the charts have something to draw
    wait_until(lambda: len(series(served)) >= 4, "the series grows")
    board.shot("requests")
    board.press(f"Cancel request {number}").click()
    expect(rows).to_have_count(2)
    expect(board.page.locator("#recent .rows .row").nth(0)).to_contain_text("503")
    for row in served_requests(served):
        httpx.delete(f"{served.url}/admin/requests/{row['id']}").raise_for_status()
    expect(rows).to_have_count(0)
    expect(board.page.locator("#requests .empty")).to_be_visible()
    for stream in streams:
        assert "request_cancelled" in stream.end()
    recent = httpx.get(served.url + "/admin/recent", params={"limit": 2}).json()["requests"]
    assert [one["status"] for one in recent] == [503, 503]
    assert all(one["tokens"] > 10 and one["ttft"] > 0.1 for one in recent)
    assert all("request" not in one for one in recent)
    assert max(point[1] for point in series(served)) > 20


def series(router: Router) -> list[list[Any]]:
    answer = httpx.get(router.url + "/admin/series").json()
    assert answer["fields"][:2] == ["time", "tokens_per_second"]
    points: list[list[Any]] = answer["points"]
    return points


def served_requests(router: Router) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(router.url + "/admin/requests").json()["requests"]
    return found


def test_the_connection_is_lost_and_regained(board: Dashboard, served: Router) -> None:
    board.press(f"Switch to {SMALL}").click()
    board.state(SMALL, "loaded")
    served.stop()
    expect(board.page.locator("#connection")).to_have_text("connection lost")
    expect(board.page.locator("#banner")).to_contain_text("the last that was known")
    board.shot("lost")
    board.is_accessible()
    served.start()
    board.live()
    expect(board.page.locator("#banner")).to_be_hidden()
    # orderly ends take child engines along: the page shows what is true now
    board.state(SMALL, "stopped")
    board.press(f"Switch to {SMALL}").click()
    board.state(SMALL, "loaded")


def test_what_fails_says_why_and_is_cleared(board: Dashboard, served: Router) -> None:
    board.press(f"Switch to {BROKEN}").click()
    board.state(BROKEN, "failed")
    row = board.row(BROKEN)
    expect(row).to_contain_text("ended while it loaded (exit code 3)")
    expect(board.page.locator("#switches .switch.bad h3")).to_contain_text("failed")
    board.shot("failed")
    board.is_accessible()
    board.press(f"Clear: forget the failures of {BROKEN}").click()
    board.state(BROKEN, "stopped")
    assert "failure" not in served.status()["models"][BROKEN]
    board.press(f"Log of {BROKEN}").click()
    expect(board.page.locator("#log-lines")).to_contain_text("says the stand-in")


def test_a_chat_shows_a_switch_as_a_person_sees_it(board: Dashboard) -> None:
    page = board.page
    page.get_by_label("Model to talk to").select_option(SMALL)
    page.get_by_label("Message").fill("Hello")
    page.get_by_label("Message").press("Enter")
    answer = page.locator("#talk .its .words")
    expect(answer).to_contain_text(f"Switching to {SMALL}...")
    expect(answer).to_contain_text("Model ready!")
    expect(answer).to_contain_text("w59")
    expect(answer).to_contain_text("tok/s")
    expect(page.locator("#recent .rows .row").nth(0)).to_contain_text("200")
    page.emulate_media(color_scheme="dark")
    board.shot("dark")
    board.is_accessible()


def test_on_a_phone(board: Dashboard, served: Router) -> None:
    stream = Stream(served, BIG, max_tokens=60)
    board.page.set_viewport_size({"width": 390, "height": 844})
    board.state(BIG, "loaded")
    board.fits()
    board.press(f"Switch to {OTHER}").click()
    board.state(OTHER, "loading")
    board.fits()
    board.shot("phone")
    board.is_accessible()
    board.state(OTHER, "loaded")
    stream.end()
    board.page.set_viewport_size({"width": 320, "height": 700})
    board.fits()


def test_without_a_mouse(board: Dashboard, served: Router) -> None:
    page = board.page
    focused = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.id"

    def tab_to(name: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate(focused) == name:
                return
        pytest.fail(f"Tab does not come to {name}")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    tab_to(f"Switch to {SMALL}")
    page.keyboard.press("Enter")
    board.state(SMALL, "loaded")
    tab_to(f"Log of {SMALL}")
    page.keyboard.press("Enter")
    expect(page.locator("#log")).to_be_visible()
    board.is_accessible()
    page.keyboard.press("Escape")
    expect(page.locator("#log")).to_be_hidden()
    assert page.evaluate(focused) == f"Log of {SMALL}"
    page.keyboard.press("/")
    page.keyboard.type("monstral")
    expect(page.locator("#models .rows .row")).to_have_count(1)
    tab_to("talk-text")
    page.keyboard.type("Hello")
    page.keyboard.press("Enter")
    expect(page.locator("#talk .its .words")).to_contain_text("w59")


@pytest.fixture
def with_keys(idle: Router) -> Iterator[None]:
    """Keys, which a running router takes over, and is rid of again."""
    keys = {"operator": ["use", "switch", "admin"], "user": ["use", "switch"]}
    listed = [
        {"name": name, "sha256": hashlib.sha256(f"sk-{name}".encode()).hexdigest(), "scopes": may}
        for name, may in keys.items()
    ]
    file = idle.dir / "keys.yml"

    def status() -> int:
        return httpx.get(idle.url + "/admin/status").status_code

    file.write_text(yaml.safe_dump({"keys": listed}))
    wait_until(lambda: status() == 401, "keys are read")
    yield
    file.unlink()
    wait_until(lambda: status() == 200, "keys are gone")


def test_an_admin_key_is_asked_for_and_kept_for_the_tab_alone(
    chrome: Browser, idle: Router, with_keys: None
) -> None:
    context = chrome.new_context()
    board = Dashboard(context.new_page(), idle.url)
    page = board.page
    page.goto(idle.url + "/")
    asks = page.get_by_role("dialog")
    for key, why in (("sk-nobody", "Incorrect API key"), ("sk-user", "lacks the scope 'admin'")):
        expect(asks).to_be_visible()
        asks.get_by_label("Key with the scope").fill(key)
        page.keyboard.press("Enter")
        expect(asks).to_contain_text(why)
    board.is_accessible()
    asks.get_by_label("Key with the scope").fill("sk-operator")
    page.keyboard.press("Enter")
    board.live()
    board.press(f"Switch to {SMALL}").click()
    board.state(SMALL, "loaded")
    assert page.evaluate("Object.keys(localStorage)") == []
    assert page.evaluate("document.cookie") == ""
    assert "sk-operator" not in page.content()
    page.reload()
    board.live()
    # another tab knows nothing of it
    other = Dashboard(context.new_page(), idle.url)
    other.page.goto(idle.url + "/")
    expect(other.page.get_by_role("dialog")).to_be_visible()
    board.press("Forget key").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert board.complaints == []
    context.close()


def test_another_sites_page_can_do_nothing(chrome: Browser, idle: Router) -> None:
    """A page of another origin, in the same browser, and one under a name of its own."""
    page = chrome.new_page()
    page.goto(idle.url.replace("127.0.0.1", "localhost") + "/health")
    body = f'{{"model": "{SMALL}"}}'
    for path in ("/admin/switch", "/v1/chat/completions"):
        page.evaluate(
            "([url, body]) => fetch(url, {method: 'POST', mode: 'no-cors', body})",
            [idle.url + path, body],
        )
    page.close()
    time.sleep(0.5)
    assert idle.health()["current_model"] is None
    assert idle.status()["switches"] == []
    rebound = {"host": f"evil.example.com:{idle.port}"}
    answer = httpx.get(idle.url + "/admin/status", headers=rebound)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_name")
