"""What engines say: no number, text or page of theirs harms a client, the router or a reader."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import ROOT, Router, free_port, wait_until

RAW = ROOT / "tests/integration/raw_engine.py"
ESCAPES = "\x1b]52;c;cm0gLXJm\x07\x1b[2J\x1b]0;title\x1b\\\u202e\x9b31m"
"""They would write a command into the clipboard of whoever reads them, and more."""
HUGE, DEEP = "1" + "0" * 400, "[" * 200_000 + "]" * 200_000


def raw_model(router: Router, name: str, **more: Any) -> dict[str, Any]:
    """An engine that answers what `answer` has written."""
    port = free_port()
    command = [sys.executable, "-S", "-E", str(RAW), str(port), name, str(router.dir / name)]
    return {"backend": "command", "port": port, "command": command, **more}


def answers(router: Router, name: str, body: bytes, kind: str | None = None, **more: str) -> None:
    """Have the engine ``name`` answer ``body``, with these headers."""
    given = {"content-type": kind, **more}
    lines = "".join(f"{key.replace('_', '-')}: {text}\r\n" for key, text in given.items() if text)
    head = f"HTTP/1.1 200 OK\r\n{lines}content-length: {len(body)}\r\n\r\n"
    aside = router.dir / f"{name}.new"
    aside.write_bytes(head.encode() + body)
    aside.rename(router.dir / name)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    router = Router(tmp_path_factory.mktemp("served"))
    models = {name: raw_model(router, name) for name in ("a", "never-loaded")}
    loud = [sys.executable, "-S", "-E", "-c", f"print({ESCAPES!r} + 'last words'); exit(3)"]
    models["loud"] = {"backend": "command", "port": free_port(), "command": loud}
    router.write(models)
    router.start()
    yield router
    router.stop()


def ask(router: Router, **more: Any) -> httpx.Response:
    body = {"model": "a", "messages": [{"role": "user", "content": "x"}], **more}
    return httpx.post(router.url + "/v1/chat/completions", json=body, timeout=30)


def log_of(router: Router) -> str:
    return (router.dir / "router.log").read_text()


def snapshot(router: Router) -> dict[str, Any]:
    """The dashboard's whole picture, which must be JSON for a browser."""

    def constant(text: str) -> Any:
        raise AssertionError(f"{text} is not JSON")

    with httpx.stream("GET", router.url + "/admin/live", timeout=10) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                return dict(json.loads(line[6:], parse_constant=constant))
    raise AssertionError("no picture came")


NUMBERS = [
    f'{{"completion_tokens": {HUGE}, "prompt_tokens": {HUGE}}}',
    '{"completion_tokens": -1, "prompt_tokens": -1}',
    '{"completion_tokens": true, "prompt_tokens": "9"}',
    '{"completion_tokens": 1e999, "prompt_tokens": NaN}',
    f'{{"completion_tokens": {DEEP}}}',
    '{"completion_tokens": 9, "completion_tokens_per_sec": 1e999}',
    f'{{"completion_tokens": 9, "completion_tokens_per_sec": {HUGE}}}',
    DEEP,
]
"""What ``usage`` may be."""


@pytest.mark.parametrize("rate", ["1e999", "-5", HUGE, "NaN"], ids=lambda rate: rate[:5])
@pytest.mark.parametrize("number", range(len(NUMBERS)))
def test_no_number_of_an_engine_fails_a_request_or_a_statistic(
    served: Router, number: int, rate: str
) -> None:
    choice = '{"index": 0, "message": {"role": "assistant", "content": "fine"}}'
    timings = f'{{"predicted_per_second": {rate}}}'
    whole = f'{{"choices": [{choice}], "usage": {NUMBERS[number]}, "timings": {timings}}}'
    answers(served, "a", whole.encode(), "application/json")
    answer = ask(served)
    assert answer.status_code == 200
    assert '"content": "fine"' in answer.text

    token = choice.replace("message", "delta")
    end = '{"index": 0, "delta": {}, "finish_reason": "stop"}'
    usage = whole.replace(choice, "")
    events = [f'{{"id": "c", "choices": [{one}]}}' for one in (token, token, end)]
    stream = "".join(f"data: {event}\n\n" for event in (*events, usage, "[DONE]"))
    for options in ({}, {"stream_options": {"include_usage": True}}):
        answers(served, "a", stream.encode(), "text/event-stream")
        answer = ask(served, stream=True, **options)
        assert answer.status_code == 200
        assert answer.text.count('"fine"') == 2
        assert answer.text.endswith("data: [DONE]\n\n")

    values = re.findall(
        r"^llm_router_\S+ (\S+)$", httpx.get(served.url + "/metrics").text, re.MULTILINE
    )
    assert values
    assert not {value for value in values if "nan" in value.lower() or "inf" in value.lower()}
    before = len(snapshot(served)["series"])
    if number == 0:
        wait_until(lambda: len(snapshot(served)["series"]) > before, "the charts go on")
    assert "Traceback" not in log_of(served)


