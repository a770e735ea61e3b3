"""An engine's errors and odd answers, as clients, log and metrics have them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from .conftest import Router, free_port, wait_until
from .test_engines import ANSWER, CHAT, engine, stream, text_of
from .test_switch import ask, events

pytestmark = pytest.mark.contracts

COMPLETIONS = "/v1/completions"
TOOL = {"type": "function", "function": {"name": "now"}}
SAYS = """
import http.server, json, sys
ANSWERS = {
    "detail": (422, "application/json", {"detail": [{"loc": ["body", "n"], "msg": "too many"}]}),
    "sentence": (400, "application/json", {"detail": "No such template."}),
    "text": (500, "text/plain", "Internal Server Error"),
    "page": (502, "text/html", "<html>" + "x" * 100000),
    "empty": (500, "text/plain", ""),
    "flat": (400, "application/json", {"object": "error", "message": "too long", "code": 400}),
    "openai": (400, "application/json", {"error": {"message": "m", "type": "t", "own": 1}}),
    "key": (401, "application/json", {"error": {"message": "Unauthorized"}}),
    "forbidden": (403, "text/plain", "Forbidden"),
}
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass
    def answer(self, status, kind, body):
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", len(data))
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        self.answer(200, "application/json", {"data": [{"id": "says"}]})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(*ANSWERS[body["user"]])
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
"""An engine that answers each request with the error that its ``user`` names."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    router = Router(tmp_path_factory.mktemp("errors"))
    program, port = router.dir / "says.py", free_port()
    program.write_text(SAYS)
    says = {"command": [sys.executable, str(program), port], "port": port, "warm_up": False}
    router.write(
        {
            "says": {"backend": "command", "group": "other", **says},
            "tabby": engine(router, "tabby", "tabby"),
            "old": engine(router, "tabby", "old", flags="exl2"),
            "fails": engine(router, "tabby", "fails", fault="error-mid-stream"),
        }
    )
    router.start()
    yield router
    router.end()


def log_line(router: Router, identity: str) -> dict[str, str]:
    """The line of a request, by its id."""
    lines = (router.dir / "router.log").read_text().splitlines()
    line = next(line for line in lines if f"msg=request id={identity} " in line)
    return dict(re.findall(r"(\w+)=(\S+)", line))


def counted(router: Router, model: str, status: int) -> float:
    """How many requests for ``model`` ended so, by the metrics."""
    found = re.findall(
        rf'llm_router_requests_total{{model="{model}",path="[^"]*",status="{status}"}} (\S+)',
        httpx.get(router.url + "/metrics").text,
    )
    return sum(map(float, found))


@pytest.mark.parametrize("style", ["content", "event", "off"])
def test_an_error_in_a_stream_is_a_failed_request_without_a_footer(
    served: Router, style: str
) -> None:
    before = counted(served, "fails", 502), counted(served, "fails", 200)
    answer = httpx.post(
        served.url + CHAT,
        json={"model": "fails", "messages": [], "stream": True, "max_tokens": 5},
        headers={"x-llm-router-status": style},
        timeout=30,
    )
    assert answer.text.count('"error"') == answer.text.count("[DONE]") == 1
    assert "tok/s" not in answer.text
    assert "tokens_per_second" not in answer.text
    after = counted(served, "fails", 502), counted(served, "fails", 200)
    assert (after[0] - before[0], after[1] - before[1]) == (1, 0)
    line = log_line(served, answer.headers["x-request-id"])
    assert (line["status"], line["error"]) == ("502", "engine_error")


@pytest.mark.parametrize(
    ("how", "status", "message"),
    [
        ("detail", 422, "body.n: too many"),
        ("sentence", 400, "No such template."),
        ("text", 500, "Internal Server Error"),
        ("page", 502, "<html>xx"),
        ("empty", 500, "The engine of 'says' answered 500."),
        ("flat", 400, "too long"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/v1/messages"])
def test_an_engines_error_has_the_form_of_its_api(
    served: Router, path: str, how: str, status: int, message: str
) -> None:
    asked = {"model": "says", "messages": [], "input": "x", "user": how}
    answer = httpx.post(served.url + path, json=asked, timeout=30)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert message in error["message"]
    assert len(answer.content) < 1000
    client_fault = "invalid_request_error"
    kind = "api_error" if path == "/v1/messages" else "server_error"
    assert error["type"] == (client_fault if status < 500 else kind)
    assert error["code"] == "engine_error"
    assert "detail" not in answer.json()


def test_an_engines_error_in_openais_form_passes_as_it_is(served: Router) -> None:
    answer = httpx.post(
        served.url + CHAT, json={"model": "says", "messages": [], "user": "openai"}, timeout=30
    )
    assert answer.status_code == 400
    assert answer.json() == {"error": {"message": "m", "type": "t", "own": 1}}


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/upstream/says/v1/chat/completions"])
@pytest.mark.parametrize("how", ["key", "forbidden"])
def test_a_key_that_the_engine_refuses_is_no_fault_of_the_client(
    served: Router, path: str, how: str
) -> None:
    asked = {"model": "says", "messages": [], "input": "x", "user": how}
    answer = httpx.post(served.url + path, json=asked, timeout=30)
    assert answer.status_code == 502
    error = answer.json()["error"]
    assert error["code"] == "engine_refused_key"
    assert "refused the router's key" in error["message"]
    assert str(served.dir) not in error["message"]
    assert "it was shown no key" in (served.dir / "router.log").read_text()


def test_the_openai_library_reads_a_refused_request(served: Router) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="too many") as caught:
        served.client().chat.completions.create(model="says", messages=[], user="detail")
    assert caught.value.code == "engine_error"


def test_a_tool_needs_no_description_and_no_parameters(served: Router) -> None:
    answer = ask(served, "tabby", tools=[TOOL])
    assert answer.status_code == 200, answer.text
    sent = served.requests()[-1]["tools"][0]["function"]
    assert sent == {
        "name": "now",
        "description": "",
        "parameters": {"type": "object", "properties": {}},
    }


def test_a_streamed_text_needs_no_max_tokens(served: Router) -> None:
    chunks = stream(served, "tabby", COMPLETIONS)
    assert "".join(c["text"] for chunk in chunks[:-1] for c in chunk["choices"]) == ANSWER


@pytest.mark.parametrize(
    ("model", "path"), [("tabby", COMPLETIONS), ("old", COMPLETIONS), ("old", CHAT)]
)
def test_every_chunk_names_its_model(served: Router, model: str, path: str) -> None:
    chunks = stream(served, model, path, max_tokens=5, stream_options={"include_usage": True})
    assert {chunk["model"] for chunk in chunks[:-1]} == {model}


def shared(router: Router) -> tuple[dict[str, Any], str]:
    """A model whose stand-in can be made to load another, and its URL."""
    model = engine(router, "tabby", "mine", models="mine,foreign")
    return model, f"http://127.0.0.1:{model['port']}"


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_of_another_model_is_given_to_nobody(router: Router, streamed: bool) -> None:
    """An admin has loaded another one over the engine's own API."""
    model, url = shared(router)
    router.write({"mine": model})
    router.start()
    assert ask(router, "mine").status_code == 200
    httpx.post(url + "/v1/model/load", json={"model_name": "foreign"}, timeout=30)
    if streamed:
        chunks = stream(router, "mine")
        assert text_of(chunks) == ANSWER
        names = {chunk["model"] for chunk in chunks[:-1]}
    else:
        names = {ask(router, "mine").json()["model"]}
    assert names == {"mine"}
    assert events(router) == ["start mine", "stop mine", "start mine"]
    assert "serves another model" in (router.dir / "router.log").read_text()


