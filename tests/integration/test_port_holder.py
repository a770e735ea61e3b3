"""Another account of the host listens on an engine's port: it gets no key and no prompt."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from .conftest import Router, free_port, wait_until

KEY = "the-key-of-the-engine"
STRANGER = """
import http.server, sys
class Taker(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print(self.command, self.path, dict(self.headers), flush=True)
        body = b'{"data": [{"id": "m"}]}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_GET
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Taker).serve_forever()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has other accounts")
def test_a_stranger_on_the_port_of_a_loading_engine_gets_nothing(router: Router) -> None:
    port = free_port()
    (router.dir / "key").write_text(KEY)
    model = {
        "backend": "command",
        "port": port,
        "command": ["sleep", "60"],
        "api_key_file": str(router.dir / "key"),
    }
    router.write({"m": model})
    router.start()
    body = {"model": "m", "messages": [{"role": "user", "content": "a secret"}]}
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(httpx.post, router.url + "/v1/chat/completions", json=body, timeout=60)
        wait_until(lambda: "child_m" in router.engine_pids(), "the engine loads")
        with subprocess.Popen(
            ["/usr/bin/python3", "-I", "-c", STRANGER, str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            user=54321,
        ) as stranger:
            answer = asked.result()
            stranger.terminate()
            assert stranger.stdout is not None
            assert stranger.stdout.read() == b""
    assert answer.status_code == 503
    message = answer.json()["error"]["message"]
    assert f"port {port} is held by a process of the account 54321" in message
    assert KEY not in answer.text
