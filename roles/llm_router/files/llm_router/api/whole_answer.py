"""A whole answer of an engine: its figures are read, its text stays the bytes that came. Pure."""

from __future__ import annotations

from typing import Any

from llm_router.api.repairs import mend_answer
from llm_router.api.weight import from_engine, is_light
from llm_router.api.wire import from_json, to_json
from llm_router.engines.base import Repairs
from llm_router.json_codec import is_utf8
from llm_router.json_members import Members, pieces, split

_READ = ("model", "model_name", "usage", "timings", "metrics")
WORTH_IT = 1000
"""Bytes. A shorter answer is read and written in less time than it takes to split it."""
_LEAST = 64
"""Bytes of ``choices`` that hold a choice."""


class WholeAnswer:
    """``body`` has its members; those that are not read have their text."""

    def __init__(self, data: bytes) -> None:
        """Raises ValueError for what is no JSON object, or too heavy to be read here."""
        self._data = data
        members = _members(data)
        if members is None:
            body = from_engine(data)
            if not isinstance(body, dict):
                raise ValueError("not an object")
            self._members: Members = {}
            self._read: dict[str, Any] = {}
            self.body: dict[str, Any] = body
            return
        self._members = members
        self._read = {name: from_json(bytes(members[name])) for name in _READ if name in members}
        choices = members.get("choices")
        if choices is not None and len(choices) < _LEAST:
            self._read["choices"] = from_json(bytes(choices))
        self.body = {**members, **self._read}

    def mend(self, repairs: Repairs) -> bool:
        """Mend its choices; whether anything was changed. Raises ValueError."""
        choices = self._members.get("choices")
        if choices is None or "choices" in self._read:
            changed = mend_answer(self.body, repairs)
            if changed:
                self._read.pop("choices", None)  # in place: its text is not what it says now
            return changed
        if not repairs.reasoning or b'"reasoning' not in self._data:
            return False
        read = {"choices": from_json(bytes(choices))}
        changed = mend_answer(read, repairs)
        if changed:
            self.body.update(read)
        return changed

    def changed(self, name: str, value: Any) -> None:
        """Have another value in it."""
        self.body[name] = value
        self._read.pop(name, None)

    def written(self) -> bytes:
        """All of it. Raises ValueError for a value that JSON has no word for."""
        if not self._members:
            return to_json(self.body)
        return b"".join(pieces(self.body, self._members, self._read))


def _members(data: bytes) -> Members | None:
    worth_it = len(data) >= WORTH_IT and is_light(data) and is_utf8(data)
    return split(data) if worth_it else None