@pytest.mark.parametrize("number", ["NaN", "1e999", "-Infinity"])
def test_a_clients_number_that_json_has_not_is_a_400_before_anything_is_loaded(
    served: Router, number: str
) -> None:
    body = f'{{"model": "never-loaded", "messages": [], "temperature": {number}}}'
    answer = httpx.post(served.url + "/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert number in answer.json()["error"]["message"]
    assert served.status()["models"]["never-loaded"]["state"] == "stopped"


SCRIPT = b"<html><script>fetch('/admin/unload', {method: 'POST', body: '{}'})</script>"


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("text/html", "text/plain; charset=utf-8"),
        ("image/svg+xml", "text/plain; charset=utf-8"),
        ("application/xhtml+xml", "application/octet-stream"),
        ("text/plain; version=0.0.4", "text/plain; version=0.0.4"),
        ("application/json", "application/json"),
        (None, None),
    ],
)
def test_an_engines_own_page_is_no_page_of_the_router(
    served: Router, kind: str | None, shown: str | None
) -> None:
    policy = "default-src *; script-src 'unsafe-inline'"
    answers(served, "a", SCRIPT, kind, content_security_policy=policy, set_cookie="a=b")
    answer = httpx.get(served.url + "/upstream/a/metrics", timeout=30)
    assert answer.status_code == 200
    assert answer.content == SCRIPT
    assert answer.headers.get("content-type") == shown
    assert answer.headers["content-security-policy"] == "sandbox"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_an_engines_page_in_an_api_is_plain_text(served: Router, path: str) -> None:
    answers(served, "a", SCRIPT, "text/html")
    answer = httpx.post(served.url + path, json={"model": "a", "messages": []}, timeout=30)
    assert answer.content == SCRIPT
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-security-policy"] == "sandbox"


def test_the_ids_that_an_engine_lists_fill_no_error_health_or_log(router: Router) -> None:
    ids = [{"id": f"another-{number}" * 100} for number in range(600)]
    listed = json.dumps({"data": ids})
    path = Path(router.dir / "liar.py")
    path.write_text(RAW.read_text().replace("OWN =", f"OWN = {listed}\nUNUSED ="))
    port = free_port()
    command = [sys.executable, "-S", "-E", str(path), str(port), "a", str(router.dir / "a")]
    router.write({"a": {"backend": "command", "port": port, "command": command}})
    router.start()
    answer = ask(router)
    assert answer.status_code == 503
    assert "is up but it serves another-0" in answer.text
    assert len(answer.text) < 2000
    assert len(httpx.get(router.url + "/health").text) < 2000
    status = json.dumps(router.status())
    assert len(status) < 4000
    assert max(map(len, log_of(router).splitlines())) < 2000


@pytest.mark.parametrize("command", [("switch", "loud"), ("logs", "loud"), ("status", "--once")])
def test_no_escape_of_an_engine_reaches_an_operators_terminal(
    served: Router, command: tuple[str, ...]
) -> None:
    if command[0] != "switch":
        served.cli("switch", "loud")
    for options in ((), ("--json",)):
        done = served.cli(*command, *options)
        said = done.stdout + done.stderr
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", said)
        assert "last words" in said or command[0] == "status"
