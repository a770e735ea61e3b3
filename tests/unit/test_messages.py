"""The messages of a chat, of which most stay as they came."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest
from msgspec import Raw

from llm_router.api import status
from llm_router.api.messages import TooMuch, read
from llm_router.body_reader import Task, is_background
from llm_router.status_lines import strip_status

HEAD = f"{status.switching('a')}\n{status.ready(3)}\n\n"
FOOT = f"\n\n{status.footer(2, 3, 1)}"
STRIP = Task(strip=True)
TEXTS = ["hi", "✅ ok", HEAD, HEAD + "é", "é" + FOOT, HEAD + "a" + FOOT + " \n", "5 tok/s", ""]


def escaped(text: str, random_: random.Random) -> str:
    """JSON, in which any character may be escaped."""
    kept = json.dumps(text, ensure_ascii=random_.random() < 0.5)
    if random_.random() < 0.5:
        return kept
    plain = [one for one in text if one.isascii()]
    one = random_.choice([*plain, "a"])
    return kept.replace(one, f"\\u{ord(one):04x}") if one not in '"\\\n/u0123456789abcdef' else kept


def message(random_: random.Random) -> str:
    content = escaped(random_.choice(TEXTS), random_)
    role = escaped(random_.choice(["user", "assistant", "assistant", "tool"]), random_)
    kind = random_.randrange(12)
    if kind == 0:
        content = f'[{{"type": "text", "text": {content}}}, {{"text": 3}}, 5]'
    if kind == 1:
        content = random_.choice(["null", "7", "[]", "{}"])
    if kind == 2:
        return random_.choice(["null", "7", "[]", "{}", f'{{"role": {role}}}'])
    if kind == 3:
        return f'{{"role": 1, "role": {role}, "content": "", "content": {content}}}'
    return f'{{"role": {role}, "content": {content}, "name": "a"}}'


def test_the_routers_lines_are_removed_as_from_messages_that_are_read_whole() -> None:
    removed = 0
    for seed in range(1000):
        random_ = random.Random(seed)
        texts = [message(random_) for _ in range(random_.randrange(5))]
        raw = Raw(f"[{', '.join(texts)}]".encode())
        wanted, changed = strip_status(json.loads(bytes(raw)))
        got, _ = read(raw, STRIP)
        assert json.loads(bytes(got)) == wanted, (seed, bytes(raw))
        assert (got is not raw) == changed, (seed, bytes(raw))
        removed += changed
    assert 100 < removed < 900


def test_only_the_messages_with_such_lines_are_written_again() -> None:
    kept = b'{"role":"user",  "content": "1.10 \\u00e9", "x": 1.10, "x": 1e400}'
    lines = json.dumps({"role": "assistant", "content": HEAD + "a"}).encode()
    got, _ = read(Raw(b"[" + kept + b"," + lines + b"]"), STRIP)
    assert bytes(got) == b"[" + kept + b', {"role": "assistant", "content": "a"}]'


@pytest.mark.parametrize("number", ["1e400", "7" * 5000])
def test_a_message_with_a_number_that_cannot_be_written_keeps_its_lines(number: str) -> None:
    lines = json.dumps({"role": "assistant", "content": HEAD + "a"})
    raw = Raw(f'[{lines[:-1]}, "x": {number}}}, {lines}]'.encode())
    got, _ = read(raw, STRIP)
    assert bytes(got) == f'[{lines[:-1]}, "x": {number}}}, {lines.replace(HEAD_TEXT, "")}]'.encode()


HEAD_TEXT = json.dumps(HEAD)[1:-1]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "### Task: x"}],
        [{"role": "user", "content": "a ### Task: x"}],
        [{"role": "user", "content": ["### Task: x"]}],
        [{"role": "system", "content": "### Task: x"}],
        [{"role": "user", "content": "### Task:"}, {"role": "user", "content": "### Task:"}],
        [{"content": "### Task: x"}],
        [{"role": "user"}],
        ["### Task: x"],
        [],
        {"role": "user", "content": "### Task: x"},
        None,
    ],
)
@pytest.mark.parametrize("pattern", ["^### Task:", "Task", "^x|### T", "^(?i:### task)"])
def test_a_background_task_is_found_as_in_messages_that_are_read_whole(
    messages: Any, pattern: str
) -> None:
    raw = Raw(json.dumps(messages).encode())
    assert read(raw, Task(background=pattern))[1] == is_background(messages, pattern)


def test_what_takes_long_is_left_to_the_other_process() -> None:
    said = [{"role": "assistant", "content": HEAD + "a" * 100_000} for _ in range(30)]
    with pytest.raises(TooMuch):
        read(Raw(json.dumps(said).encode()), STRIP)
    asked = [{"role": "user", "content": "a" * 200_000}]
    with pytest.raises(TooMuch):
        read(Raw(json.dumps(asked).encode()), Task(background="Task"))
    began = time.thread_time()
    read(Raw(json.dumps(asked).encode()), Task(background="^Task"))
    assert time.thread_time() - began < 0.02
