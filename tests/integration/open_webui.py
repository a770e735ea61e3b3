"""A real Open WebUI as its role sets it up, and a person who uses it over its own HTTP API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from .conftest import ROOT, free_port, wait_until

BIN = ROOT / ".cache/venvs/open-webui/bin"
KEY = "the key that Open WebUI has"
PERSON = {"name": "Ada", "email": "ada@example.org", "password": "as long as it takes"}


def role_environment(directory: Path, given: dict[str, Any]) -> dict[str, str]:
    """The environment that the role gives to the unit, as Ansible makes it of its variables."""
    made = directory / "environment.json"
    (directory / "given.yml").write_text(yaml.safe_dump(given), encoding="utf-8")
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars_files": [
            *(str(ROOT / f"roles/open_webui/{part}/main.yml") for part in ("defaults", "vars")),
            str(directory / "given.yml"),
        ],
        "tasks": [
            {
                "ansible.builtin.copy": {
                    "content": "{{ __open_webui_environment"
                    " | combine(__open_webui_secrets) | to_json }}",
                    "dest": str(made),
                    "mode": "0600",
                }
            }
        ],
    }
    (directory / "play.yml").write_text(yaml.safe_dump([play]), encoding="utf-8")
    subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), str(directory / "play.yml")],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".cache/collections")},
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=60,
    )
    return dict(json.loads(made.read_text(encoding="utf-8")))


@dataclass
class OpenWebUI:
    """A process with its data in ``directory``; started again, it goes on with that."""

    directory: Path
    router_url: str
    port: int = field(default_factory=free_port)
    token: str = ""
    chats: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> Path:
        return self.directory / "connections.txt"

    @contextmanager
    def running(self, **given: Any) -> Iterator[OpenWebUI]:
        """With the role's variables that are given."""
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        variables = {
            "open_webui_router_url": f"{self.router_url}/v1",
            "open_webui_router_key": KEY,
            **given,
        }
        environment = {
            **role_environment(self.directory, variables),
            "HOME": str(data),
            "DATA_DIR": str(data),
            "STATIC_DIR": str(self.directory / "static"),
            "WEBUI_SECRET_KEY": "made once",
            "PATH": f"{BIN}:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT / "tests/open_webui/watched"),
            "CONNECTIONS": str(self.connections),
        }
        command = [str(BIN / "open-webui"), "serve", "--host", "127.0.0.1"]
        with (self.directory / "open-webui.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                env=environment,
                cwd=data,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(lambda: self.answers(process), f"it answers; see {log.name}", 300)
            yield self
        finally:
            process.terminate()
            process.wait(30)

    def answers(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, (self.directory / "open-webui.log").read_text()[-4000:]
        try:
            return httpx.get(self.url + "/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of an answer, which has to be a good one."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        answer = httpx.request(method, self.url + path, headers=headers, timeout=60, **options)
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        return answer.json()

    def sign(self, how: str) -> dict[str, Any]:
        """``how`` is ``up`` or ``in``."""
        self.token = ""
        account = self.ask("POST", f"/api/v1/auths/sign{how}", json=PERSON)
        self.token = account["token"]
        return dict(account)

    def models(self) -> dict[str, dict[str, Any]]:
        """What its menu of models is made from, asked of the router now."""
        listed = self.ask("GET", "/api/models", params={"refresh": "true"})["data"]
        return {model["id"]: model for model in listed}

    def say(self, model: str, text: str, chat: str | None = None, **more: Any) -> str:
        """As its page does when a person sends a message; the id of the answer to come."""
        message, answer = str(uuid.uuid4()), str(uuid.uuid4())
        before = self.history(chat)["currentId"] if chat else None
        user: dict[str, Any] = {
            "id": message,
            "parentId": before,
            "childrenIds": [],
            "role": "user",
        }
        user |= {"content": text, "models": [model], "timestamp": int(time.time())}
        body = {
            "model": model,
            "stream": True,
            "messages": [*(self.said(chat) if chat else []), {"role": "user", "content": text}],
            "session_id": str(uuid.uuid4()),
            "parent_id": before,
            "user_message": user,
            "message_ids": [{"model_id": model, "message_id": answer}],
            **({"chat_id": chat} if chat else {}),
            **more,
        }
        self.chats[answer] = self.ask("POST", "/api/chat/completions", json=body)["chat_id"]
        return answer

    def history(self, chat: str) -> dict[str, Any]:
        return dict(self.ask("GET", f"/api/v1/chats/{chat}")["chat"]["history"])

    def said(self, chat: str) -> list[dict[str, str]]:
        """The conversation up to now, as its page sends it along."""
        history = self.history(chat)
        found, current = [], history["currentId"]
        while current:
            message = history["messages"][current]
            found.append({"role": message["role"], "content": message["content"]})
            current = message["parentId"]
        return found[::-1]

    def answer(self, answer: str, seconds: float = 30) -> dict[str, Any]:
        """An answer as it is kept, when it is done."""
        until = time.monotonic() + seconds
        while True:
            message = self.history(self.chats[answer])["messages"][answer]
            if message.get("done"):
                return dict(message)
            if time.monotonic() > until:
                pytest.fail(f"not done within {seconds} s: {message}")
            time.sleep(0.05)

    def title(self, answer: str) -> str:
        return str(self.ask("GET", f"/api/v1/chats/{self.chats[answer]}")["title"])

    @contextmanager
    def listening(self, file: Path) -> Iterator[None]:
        """The events of its socket go to ``file``, a line each, as a browser gets them."""
        with file.open("wb") as out:
            listener = subprocess.Popen(
                [
                    str(BIN / "python"),
                    str(ROOT / "tests/open_webui/listen.py"),
                    self.url,
                    self.token,
                ],
                stdout=out,
            )
        try:
            wait_until(lambda: file.read_bytes().startswith(b"null\n"), "it listens", 30)
            yield
        finally:
            listener.terminate()
            listener.wait(30)