def test_an_old_tabby_that_holds_its_lock_for_good_is_restarted(router: Router) -> None:
    """79126f9, unloaded behind the router's back: what is asked next has 500, all else hangs."""
    model = engine(router, "tabby", "a", flags="exl2")
    router.write({"a": model})
    router.start()
    assert ask(router, "a").status_code == 200
    httpx.post(f"http://127.0.0.1:{model['port']}/v1/model/unload", timeout=30)
    assert ask(router, "a").status_code in (200, 500)
    assert ask(router, "a").status_code == 200
    assert events(router) == ["start a", "stop a", "start a"]


def sick(router: Router, **options: Any) -> Path:
    """A model whose generations fail; from its next start on, none once the file is there."""
    healed = router.dir / "healed"
    model = engine(router, "tabby", "a", fault="no-token", fault_until=healed, **options)
    router.write({"a": {**model, "warm_up": False}})
    router.start()
    return healed


@pytest.mark.parametrize("streamed", [False, True])
def test_an_engine_that_stays_sick_is_restarted_after_three_failures(
    router: Router, streamed: bool
) -> None:
    healed = sick(router)

    def fails() -> None:
        answer = ask(router, "a", stream=streamed)
        assert answer.status_code == 503 or '"error"' in answer.text

    fails()
    fails()
    healed.touch()
    assert events(router) == ["start a"]
    fails()
    restarted = ["start a", "stop a", "start a"]
    wait_until(lambda: events(router) == restarted, "the sick engine is restarted")
    assert ask(router, "a").status_code == 200
    assert "3 generations in a row failed" in (router.dir / "router.log").read_text()


def test_failures_with_good_ones_between_them_restart_nothing(router: Router) -> None:
    model = engine(router, "tabby", "a", fault="error-mid-stream", after=2)
    router.write({"a": model})
    router.start()
    for _ in range(3):
        assert '"error"' in ask(router, "a", stream=True, max_tokens=5).text
        assert ask(router, "a", max_tokens=1).status_code == 200
    assert events(router) == ["start a"]


def test_failures_of_an_engine_that_calls_itself_healthy_restart_nothing(router: Router) -> None:
    model = engine(router, "vllm", "a", fault="no-token")
    router.write({"a": {**model, "warm_up": False}})
    router.start()
    for _ in range(4):
        assert ask(router, "a").status_code == 500
    assert events(router) == ["start a"]
