"""The log: a line for each request and each step of a switch, and ids that join them."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from typing import Any

import httpx
import pytest
import yaml

from .conftest import Router, wait_until

CHAT = "/v1/chat/completions"
KEY = "sk-do-not-write-this-anywhere"
QUESTION = "what-is-asked-here"
Line = dict[str, str]


def ask(router: Router, model: str, **extra: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], **extra}
    headers = {"Authorization": f"Bearer {extra.pop('key', KEY)}"}
    body.pop("key", None)
    return httpx.post(router.url + CHAT, json=body, headers=headers, timeout=30)


def log_of(router: Router) -> str:
    return (router.dir / "router.log").read_text(encoding="utf-8")


def lines(router: Router) -> list[Line]:
    """The log's lines as what they say; each of them is ``key=value`` and nothing else."""
    taken = [shlex.split(line) for line in log_of(router).splitlines()]
    assert all("=" in word for words in taken for word in words)
    return [dict(word.split("=", 1) for word in words) for words in taken]


def said(router: Router, what: str, **facts: str) -> list[Line]:
    return [
        line for line in lines(router) if line["msg"] == what and facts.items() <= {**line}.items()
    ]


def line_of(router: Router, answer: httpx.Response) -> Line:
    """The line of the request that got this answer, by the id in its header."""
    identity = answer.headers["x-request-id"]
    # the line is written when the answer is out
    wait_until(lambda: bool(said(router, "request", id=identity)), "the request's line", 5)
    (line,) = said(router, "request", id=identity)
    return line


def with_a_key(router: Router) -> None:
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    keys = [{"name": "webui", "sha256": digest}]
    (router.dir / "keys.yml").write_text(yaml.safe_dump({"keys": keys}))


def test_a_request_is_joined_to_the_switch_that_it_waited_for(router: Router) -> None:
    with_a_key(router)
    router.write({"a": router.standin("a"), "b": router.standin("b", load=0.5)})
    router.start()
    ask(router, "a", max_tokens=1)
    answer = ask(router, "b", stream=True, max_tokens=5)
    line = line_of(router, answer)
    assert line["status"] == "200"
    assert (line["model"], line["key"], line["path"]) == ("b", "webui", CHAT)
    assert (line["stream"], line["tokens"]) == ("true", "5")
    assert 0.5 <= float(line["waited"]) <= float(line["duration"])
    assert 0 <= float(line["ttft"]) < float(line["duration"])
    assert "error" not in line

    switch = line["switch"]
    (began,) = said(router, "switch_began", switch=switch)
    assert (began["model"], began["previous"], began["reason"]) == ("b", "a", "request")
    steps = said(router, "step", switch=switch)
    assert [(step["step"], step["model"]) for step in steps] == [
        ("Drain", "a"),
        ("Stop", "a"),
        ("Activate", "b"),
        ("Start", "b"),
        ("WaitUntilReady", "b"),
        ("WarmUp", "b"),
    ]
    assert [step["unit"] for step in steps] == ["child:a"] * 2 + ["child:b"] * 4
    assert {step["outcome"] for step in steps} == {"ok"}
    (ended,) = said(router, "switch_ended", switch=switch)
    taken = sum(float(step["seconds"]) for step in steps)
    assert taken <= float(ended["seconds"]) + 0.01 <= float(line["waited"]) + 0.1

    # one that found its model loaded waited for nothing
    after = line_of(router, ask(router, "b", max_tokens=1))
    assert "switch" not in after
    assert float(after["waited"]) < 0.1

    # and none of it says what was asked, what was answered, or with which key
    log = log_of(router)
    assert QUESTION not in log
    assert KEY not in log
    assert hashlib.sha256(KEY.encode()).hexdigest() not in log
    assert '"w0 "' in answer.text
    assert not re.search(r"\bw0\b", log)


@pytest.mark.long
def test_a_request_whose_switch_failed_names_it(router: Router) -> None:
    with_a_key(router)
    router.write({"bad": router.standin("bad", fault="exit-while-loading")})
    router.start()
    answer = ask(router, "bad")
    assert answer.status_code == 503
    line = line_of(router, answer)
    assert (line["status"], line["error"]) == ("503", answer.json()["error"]["code"])
    (ended,) = said(router, "switch_ended", switch=line["switch"])
    assert (ended["level"], ended["outcome"]) == ("warning", "failed")
    (failed,) = said(router, "step", switch=line["switch"], outcome="failed")
    assert failed["error"] in ended["error"]


@pytest.mark.long
def test_a_request_that_is_refused_has_its_line_too(router: Router) -> None:
    with_a_key(router)
    router.write({"a": router.standin("a")})
    router.start()
    wrong = line_of(router, ask(router, "a", key="sk-wrong"))
    assert (wrong["status"], wrong["error"]) == ("401", "invalid_api_key")
    assert "key" not in wrong
    unknown = line_of(router, ask(router, "no\nsuch=model"))
    assert (unknown["status"], unknown["error"]) == ("404", "model_not_found")
    assert (unknown["key"], unknown["path"]) == ("webui", CHAT)
    assert "sk-wrong" not in log_of(router)


@pytest.mark.long
def test_the_log_becomes_json_while_the_router_runs(router: Router) -> None:
    models = {"a": router.standin("a")}
    router.write(models)
    router.start()
    router.write(models, log={"format": "json"})
    assert router.cli("reload").returncode == 0
    before = len(log_of(router).splitlines())
    answer = ask(router, "a", max_tokens=3)

    def rest() -> list[dict[str, Any]]:
        return [json.loads(line) for line in log_of(router).splitlines()[before:]]

    wait_until(lambda: any(line["msg"] == "request" for line in rest()), "the line", 5)
    (line,) = [line for line in rest() if line["msg"] == "request"]
    assert (line["id"], line["tokens"]) == (answer.headers["x-request-id"], 3)
    assert line["switch"] in [one["switch"] for one in rest() if one["msg"] == "switch_ended"]


def test_calls_that_administer_and_refused_keys_have_a_line_each(router: Router) -> None:
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    keys = [{"name": "boss", "sha256": digest, "scopes": ["use", "admin"]}]
    (router.dir / "keys.yml").write_text(yaml.safe_dump({"keys": keys}))
    router.write({"a": router.standin("a")})
    router.start()
    call, known = f"{router.url}/admin/clear", {"Authorization": f"Bearer {KEY}"}
    assert httpx.post(call, json={"model": "a"}, headers=known).status_code == 200
    (line,) = said(router, "admin_call")
    assert (line["key"], line["from"], line["status"]) == ("boss", "127.0.0.1", "200")
    assert (line["method"], line["path"]) == ("POST", "/admin/clear")
    for _ in range(40):
        assert httpx.get(f"{router.url}/v1/models").status_code == 401
        assert ask(router, "a", key="sk-wrong").status_code == 401
    refused = [*said(router, "key_refused"), *said(router, "request", status="401")]
    assert {line["from"] for line in refused} == {"127.0.0.1"}
    # a stranger cannot fill the disk
    assert 10 <= len(refused) <= 35
    assert "sk-wrong" not in log_of(router)
