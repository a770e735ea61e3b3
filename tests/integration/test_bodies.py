"""Request bodies: large ones, encoded ones, and what they cost everybody else."""

from __future__ import annotations

import gzip
import json
import os
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from typing import Any

import httpx
import pytest

from .conftest import Router, free_port

CHAT = "/v1/chat/completions"
MEBI = 1024 * 1024
SENDER = """
import http.client, sys, threading
port, senders, size = map(int, sys.argv[1:])
body = b'{"model": "b", "max_tokens": 1, "messages": [{"role": "user", "content": "%b"}]}'
body %= b"x" * size
def send():
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/v1/chat/completions", body)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
        connection.close()
        print(flush=True)
for _ in range(senders):
    threading.Thread(target=send, daemon=True).start()
sys.stdin.read()
"""


ENGINE = """
import gzip, http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_):
        pass
    def answer(self, data, kind="application/json", **headers):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        data = json.dumps({"object": "list", "data": [{"id": "a"}]}).encode()
        self.answer(data, Content_Length=len(data))
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        choices = [{"index": 0, "message": {"content": "x"}}]
        data = json.dumps({"choices": [] if body.get("user") == "stopped" else choices})
        kind = "application/json"
        if body.get("stream"):
            event = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}
            data, kind = f"data: {json.dumps(event)}\\n\\n", "text/event-stream"
        data, headers = data.encode(), {}
        if body.get("user") == "gzip":
            data, headers = gzip.compress(data), {"Content_Encoding": "gzip"}
        self.close_connection = True
        self.answer(data, kind, Connection="close", **headers)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def message(text: str, role: str = "user") -> dict[str, str]:
    return {"role": role, "content": text}


def test_a_large_body_reaches_the_engine_with_the_models_own_parameters(router: Router) -> None:
    model = {**router.standin("a"), "defaults": {"top_p": 0.5}, "force": {"min_p": 0.1}}
    router.write({"a": model})
    router.start()
    said = "🔄 Switching to a...\n✅ Model ready! (3s)\n\nwell"
    history = [message("x" * 300_000 + "é"), message(said, "assistant"), message("hi")]
    for messages in (history, history[2:]):
        body = {"model": "a", "stream": True, "messages": messages, "stop": ["x"]}
        assert httpx.post(router.url + CHAT, json=body).text.endswith("data: [DONE]\n\n")
    large, small = router.requests()
    assert large["messages"] == [history[0], message("well", "assistant"), history[2]]
    assert large == {**small, "messages": large["messages"]}
    assert small["top_p"] == 0.5
    assert small["min_p"] == 0.1


def test_a_large_body_that_is_wrong_is_a_400_and_names_what_is_wrong(router: Router) -> None:
    router.write({"a": router.standin("a")})
    router.start()
    for content, code, says in (
        (b"[" * 200_000, 400, "not valid JSON"),
        (b"[" + b"1," * 100_000 + b"1]", 400, "must be a JSON object"),
        (b'{"model": 7, "x": "' + b"x" * 200_000 + b'"}', 400, "`model` must be text"),
        (b'{"model": "a", "x": [' + b"{}," * 2_000_000 + b"{}]}", 413, "1000000 values"),
        (b"x" * (16 * MEBI + 1), 413, "16777216 bytes"),
    ):
        answer = httpx.post(router.url + CHAT, content=content)
        assert answer.status_code == code
        assert says in answer.json()["error"]["message"]


def test_an_encoded_body_is_a_415_that_names_the_encoding(router: Router) -> None:
    router.write({"a": router.standin("a")})
    router.start()
    content = gzip.compress(json.dumps({"model": "a", "messages": [message("hi")]}).encode())
    headers = {"Content-Encoding": "gzip"}
    for path in (CHAT, "/v1/messages", "/upstream/a/v1/chat/completions"):
        answer = httpx.post(router.url + path, content=content, headers=headers)
        assert answer.status_code == 415
        assert "Content-Encoding: gzip" in answer.json()["error"]["message"]
    headers = {"Content-Encoding": "identity"}
    answer = httpx.post(router.url + CHAT, content=gzip.decompress(content), headers=headers)
    assert answer.status_code == 200


def test_an_engine_that_compresses_or_leaves_a_choice_out_is_an_error(router: Router) -> None:
    port = free_port()
    command = [sys.executable, "-c", ENGINE, port]
    router.write({"a": {"backend": "command", "port": port, "command": command}})
    router.start()
    body = {"model": "a", "messages": [message("hi")]}
    assert httpx.post(router.url + CHAT, json=body, timeout=20).status_code == 200
    for stream in (True, False):
        answer = httpx.post(router.url + CHAT, json={**body, "user": "gzip", "stream": stream})
        assert answer.status_code == 502
        assert "compressed its answer (Content-Encoding: gzip)" in answer.text
    # vLLM's answer to a request that it drops because it is being stopped
    answer = httpx.post(router.url + CHAT, json={**body, "user": "stopped"})
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "engine_failed"
    whole = httpx.post(router.url + CHAT, json={**body, "stream": True}).text
    assert whole.count("[DONE]") == 1
    assert "error" not in whole
    cut = httpx.post(router.url + CHAT, json={**body, "stream": True, "n": 2}).text
    assert '"engine_failed"' in cut
    assert cut.endswith("data: [DONE]\n\n")


@pytest.mark.timing
def test_large_bodies_delay_no_other_streams_tokens(router: Router) -> None:
    """The goal: while ten clients send 8 MiB bodies, a token is at most 25 ms later at p99.

    Later than while the same clients send the same bodies past the router. Those clients and their
    engine have a processor of their own, as far as there are two: what is measured is the router's
    work, not whom the kernel lets wait.
    """
    ours, theirs = _halves()
    steady = router.standin("a", interval=0.02, tokens=400)
    other = router.standin("b", tokens=1)
    other["command"] = ["taskset", "-c", theirs, *other["command"]]
    router.write({"a": steady, "b": {**other, "group": "other"}})
    router.start()
    assert router.process is not None
    os.sched_setaffinity(router.process.pid, ours)
    for model in ("a", "b"):
        body: dict[str, Any] = {"model": model, "messages": [message("hi")], "max_tokens": 1}
        httpx.post(router.url + CHAT, json=body, timeout=20).raise_for_status()
    past, through = (latest_tokens(router, port) for port in (other["port"], router.port))
    assert through <= past + 0.025


def _halves() -> tuple[set[int], str]:
    """Processors for the router and its streams, and those of the others as taskset's list."""
    all_of_them = sorted(os.sched_getaffinity(0))
    first, second = all_of_them[::2], all_of_them[1::2] or all_of_them
    return set(first), ",".join(map(str, second))


def latest_tokens(router: Router, port: int) -> float:
    """p99 of the seconds by which a token is late while ten clients send bodies to ``port``."""
    command = ["taskset", "-c", _halves()[1], sys.executable, "-c", SENDER]
    command += [str(port), "10", str(8 * MEBI)]
    sender = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert sender.stdout is not None
        sender.stdout.readline()  # one is through
        body = {"model": "a", "messages": [message("hi")], "stream": True}
        times = []
        with httpx.stream("POST", router.url + CHAT, json=body, timeout=60) as response:
            for line in response.iter_lines():
                if '"content"' in line:
                    times.append(time.monotonic())
    finally:
        sender.kill()
        sent = sender.communicate()[0].count(b"\n")
    late = [after - before - 0.02 for before, after in pairwise(times)]
    assert len(late) > 300
    p99 = statistics.quantiles(late, n=100)[98]
    print(f"{sent} bodies to {port}: p99 {p99 * 1000:.1f} ms late")
    return p99
