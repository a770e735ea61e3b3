"""What balancers ask, and how a router leaves without losing a request."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from .conftest import Router, wait_until

pytestmark = pytest.mark.long


def ask(router: Router, model: str, tokens: int = 2) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": tokens}
    return httpx.post(router.url + "/v1/chat/completions", json=body, timeout=30)


def health(router: Router, model: str | None = None, want: str | None = None) -> int:
    asked = {"model": model, "want": want}
    given = {name: value for name, value in asked.items() if value is not None}
    return httpx.get(router.url + "/health", params=given).status_code


def test_where_a_model_is_can_be_asked(router: Router) -> None:
    models = {
        "a": {**router.standin("a"), "aliases": ["alias"]},
        "b": router.standin("b", load=2),
        "bad": router.standin("bad", fault="exit-while-loading"),
    }
    router.write(models)
    router.start()
    assert health(router, "a") == 503
    assert health(router, "a", "loadable") == 200
    ask(router, "a")
    assert health(router, "a") == health(router, "alias") == 200
    assert health(router, "b") == 503
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(ask, router, "b")
        # the others who want it had better wait here than have it loaded elsewhere
        wait_until(lambda: health(router, "b") == 200, "a model that is loaded counts")
        assert health(router, "a") == 503
        assert answer.result().status_code == 200
    assert ask(router, "bad").status_code == 503
    assert health(router, "bad", "loadable") == 503
    assert httpx.get(router.url + "/health?model=none").json()["error"]["code"] == "model_not_found"
    assert health(router, "a", "nonsense") == 400
    pin = {"model": "b", "seconds": 60}
    assert httpx.post(router.url + "/admin/pin", json=pin).status_code == 200
    assert health(router, "a", "loadable") == 503


def test_a_drained_router_says_so_serves_on_and_tells_when_it_is_idle(router: Router) -> None:
    router.write({"a": router.standin("a", interval=0.05, tokens=400)})
    router.start()
    ask(router, "a")
    assert router.cli("drain").stdout.startswith("drained: ")
    assert router.cli("drain", "--off").stdout == "requests are welcome\n"
    assert router.cli("drain", "--off").stdout == "requests are welcome, as before\n"
    with ThreadPoolExecutor() as pool:
        long = pool.submit(ask, router, "a", 100)
        wait_until(lambda: router.status()["models"]["a"]["in_flight"] == 1, "it is answered")
        late = httpx.post(router.url + "/admin/drain", json={"timeout": 0.2})
        assert late.status_code == 504
        assert late.json()["error"]["code"] == "drain_timeout"
        assert router.health()["status"] == "draining"
        assert [health(router), health(router, "a"), health(router, "a", "loadable")] == [503] * 3
        assert ask(router, "a").status_code == 200
        assert router.cli("drain").returncode == 0
        assert long.done()
    router.stop()
    router.start()
    assert health(router) == 200


def test_a_router_that_is_stopped_gives_notice_and_serves_on(router: Router) -> None:
    router.write({"a": router.standin("a")}, requests={"shutdown_notice": 1.5})
    router.start()
    ask(router, "a")
    assert router.process is not None
    began = time.monotonic()
    router.process.send_signal(signal.SIGTERM)
    wait_until(lambda: health(router) == 503, "it says that it leaves")
    while time.monotonic() < began + 1.2:
        assert ask(router, "a").status_code == 200
    router.process.wait(10)
    assert time.monotonic() - began >= 1.5

    router.write({"a": router.standin("a", load=3)}, requests={"shutdown_notice": 0.5})
    router.start()
    with ThreadPoolExecutor() as pool:
        waits = pool.submit(ask, router, "a")
        wait_until(lambda: router.status()["models"]["a"]["waiting"] == 1, "it waits")
        router.stop()
        # it came before anybody could know
        assert waits.result().status_code == 200

    router.write({"a": router.standin("a")}, requests={"shutdown_notice": 60})
    router.start()
    assert router.cli("drain").returncode == 0
    # whoever drained it has waited already: stop() itself waits half as long
    router.stop()
