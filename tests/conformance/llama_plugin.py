"""A pytest plugin for llama.cpp's own tests: no downloads, and paths as the router has them.

llama.cpp's server has short spellings of OpenAI's paths, which the router has under ``/v1``, and
paths of its own, which the router has under ``/upstream``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

SHORT = {
    "/chat/completions": "/v1/chat/completions",
    "/models": "/v1/models",
    "/responses": "/v1/responses",
}
OWN = {"/detokenize", "/health", "/metrics", "/rerank", "/tokenize"}
"""Paths that the router has under the same name."""


def _as_the_router_has_it(path: str, model: str) -> str:
    plain = path.partition("?")[0]
    if plain in SHORT:
        return SHORT[plain] + path.removeprefix(plain)
    return path if plain.startswith("/v1/") or plain in OWN else f"/upstream/{model}{path}"


def pytest_collection_finish() -> None:
    """Change the tests' helper, once they have imported it."""
    utils: Any = sys.modules["utils"]
    utils.ServerPreset.load_all = staticmethod(lambda: None)
    if os.environ["LLAMA_TESTS_WAY"] == "through":
        plain = utils.ServerProcess.make_url

        def make_url(self: Any, path: str, host: str | None = None) -> Any:
            name = (self.model_alias or "").partition(",")[0]
            return plain(self, _as_the_router_has_it(path, name), host)

        utils.ServerProcess.make_url = make_url
