"""Requests that name no model, where config.yml says which one answers them."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx
import pytest
import yaml

from .conftest import Router
from .scripted_engine import Scripted

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
ANSWER = b'{"choices": [{"index": 0}]}'


def serve(
    router: Router, default_model: str | None, **models: dict[str, Any]
) -> dict[str, Scripted]:
    engines = {name: Scripted(router, name) for name in ("a", "b")}
    entries = {name: engine.entry(**models.get(name, {})) for name, engine in engines.items()}
    router.write(entries, requests={"default_model": default_model} if default_model else {})
    for engine in engines.values():
        engine.whole("200 OK", "content-type: application/json", body=ANSWER)
    router.start()
    return engines


def ask(router: Router, path: str = CHAT, **body: Any) -> httpx.Response:
    return httpx.post(router.url + path, json={**BODY, **body}, timeout=20)


def used(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.headers["x-llm-router-model"]


def test_a_request_that_names_no_model_is_refused_unless_there_is_a_default(
    router: Router,
) -> None:
    serve(router, None)
    for body in ({}, {"model": None}, {"model": ""}, {"model": 7}):
        answer = ask(router, **body)
        assert answer.status_code in (400, 404)
        assert answer.json()["error"]["param"] == "model"


def test_the_loaded_model_answers_a_request_that_names_none(router: Router) -> None:
    other = {"variants": {"b:hot": {"force": {"temperature": 1.0}}}}
    serve(router, "loaded", b=other)
    nothing = ask(router)
    assert nothing.status_code == 400
    assert "no model is loaded" in nothing.json()["error"]["message"]
    assert nothing.json()["error"]["param"] == "model"
    for name in ("a", "b"):
        assert used(ask(router, model=name)) == name
        for path in (CHAT, "/v1/messages", "/v1/embeddings"):
            assert used(ask(router, path)) == name
            assert used(ask(router, path, model=None)) == name
            assert used(ask(router, path, model="")) == name
    assert ask(router, model=7).status_code == 400, "a wrong name is not a missing one"
    assert ask(router, model="none").status_code == 404


def test_a_named_default_is_loaded_and_a_key_needs_the_right_to_it(router: Router) -> None:
    entries = [
        {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), **more}
        for name, more in (("all", {}), ("only", {"models": ["a"]}))
    ]
    (router.dir / "keys.yml").write_text(yaml.safe_dump({"keys": entries}))
    serve(router, "other", b={"aliases": ["other"]})

    def with_key(key: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"}
        return httpx.post(router.url + CHAT, json=BODY, headers=headers, timeout=20)

    assert used(with_key("all")) == "b"
    assert with_key("only").status_code == 403


@pytest.mark.parametrize("preamble", ["", "to be ignored\r\n"])
def test_a_form_that_names_no_model_gets_one(router: Router, preamble: str) -> None:
    engine = serve(router, "a", a={"model_name": "of-the-engine"})["a"]
    part = '--B\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    file = (
        '--B\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nRIFF\r\n--B--\r\n'
    )
    given = preamble + part.format("language", "de") + file
    kind = {"content-type": "multipart/form-data; boundary=B"}
    url = router.url + "/v1/audio/transcriptions"
    answer = httpx.post(url, content=given.encode(), headers=kind, timeout=20)
    assert used(answer) == "a"
    _, fields, body = engine.asked()[-1]
    added = part.format("model", "of-the-engine")
    assert body.decode() == preamble + added + given.removeprefix(preamble)
    assert dict(fields)["content-length"] == str(len(body))


def test_a_default_that_no_model_has_is_a_mistake_with_its_line(router: Router) -> None:
    router.write({"a": router.standin("a")}, requests={"default_model": "nowhere"})
    done = router.cli("check")
    assert done.returncode == 1
    assert "requests.default_model: nowhere is not the name of a model" in done.stderr
    assert "known names: a" in done.stderr
