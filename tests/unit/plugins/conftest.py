"""Lets plugins be imported by the names that Ansible gives them, without Ansible's own importer."""

from __future__ import annotations

import json
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

Answers = dict[str, tuple[int, Any]]

CHECKOUT = Path(__file__).resolve().parents[3]


def _link() -> Path:
    collections = CHECKOUT / ".cache/collections"
    link = collections / "ansible_collections/roundhouse/llm"
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(CHECKOUT)
    return collections


sys.path.insert(0, str(_link()))


class Router:
    """Gives prepared answers by method and path, and keeps what was asked."""

    def __init__(self, socket: Path, answers: Answers) -> None:
        self.socket = socket
        self.asked: list[tuple[str, Any]] = []
        router = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(None)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(json.loads(body))

            def answer(self, body: Any) -> None:
                call = f"{self.command} {self.path}"
                router.asked.append((call, body))
                status, content = answers[call]
                payload = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response_only(status)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

        self.server = socketserver.ThreadingUnixStreamServer(str(socket), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Callable[[Answers], Router]]:
    started: list[Router] = []

    def start(answers: Answers) -> Router:
        started.append(Router(tmp_path / "admin.sock", answers))
        return started[-1]

    yield start
    for each in started:
        each.close()
