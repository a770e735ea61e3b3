"""An engine of PyTorch and transformers: a small model with random weights, on the GPU if there is
one, behind the part of OpenAI's API that the router's checks use.

    python tests/gpu/engine.py --port 9000 --name big --hold 40

``--hold`` is how many GB of GPU memory it allocates beside the model, so that a host without any
weights has engines that hold and free memory. ``--plain`` needs neither package, and no GPU: it
shows that everything around it works. Standard library, torch and transformers only.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any, Protocol

CONTEXT = 512
LETTERS = " etaoinshrdlucmfwypvbgkjqxz0123456789.,"
TOKENS = 16
MOST_TOKENS = 400


class Writer(Protocol):
    """Makes up text, a letter a token."""

    def letters(self, prompt: str) -> Iterator[str]: ...


class Plain:
    """Without a model."""

    def letters(self, prompt: str) -> Iterator[str]:
        for letter in itertools.cycle(LETTERS[1:]):
            time.sleep(0.002)
            yield letter


class Gpt2:
    """transformers' own GPT-2 with random weights and a vocabulary of letters."""

    def __init__(self, hold: float) -> None:
        import torch  # type: ignore[import-not-found, unused-ignore]
        from transformers import (  # type: ignore[import-not-found, unused-ignore]
            GPT2Config,
            GPT2LMHeadModel,
        )

        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        config = GPT2Config(
            vocab_size=len(LETTERS), n_positions=CONTEXT, n_embd=768, n_layer=12, n_head=12
        )
        self._model = GPT2LMHeadModel(config).to(self._device).eval()
        self._held = None
        if self._device == "cuda":
            self._held = torch.empty(int(hold * 1e9), dtype=torch.uint8, device=self._device)
            self._held.fill_(1)
        self._lock = Lock()

    def letters(self, prompt: str) -> Iterator[str]:
        torch = self._torch
        known = [LETTERS.index(one) for one in prompt.lower() if one in LETTERS][-64:] or [0]
        cache, fed = None, known
        while True:
            with self._lock, torch.inference_mode():
                made = self._model(
                    torch.tensor([fed], device=self._device), past_key_values=cache, use_cache=True
                )
                cache = made.past_key_values
                chosen = int(torch.multinomial(made.logits[0, -1].softmax(-1), 1))
            fed = [chosen]
            yield LETTERS[chosen]


class Handler(BaseHTTPRequestHandler):
    """``/health``, ``/v1/models``, chats and completions, streamed or whole."""

    protocol_version = "HTTP/1.1"
    name = ""
    writer: Writer

    def do_GET(self) -> None:
        if self.path == "/health":
            self._json(200, {"status": "ok"})
        elif self.path == "/v1/models":
            self._json(200, {"object": "list", "data": [{"id": self.name, "object": "model"}]})
        else:
            self._json(404, {"error": {"message": f"no path {self.path}"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path not in ("/v1/chat/completions", "/v1/completions"):
            self._json(404, {"error": {"message": f"no path {self.path}"}})
            return
        chat = self.path == "/v1/chat/completions"
        prompt = str(body["messages"][-1]["content"] if chat else body["prompt"])
        count = min(int(body.get("max_tokens") or TOKENS), MOST_TOKENS)
        letters = itertools.islice(self.writer.letters(prompt), count)
        usage = {"prompt_tokens": len(prompt), "completion_tokens": count}
        usage["total_tokens"] = sum(usage.values())
        if body.get("stream"):
            self._stream(letters, usage, chat=chat)
            return
        text = "".join(letters)
        said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choice = {"index": 0, **said, "finish_reason": "length"}
        kind = "chat.completion" if chat else "text_completion"
        self._json(200, {**self._head(kind), "choices": [choice], "usage": usage})

    def _stream(self, letters: Iterator[str], usage: dict[str, int], *, chat: bool) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        head = self._head("chat.completion.chunk" if chat else "text_completion")
        for letter in letters:
            said = {"delta": {"role": "assistant", "content": letter}} if chat else {"text": letter}
            self._send({**head, "choices": [{"index": 0, **said, "finish_reason": None}]})
        nothing: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        self._send({**head, "choices": [{"index": 0, **nothing, "finish_reason": "length"}]})
        self._send({**head, "choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, chunk: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": "chatcmpl-1", "object": kind, "created": 0, "model": self.name}

    def _json(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """The router has a log."""


class Server(ThreadingHTTPServer):
    """Ends with its process, whoever still reads."""

    daemon_threads = True


def main() -> None:
    """Load, then listen: an engine that answers is ready."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--hold", type=float, default=0.0, help="GB of GPU memory")
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    Handler.name = options.name
    Handler.writer = Plain() if options.plain else Gpt2(options.hold)
    Server(("127.0.0.1", options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
