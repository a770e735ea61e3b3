"""What the router reads of a chat's messages, each of which stays as it came. Pure."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from llm_router.api.wire import from_json, to_json
from llm_router.body_reader import Task, is_anchored, is_background
from llm_router.json_members import Members, elements
from llm_router.status_lines import may_have_lines, strip_status

MOST_READ = 2_000_000
"""Bytes of messages that are read in the event loop, for a few milliseconds at most."""
MOST_MARKS = 50_000
"""Characters in these bytes that may begin, end or part values, or escape a character."""
MOST_MESSAGES = 5_000
"""Messages that the event loop has time to look at."""
MOST_MARKED = 1_000
"""Messages that the event loop has time to read."""
MOST_SEARCHED = 100_000
"""Bytes of a message that are searched for a pattern there."""
_LONGEST_ROLE = 64
"""Bytes; `assistant` with each character escaped is shorter."""

_ASSISTANT = Raw(b'"assistant"')

_objects = msgspec.json.Decoder(list[dict[str, Raw]]).decode
_object = msgspec.json.Decoder(dict[str, Raw]).decode


class TooMuch(Exception):
    """More must be read than the event loop has time for."""


def read(messages: Raw, task: Task) -> tuple[Raw, bool]:
    """The messages without the router's own lines, and whether they are a background task.

    Raises `TooMuch`.
    """
    try:
        found: list[Members] = _objects(messages)
    except (ValueError, RecursionError):
        if len(messages) > MOST_READ or bytes(messages).count(b",") > MOST_MESSAGES:
            raise TooMuch from None
        found = [_members(one) for one in elements(messages) or ()]
    if len(found) > MOST_MESSAGES:
        raise TooMuch
    background = False
    if task.background is not None and len(found) == 1:
        background = _is_background(found[0], task.background)
    marked = [index for index, one in enumerate(found) if _is_marked(one)] if task.strip else []
    return (_without_lines(messages, marked) if marked else messages), background


def _members(message: Raw) -> Members:
    try:
        return _object(message)
    except (ValueError, RecursionError):
        return {}  # not an object


def _is_background(message: Members, pattern: str) -> bool:
    role, content = message.get("role"), message.get("content")
    if role is None or content is None or memoryview(content)[0] != ord('"'):
        return False
    if len(content) > (MOST_READ if is_anchored(pattern) else MOST_SEARCHED):
        raise TooMuch
    text = bytes(content)
    if _marks(text) > MOST_MARKS:
        raise TooMuch
    try:
        said = {"role": _text(role), "content": from_json(text)}
    except ValueError:
        return False
    return is_background([said], pattern)


def _is_marked(message: Members) -> bool:
    """Whether it may be the assistant's, with lines of the router."""
    role, content = message.get("role"), message.get("content")
    if role is None or content is None:
        return False
    if role != _ASSISTANT:
        if len(role) > _LONGEST_ROLE:
            return False
        text = bytes(role)
        if b"\\" not in text or from_json(text) != "assistant":
            return False
    return may_have_lines(bytes(content))


def _text(value: Raw) -> str | None:
    """A short text, read."""
    if len(value) > _LONGEST_ROLE:
        return None
    text = from_json(bytes(value))
    return text if isinstance(text, str) else None


def _marks(text: bytes) -> int:
    """What reading takes its time for, beside the text itself."""
    return sum(text.count(mark) for mark in (b",", b":", b"[", b"{", b"\\"))


def _without_lines(messages: Raw, marked: list[int]) -> Raw:
    if len(marked) > MOST_MARKED:
        raise TooMuch
    parts = elements(messages) or []
    if sum(len(parts[index]) for index in marked) > MOST_READ:
        raise TooMuch
    if sum(_marks(bytes(parts[index])) for index in marked) > MOST_MARKS:
        raise TooMuch
    changed = False
    made: list[bytes | Raw] = [*parts]
    for index in marked:
        try:
            cleaned, differs = strip_status([from_json(bytes(parts[index]))])
            if differs:
                made[index] = to_json(cleaned[0])
                changed = True
        except ValueError:
            continue  # with a number that could not be written again: as it came
    return Raw(b"[" + b", ".join(made) + b"]") if changed else messages
