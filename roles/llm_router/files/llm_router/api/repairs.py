"""What is mended in an engine's answer, one habit at a time. Pure, but for the time of a stream.

A chunk is changed only if it shows the habit; `Repairs` says which ones are mended for an engine.
Nothing is guessed: no text, no token count and no finish reason is made up.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from llm_router.engines.base import Repairs

MOST_CHOICES = 4096
"""Choices of a stream that are followed; an engine may invent new ones without end."""


class ChunkRepair:
    """Mends one stream's chunks, in their order. Give each to `mend` once."""

    def __init__(self, repairs: Repairs) -> None:
        self._repairs = repairs
        self._begun_at = int(time.time())
        self._begun: set[Any] = set()
        """Choices whose first delta has passed."""

    def mend(self, chunk: dict[str, Any]) -> bool:
        """Change ``chunk`` in place; whether anything was changed."""
        choices = chunk.get("choices")
        changed = False
        if self._repairs.model and "model" not in chunk and "model_name" in chunk:
            chunk["model"] = chunk["model_name"]
            if "object" not in chunk and isinstance(choices, list):  # 79126f9's chats
                chunk["object"] = "chat.completion.chunk"
                chunk.setdefault("created", self._begun_at)
            changed = True
        for choice in choices if isinstance(choices, list) else ():
            delta = choice.get("delta") if isinstance(choice, dict) else None
            if not isinstance(delta, dict):
                continue
            if self._repairs.role and self._lacks_role(choice.get("index"), delta):
                delta["role"] = "assistant"
                changed = True
            if self._repairs.reasoning and _both_names(delta):
                changed = True
        return changed

    def _lacks_role(self, index: Any, delta: Mapping[str, Any]) -> bool:
        """Whether this is a choice's first delta, and names no role."""
        if not isinstance(index, int) or index in self._begun:
            return False
        if len(self._begun) >= MOST_CHOICES:
            return False
        self._begun.add(index)
        return not delta.get("role")


def mend_answer(answer: dict[str, Any], repairs: Repairs) -> bool:
    """An answer that is not streamed, changed in place; whether anything was changed."""
    choices = answer.get("choices")
    changed = False
    for choice in choices if isinstance(choices, list) else ():
        message = choice.get("message") if isinstance(choice, dict) else None
        if repairs.reasoning and isinstance(message, dict) and _both_names(message):
            changed = True
    return changed


def without_usage(chunk: Mapping[str, Any]) -> dict[str, Any]:
    """A chunk whose usage the client did not ask for, or has in a chunk of its own."""
    return {key: value for key, value in chunk.items() if key != "usage"}


_EVERY_CHUNK = frozenset(
    ("id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier")
)
"""Keys that say nothing of a usage chunk in particular."""


def beside_usage(chunk: Mapping[str, Any]) -> dict[str, Any] | None:
    """A usage chunk without its usage, with an empty choice; None if it carries nothing else.

    A client that did not ask for usage reads ``choices[0]`` of every chunk.
    """
    if all(chunk[key] is None for key in chunk.keys() - _EVERY_CHUNK):
        return None
    empty: dict[str, Any] = {"delta": {}}
    if chunk.get("object") == "text_completion":
        empty = {"text": ""}
    choice = {"index": 0, **empty, "finish_reason": None}
    return {**without_usage(chunk), "choices": [choice]}


def ask_for_usage(body: dict[str, Any], repairs: Repairs, *, stream: bool) -> dict[str, Any]:
    """The request with ``stream_options.include_usage`` where the engine must be asked."""
    if not (repairs.ask_for_usage == "always" or (repairs.ask_for_usage == "streamed" and stream)):
        return body
    options = body.get("stream_options")
    options = options if isinstance(options, dict) else {}
    return {**body, "stream_options": {**options, "include_usage": True}}


def mend_request(body: dict[str, Any], repairs: Repairs, *, stream: bool) -> dict[str, Any]:
    """A request for a chat or a text without what its engine would wrongly refuse."""
    if repairs.tools and isinstance(body.get("tools"), list):
        body = {**body, "tools": [_described(tool) for tool in body["tools"]]}
    if repairs.unlimited and stream and "prompt" in body and _is_one(body):
        limits = [body.get(key) for key in ("max_tokens", "max_completion_tokens", "max_length")]
        if all(limit is None for limit in limits):
            body = {**body, "max_tokens": 0}
    return body


def _described(tool: Any) -> Any:
    """A tool with what OpenAI's API leaves to the client: no description, no parameters."""
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        return tool
    missing: dict[str, Any] = {}
    if function.get("description") is None:
        missing["description"] = ""
    if function.get("parameters") is None:
        missing["parameters"] = {"type": "object", "properties": {}}
    return {**tool, "function": {**function, **missing}} if missing else tool


def _is_one(body: Mapping[str, Any]) -> bool:
    """Whether a text is asked for once: of several, TabbyAPI gives the later ones more tokens than
    it was asked for, and 0 would be a limit then."""
    prompt = body.get("prompt")
    return body.get("n") in (None, 1) and (not isinstance(prompt, list) or len(prompt) == 1)


def _both_names(part: dict[str, Any]) -> bool:
    """Reasoning under both names, where it came under one."""
    one, other = part.get("reasoning"), part.get("reasoning_content")
    if one and other is None:
        part["reasoning_content"] = one
    elif other and one is None:
        part["reasoning"] = other
    else:
        return False
    return True
