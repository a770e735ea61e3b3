"""Open WebUI from PyPI, as its role sets it up, in front of a real router (make test-open-webui).

What a person does there and sees there, over its own API and its own socket. The engines are
stand-ins: what matters is when they are started, what they are asked, and what comes of it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from .conftest import Router, wait_until
from .open_webui import KEY, PERSON, OpenWebUI

pytestmark = pytest.mark.open_webui

# a stand-in makes as many tokens as it may, which for a title are 1,000
SHORT = {"open_webui_environment": {"TASK_MODEL_PARAMS": '{"max_tokens": 12}'}}
TASKS = {"title_generation": True, "tags_generation": True, "follow_up_generation": True}
LINES = ("🔄 Switching to ", "⏳ Loading model...", "✅ Model ready!")


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    made = Router(tmp_path_factory.mktemp("router"))
    engines = {
        name: {
            **made.standin(name, engine="vllm", load=2, tokens=12, interval=0.05, first=0.1),
            "backend": "vllm",
        }
        for name in ("first", "second")
    }
    engines["first"] |= {
        "display_name": "The First",
        "description": "Good at everything",
        "tags": ["chat"],
    }
    made.write(engines, status={"interval": 0.5}, background={"patience": 4.0})
    keys = [{"name": "open-webui", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}]
    (made.dir / "keys.yml").write_text(yaml.safe_dump({"keys": keys}))
    made.start()
    yield made
    made.end()


@pytest.fixture(scope="module")
def data(router: Router, tmp_path_factory: pytest.TempPathFactory) -> OpenWebUI:
    return OpenWebUI(tmp_path_factory.mktemp("open-webui"), router.url)


def starts(router: Router) -> list[str]:
    """The engines that were started, in their order."""
    if not router.events.exists():
        return []
    lines = [line.split() for line in router.events.read_text().splitlines()]
    return [line[2] for line in lines if line[1] == "start"]


def tasks(router: Router) -> list[dict[str, Any]]:
    """What models were asked that nobody waits for."""
    return [
        body
        for body in router.requests()
        if str(body["messages"][-1]["content"]).startswith("### Task:")
    ]


def spoken(message: dict[str, Any]) -> list[str]:
    """The status lines above an answer, the countdown but once."""
    lines = [line["description"] for line in message.get("statusHistory") or []]
    return [line for line in LINES if any(said.startswith(line) for said in lines)]


class TestAsTheRoleSetsItUp:
    @pytest.fixture(scope="class")
    @classmethod
    def webui(cls, data: OpenWebUI) -> Iterator[OpenWebUI]:
        with data.running(**SHORT):
            assert data.sign("up")["role"] == "admin"
            yield data

    def test_its_menu_has_every_model_and_what_models_yml_says_of_it(
        self, webui: OpenWebUI
    ) -> None:
        models = webui.models()
        assert list(models) == ["first", "second"]
        first = models["first"]
        assert (first["name"], first["tags"]) == ("The First", [{"name": "chat"}])
        assert first["info"]["meta"]["description"] == "Good at everything"
        assert first["info"]["meta"]["capabilities"] == {"usage": True, "builtin_tools": False}
        assert [model["loaded"] for model in models.values()] == [False, False]
        assert models["second"]["name"] == "second"

    def test_a_person_is_told_of_the_switch_and_has_the_answer(
        self, webui: OpenWebUI, router: Router, tmp_path: Path
    ) -> None:
        seen = tmp_path / "events.jsonl"
        with webui.listening(seen):
            answer = webui.say("first", "Hello", background_tasks=TASKS)
            # meanwhile the menu is there, at once and whole
            wait_until(lambda: starts(router) == ["first"], "it switches")
            began = time.monotonic()
            models = webui.models()
            assert time.monotonic() - began < 1
            assert {name: model["state"] for name, model in models.items()} == {
                "first": "loading",
                "second": "stopped",
            }
            message = webui.answer(answer)
            wait_until(lambda: len(tasks(router)) == 3, "title, tags and follow-ups were asked for")
            wait_until(lambda: webui.title(answer) != "New Chat", "the chat has its title")

        assert spoken(message) == list(LINES)
        assert message["statusHistory"][-1]["done"]
        assert message["content"].startswith("w0"), "the text is the model's alone"
        assert not any(line in message["content"] for line in (*LINES, "tok/s"))
        # under its info icon: all of it, as JSON
        assert message["usage"]["completion_tokens"] == 12
        assert 5 < message["usage"]["tokens_per_second"] < 25

        events = [json.loads(line)["data"] for line in seen.read_text().splitlines()[1:]]
        kinds = [event["type"] for event in events]
        assert kinds.index("status") < kinds.index("chat:completion"), "told while it waited"
        assert starts(router) == ["first"]
        assert not any("tools" in body for body in router.requests())
        assert webui.models()["first"]["loaded"], "a green dot in the menu"

    def test_the_second_model_is_switched_to_and_titles_switch_nothing(
        self, webui: OpenWebUI, router: Router
    ) -> None:
        message = webui.answer(webui.say("second", "And you?"))
        assert spoken(message) == list(LINES)
        assert starts(router) == ["first", "second"]

        asked = len(tasks(router))
        talk = {"model": "first", "messages": [{"role": "user", "content": "Hello"}]}
        titled = webui.ask("POST", "/api/v1/tasks/title/completions", json=talk)
        assert titled["choices"][0]["message"]["content"]
        assert len(tasks(router)) == asked + 1
        assert tasks(router)[-1]["model"] == "second", "whoever is loaded answers"
        assert starts(router) == ["first", "second"]

    def test_tags_and_follow_ups_come_when_somebody_else_has_the_device(
        self, webui: OpenWebUI, router: Router
    ) -> None:
        asked = len(tasks(router))
        body = {
            "model": "second",
            "messages": [{"role": "user", "content": "Mine"}],
            "stream": True,
        }
        with ThreadPoolExecutor() as pool:
            answer = webui.say(
                "first", "Once more", background_tasks={**TASKS, "title_generation": False}
            )
            wait_until(lambda: starts(router)[-1] == "first", "it is being loaded")
            # waits for the end of that answer, and then has the device
            other = pool.submit(
                httpx.post,
                router.url + "/v1/chat/completions",
                json=body,
                headers={"Authorization": f"Bearer {KEY}"},
                timeout=60,
            )
            assert webui.answer(answer)["content"]
            assert other.result().status_code == 200
            wait_until(
                lambda: len(tasks(router)) == asked + 2, "tags and follow-ups were asked for"
            )
        assert {body["model"] for body in tasks(router)[asked:]} == {"second"}
        time.sleep(1)  # what it has asked for is answered by now
        assert starts(router) == ["first", "second", "first", "second"]
        assert webui.models()["second"]["loaded"]

    def test_it_has_turned_to_nobody_but_the_router(self, webui: OpenWebUI) -> None:
        turned_to = set(webui.connections.read_text().split())
        assert "127.0.0.1" in turned_to, "it is seen when it does"
        assert turned_to <= {"127.0.0.1", "localhost", "None"}


class TestWithTheStatusInTheText:
    @pytest.fixture(scope="class")
    @classmethod
    def webui(cls, data: OpenWebUI) -> Iterator[OpenWebUI]:
        with data.running(open_webui_router_status="content", **SHORT):
            yield data

    def test_the_lines_are_in_the_answer_and_no_model_reads_them(
        self, webui: OpenWebUI, router: Router
    ) -> None:
        assert webui.sign("in")["email"] == PERSON["email"], "accounts outlive a restart"
        first = webui.say("first", "Hello")
        message = webui.answer(first)
        lines = message["content"].splitlines()
        assert lines[0] == "🔄 Switching to first..."
        assert lines[1].startswith("⏳ Loading model...")
        assert [line for line in lines if line.startswith("✅ Model ready!")]
        assert "w0 w1 " in message["content"]
        assert "tok/s" in lines[-1]
        assert not message.get("statusHistory")
        assert message["usage"]["tokens_per_second"] > 5

        second = webui.answer(webui.say("first", "Go on", webui.chats[first]))
        assert second["content"].startswith("w0")
        history = router.requests()[-1]["messages"]
        assert [said["role"] for said in history] == ["user", "assistant", "user"]
        assert history[1]["content"].strip() == " ".join(f"w{index}" for index in range(12))
