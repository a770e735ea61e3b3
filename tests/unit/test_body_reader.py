"""The outline of a large body says what `json.loads` says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from llm_router.api import status
from llm_router.api.errors import ApiError
from llm_router.api.intake import read_members
from llm_router.api.large import LARGE, LargeBodies, Split, split_small
from llm_router.api.paths import CHAT
from llm_router.body_reader import MOST_MEMBERS, MOST_VALUES, Task, TooManyValues, outline
from llm_router.json_members import SMALL, pieces

FINITE = st.floats(allow_nan=False, allow_infinity=False)  # JSON has no word for the others
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(), FINITE),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), VALUES)
BOM = b"\xef\xbb\xbf"
"""msgspec rejects it, so that a body with it is read by the other process."""
PIECES = st.sampled_from(
    [
        *'{}[],:" \n\t\\',
        '"a"',
        '"a":',
        "1",
        "-0",
        "1e400",
        "NaN",
        "tru",
        "null",
        "\ufeff",
        "é",
        '"\\ud800"',
    ]
)


def read(raw: bytes) -> dict[str, Any]:
    """The object that an outline describes."""
    found = outline(raw, Task())
    return {key: json.loads(found.raw[a:b]) for key, a, b in found.members}


def no_json(text: str) -> None:
    raise ValueError(text)


@given(OBJECTS, st.sampled_from([None, 1]), st.booleans())
def test_an_object_is_read_as_the_standard_library_reads_it(
    value: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    raw = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert read(raw) == value


@given(st.one_of(OBJECTS.map(json.dumps), st.just("{")), st.lists(PIECES), st.integers(0, 40))
def test_what_is_not_an_object_is_refused_as_the_standard_library_refuses_it(
    text: str, pieces: list[str], at: int
) -> None:
    raw = (text[:at] + "".join(pieces) + text[at:]).encode("utf-8", "surrogatepass")
    try:
        wanted = json.loads(raw, parse_constant=no_json)
    except ValueError:
        with pytest.raises(ValueError):
            outline(raw, Task())
        return
    if isinstance(wanted, dict):
        assert repr(read(raw)) == repr(wanted)
    else:
        with pytest.raises(TypeError):
            outline(raw, Task())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-be"])
def test_other_encodings_are_read_too(encoding: str) -> None:
    assert read(' {"a": "日本", "é": 1}\n'.encode(encoding)) == {"a": "日本", "é": 1}


def test_the_last_of_equal_keys_counts_and_large_values_keep_their_text() -> None:
    raw = b'{"model": "a", "x": [1.10, 18446744073709551616, 1e400, "\\ud800"], "model": "b"}'
    found = outline(raw, Task())
    assert {key: raw[a:b] for key, a, b in found.members} == {
        "model": b'"b"',
        "x": b'[1.10, 18446744073709551616, 1e400, "\\ud800"]',
    }


@pytest.mark.parametrize("bomb", [b'{"a":[', b'[{"":[', b"[", b'{"":'])
def test_deep_nesting_ends_in_an_error(bomb: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        outline(bomb * (MOST_VALUES // 4), Task())


def test_more_values_than_memory_allows_are_refused_and_text_with_commas_is_not() -> None:
    outline(b'{"a": "' + b"{,[" * MOST_VALUES + b'"}', Task())
    with pytest.raises(TooManyValues):
        outline(b'{"a": [' + b"{}," * (MOST_VALUES // 2) + b"{}]}", Task())
    many = {f"k{number}": 1 for number in range(MOST_MEMBERS + 1)}
    with pytest.raises(TooManyValues):
        outline(json.dumps(many).encode(), Task())


@pytest.mark.parametrize("ascii_only", [True, False])
def test_the_routers_own_lines_are_removed(ascii_only: bool) -> None:
    said = (
        status.switching("a") + "\n" + status.ready(3) + "\n\nanswer é\n\n" + status.footer(2, 3, 1)
    )
    messages = [{"role": "assistant", "content": said}, {"role": "user", "content": "✅ ok"}]
    raw = json.dumps({"messages": messages}, ensure_ascii=ascii_only).encode()
    assert outline(raw, Task()).messages is None
    cleaned = outline(raw, Task(strip=True)).messages
    assert cleaned is not None
    assert json.loads(cleaned) == [{"role": "assistant", "content": "answer é"}, messages[1]]
    assert outline(raw.replace(b"answer", b"# Task:"), Task(strip=True)).background is False


def test_a_background_task_is_recognised() -> None:
    raw = json.dumps({"messages": [{"role": "user", "content": "### Task:\n" + "é" * 9}]}).encode()
    assert outline(raw, Task(background="^### Task:")).background
    assert not outline(raw, Task(background="^Task:")).background
    assert not outline(raw, Task()).background


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def bodies() -> Iterator[LargeBodies]:
    with LargeBodies() as made:
        yield made


def joined(split: Split, **changed: Any) -> bytes:
    """The body for an engine."""
    return b"".join(pieces({**split.members, **changed}, split.members, {}))


@pytest.mark.anyio
@pytest.mark.parametrize("first", [b"", BOM], ids=["here", "by the other process"])
async def test_a_large_body_is_joined_again_as_it_came(bodies: LargeBodies, first: bytes) -> None:
    value = {
        "model": "a",
        "n": 2,
        "messages": [{"content": "é🔄" * LARGE}],
        "x": 1.5,
        "t": "t" * (SMALL + 1),
    }
    raw = first + json.dumps(value, ensure_ascii=False).encode()
    large = await bodies.read(raw, Task(strip=True))
    assert (bodies.process is not None) == bool(first)
    assert joined(large) == raw.removeprefix(BOM)
    tracemalloc.start()
    try:
        made = pieces(large.members, large.members, {})
        assert tracemalloc.get_traced_memory()[1] < 50_000  # the large values are no copies
    finally:
        tracemalloc.stop()
    assert len(made) == 5
    assert json.loads(joined(large, model="b")) == {**value, "model": "b"}
    assert json.loads(b"".join(pieces({}, {}, {}))) == {}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("raw", "code", "says"),
    [
        (b"{", 400, "not valid JSON"),
        (b"[" * 200_000, 400, "not valid JSON"),
        (b"[1]", 400, "must be a JSON object"),
        (b'{"a": [' + b"{}," * MOST_VALUES + b"{}]}", 413, "1000000 values"),
        (
            b"{" + b",".join(b'"%d": "%b"' % (i, b"x" * 9) for i in range(MOST_MEMBERS + 1)) + b"}",
            413,
            "keys at its top level",
        ),
    ],
)
async def test_a_bad_body_says_what_is_wrong(
    bodies: LargeBodies, raw: bytes, code: int, says: str
) -> None:
    with pytest.raises(ApiError, match=says) as caught:
        await bodies.read(raw, Task())
    assert caught.value.status == code
    assert (await bodies.read(BOM + b'{"a": 1}', Task())).members == {"a": Raw(b"1")}


@pytest.mark.anyio
async def test_a_reader_that_ends_is_replaced(bodies: LargeBodies) -> None:
    assert (await bodies.read(BOM + b'{"a": 1}', Task())).members == {"a": Raw(b"1")}
    assert bodies.process is not None
    bodies.process.kill()
    bodies.process.wait()
    with pytest.raises(ApiError) as caught:
        await bodies.read(BOM + b'{"a": 1}', Task())
    assert caught.value.status == 503
    assert (await bodies.read(BOM + b'{"a": 1}', Task())).members == {"a": Raw(b"1")}


@pytest.mark.anyio
async def test_a_stop_of_the_unit_ends_no_reader_before_the_router(bodies: LargeBodies) -> None:
    """systemd sends SIGTERM to every process of the unit; the router serves on for a while."""
    assert (await bodies.read(BOM + b'{"a": 1}', Task())).members == {"a": Raw(b"1")}
    assert bodies.process is not None
    bodies.process.terminate()
    assert (await bodies.read(BOM + b'{"a": 1}', Task())).members == {"a": Raw(b"1")}


@pytest.mark.anyio
async def test_a_caller_that_leaves_spoils_nothing_for_the_next(bodies: LargeBodies) -> None:
    big = BOM + b'{"a": "' + b"x" * 4_000_000 + b'"}'
    with anyio.move_on_after(0):
        await bodies.read(big, Task())
    assert (await bodies.read(BOM + b'{"a": 2}', Task())).members == {"a": Raw(b"2")}


def test_infinity_is_kept_as_the_text_that_came() -> None:
    assert read(b'{"a": 1e400}') == {"a": math.inf}


@pytest.mark.anyio
@pytest.mark.parametrize("value", [[{"content": "x" * 8_000_000}], ["{}"] * 400_000])
async def test_a_large_body_takes_the_event_loops_thread_no_time(
    bodies: LargeBodies, value: list[Any]
) -> None:
    raw = json.dumps({"model": "a", "messages": value}).encode()
    await bodies.read(b'{"a": 1}', Task())  # the process is there
    began = time.thread_time()  # of this thread, so whatever else runs on the machine
    large = await bodies.read(raw, Task(strip=True))
    assert joined(large) == raw
    assert time.thread_time() - began < 0.02


MANY = b'{"model": "a", "messages": [%b]}'
READY = "✅ Model ready! (3s)".encode()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "raw",
    [
        MANY % (b'"' + b"iVBORw0K" * 2_000_000 + b'"'),
        MANY % (b'"' + "é".encode() * 8_000_000 + b'"'),
        MANY % b",".join([b"{}"] * 600_000),
        MANY % b",".join([b'{"role":"user"}'] * 100_000),
        MANY % b",".join([b"1"] * 600_000),
        MANY % b'{"role":"assistant","content":"%b"}' % (b"\\u00e9 tok " * 1_000_000),
        MANY % (b"[" * 200_000),
        MANY % b",".join([b"0"] * 900_000),
        MANY % b",".join([b"{}"] * 40_000 + [b"0"]),
        MANY % b",".join([b'{"role":"assistant","content":[""]}'] * 40_000),
        MANY % b",".join([b'{"role":"\\u0061","content":""}'] * 40_000),
        MANY % b",".join([b'{"role":"assistant","content":"%b"}' % READY] * 20_000),
        MANY % b'{"role":"assistant","content":["%b"%b]}' % (READY, b",[]" * 600_000),
        MANY % b'{"role":"assistant","content":["%b"%b]}' % (READY, b',{"text":""}' * 40_000),
        MANY % b'{"role":"assistant","content":"%b"}' % (READY + b"\\n" * 900_000),
        MANY % b'{"role":"user","content":"%b"}' % (b"\\n" * 900_000),
        MANY % b"{%b}" % b",".join(b'"%x":0' % number for number in range(180_000)),
        b"{%b}" % b",".join(b'"%x":0' % number for number in range(180_000)),
    ],
    ids=[
        *("picture", "no ASCII", "empty", "roles", "numbers", "escapes", "deep"),
        *("no messages", "a number last", "messages", "escaped roles", "status lines"),
        *("lists in a message", "texts in a message", "lines in an answer", "lines in a request"),
        *("members of a message", "members"),
    ],
)
async def test_no_turn_of_the_event_loop_is_long_for_a_large_body(
    bodies: LargeBodies, raw: bytes
) -> None:
    turns: list[float] = []

    async def watch() -> None:
        while True:
            began = time.thread_time()  # of this thread, so whatever else runs on the machine
            await asyncio.sleep(0)
            turns.append(time.thread_time() - began)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    with contextlib.suppress(ApiError):
        await bodies.read(bytearray(raw), Task(strip=True, background="^### Task:"))
    await asyncio.sleep(0)  # the turn in which it was read is over only then
    watching.cancel()
    assert max(turns) < 0.03


@pytest.mark.parametrize("element", [b"0", b"[]", b'""', b'{"role":"\\u0061","content":""}'])
def test_no_small_body_holds_the_event_loop_for_long(element: bytes) -> None:
    raw = MANY % b",".join([element] * (LARGE // (len(element) + 1) - 20))
    began = time.thread_time()
    split_small(raw, Task(strip=True, background="^### Task:"))
    assert time.thread_time() - began < 0.02


def test_what_the_router_looks_into_takes_no_time() -> None:
    """Each of these may be anything, and a number with a fraction takes longest to read."""
    names = ("model", "stream", "stream_options", "keep_alive", "n", "max_tokens", "max_length")
    value = b"[%b]" % b",".join([b"1.5"] * 24_900)
    members = {name: Raw(value) for name in names}
    began = time.thread_time()
    assert read_members(CHAT, members) == {}
    assert time.thread_time() - began < 0.02


@pytest.mark.parametrize("end", [b"", b"\\"])
def test_a_string_without_an_end_is_passed_over_in_one_go(end: bytes) -> None:
    raw = b'{"a": [%b"%b' % (b"0," * 1_000_001, b'\\"' * 16_000) + end
    began = time.thread_time()
    with pytest.raises(TooManyValues):
        outline(raw, Task())
    assert time.thread_time() - began < 1
