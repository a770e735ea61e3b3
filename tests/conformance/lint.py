"""What httplint says of a server's answers: ``lint.py PORT MODEL``, with the suites' Python.

Prints JSON: by request, the names of the notes at the levels warning and bad.
"""

from __future__ import annotations

import http.client
import json
import sys
from typing import Any

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "temperature": 0}
TEXT = {"prompt": "hi", "max_tokens": 4, "temperature": 0}
REQUESTS: dict[str, tuple[str, str, Any]] = {
    "health": ("GET", "/health", None),
    "models": ("GET", "/v1/models", None),
    "HEAD of models": ("HEAD", "/v1/models", None),
    "OPTIONS of models": ("OPTIONS", "/v1/models", None),
    "metrics": ("GET", "/metrics", None),
    "a path that does not exist": ("GET", "/no/such/path", None),
    "a method that does not exist": ("DELETE", "/v1/chat/completions", None),
    "a chat": ("POST", "/v1/chat/completions", CHAT),
    "a chat in a stream": ("POST", "/v1/chat/completions", {**CHAT, "stream": True}),
    "a chat that is wrong": ("POST", "/v1/chat/completions", {"messages": 7}),
    "a chat that is not JSON": ("POST", "/v1/chat/completions", b"{"),
    "a text": ("POST", "/v1/completions", TEXT),
    "a text in a stream": ("POST", "/v1/completions", {**TEXT, "stream": True}),
    "a response": ("POST", "/v1/responses", {"input": "hi", "max_output_tokens": 4}),
    "a message": ("POST", "/v1/messages", CHAT),
    "a message in a stream": ("POST", "/v1/messages", {**CHAT, "stream": True}),
    "tokens": ("POST", "/tokenize", {"content": "hi"}),
}


def notes(port: int, model: str, method: str, path: str, asked: Any) -> list[str]:
    """What is said of one answer."""
    from httplint import HttpResponseLinter
    from httplint.note import levels

    body = asked
    if isinstance(asked, dict):
        body = json.dumps({**asked, "model": model}).encode()
    headers = {"content-type": "application/json"} if body is not None else {}
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    client.request(method, path, body, headers)
    answer = client.getresponse()
    said = answer.read()
    client.close()
    linter = HttpResponseLinter(no_content=method == "HEAD")
    version = b"HTTP/1.1" if answer.version == 11 else b"HTTP/1.0"
    linter.process_response_topline(version, b"%d" % answer.status, answer.reason.encode())
    linter.process_headers([(n.encode(), v.encode("latin-1")) for n, v in answer.getheaders()])
    if method != "HEAD":
        linter.feed_content(said)
    linter.finish_content(True)
    wrong = (levels.WARN, levels.BAD)
    return sorted({type(note).__name__ for note in linter.notes if note.level in wrong})


if __name__ == "__main__":
    port, model = int(sys.argv[1]), sys.argv[2]
    print(json.dumps({name: notes(port, model, *asked) for name, asked in REQUESTS.items()}))
