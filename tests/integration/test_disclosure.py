"""Engine logs are shown to administrators, model names to keys that may use these models."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx
import pytest
import yaml

from .conftest import Router

LAST_WORDS = "CUDA out of memory, says the stand-in"
CHAT = "/v1/chat/completions"


def entry(name: str, **extra: Any) -> dict[str, Any]:
    return {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), **extra}


KEYS = [
    entry("guest", scopes=["use", "switch"], models=["public", "broken"]),
    entry("user", scopes=["use", "switch"]),
    entry("passive", scopes=["use"], models=["public"]),
    entry("root", scopes=["use", "switch", "admin"]),
]


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def get(router: Router, path: str, key: str | None = None) -> httpx.Response:
    return httpx.get(router.url + path, headers=bearer(key) if key else {}, timeout=20)


def ask(router: Router, model: str, key: str, *, stream: bool = False) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "stream": stream}
    return httpx.post(router.url + CHAT, json=body, headers=bearer(key), timeout=30)


@pytest.fixture
def guarded(router: Router) -> Router:
    broken = router.standin("broken", fault="exit-while-loading")
    router.write(
        {
            "public": router.standin("public"),
            "broken": broken,
            "project-x": router.standin("project-x"),
        },
        switch={"timeout": 20, "stop_timeout": 5, "on_failure": "stop"},
    )
    (router.dir / "keys.yml").write_text(yaml.safe_dump({"keys": KEYS}))
    router.start()
    return router


def test_an_engine_log_is_shown_to_administrators_only(guarded: Router) -> None:
    for stream in (False, True):
        answer = ask(guarded, "broken", "user", stream=stream)
        assert "could not be loaded" in answer.text
        assert LAST_WORDS not in answer.text
        assert LAST_WORDS in ask(guarded, "broken", "root", stream=stream).text
    assert LAST_WORDS in get(guarded, "/admin/status", "root").text
    assert LAST_WORDS not in get(guarded, "/health").text
    assert LAST_WORDS not in get(guarded, "/health", "user").text


def test_a_key_learns_no_name_of_a_model_that_it_may_not_use(guarded: Router) -> None:
    assert ask(guarded, "project-x", "root").status_code == 200
    said = [
        get(guarded, "/v1/models", "guest"),
        get(guarded, "/v1/models/none", "guest"),
        get(guarded, "/upstream/none/health", "guest"),
        get(guarded, "/health", "guest"),
        get(guarded, "/metrics", "guest"),
        ask(guarded, "none", "guest"),
        ask(guarded, "public", "passive"),
    ]
    assert said[1].status_code == said[2].status_code == said[5].status_code == 404
    assert said[4].status_code == 403
    assert said[6].status_code == 409
    for answer in said:
        assert "project-x" not in answer.text, answer.request.url
    assert "public" in said[1].json()["error"]["message"]
    assert get(guarded, "/v1/models/project-x", "guest").status_code == 403
    assert get(guarded, "/v1/models/public", "guest").status_code == 200
    assert "project-x" in get(guarded, "/v1/models/none", "user").text
    assert "project-x" in get(guarded, "/metrics", "user").text


def test_health_without_a_key_names_no_model(guarded: Router) -> None:
    ask(guarded, "broken", "root")
    ask(guarded, "public", "root")
    for key in (None, "wrong"):
        answer = get(guarded, "/health", key)
        assert answer.status_code == 200
        body = answer.json()
        assert (body["status"], body["models"], body["current_model"]) == ("degraded", [], None)
        assert body["backends"] == {"command": True}
        for name in ("public", "broken", "project-x"):
            assert name not in answer.text
        assert "public" not in get(guarded, "/health?model=none", key).text
        assert get(guarded, "/health?model=public", key).json()["state"] == "loaded"
    body = get(guarded, "/health", "user").json()
    assert body["models"] == ["public", "broken", "project-x"]
    assert body["current_model"] == "public"
    assert list(body["failures"]) == ["broken"]
