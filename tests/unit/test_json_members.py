"""What becomes of a request's JSON: the rows of docs/request-bodies.md, and `json` beside it."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_router.api.errors import ApiError
from llm_router.api.large import LARGE, LargeBodies, Split, split_slowly, split_small
from llm_router.body_reader import Task
from llm_router.json_members import pieces

DOCS = Path(__file__).parents[2] / "docs" / "request-bodies.md"
RUNS = int(os.environ.get("ROUNDHOUSE_RUNS", "2000"))
TASK = Task(strip=True, background="^### Task:")
BOM = b"\xef\xbb\xbf"
DEEP = 100_000


def sent(split: Split) -> bytes:
    """The body for an engine that calls the model ``upstream``."""
    body = {**split.members, "model": "upstream"}
    return b"".join(pieces(body, split.members, {}))


def by_msgspec(raw: bytes) -> bytes:
    return sent(split_small(raw, TASK))


def by_the_standard_library(raw: bytes) -> bytes:
    return sent(split_slowly(raw, TASK))


def as_a_large_body(raw: bytes) -> bytes:
    async def main() -> bytes:
        with LargeBodies() as bodies:
            return sent(await bodies.read(raw, TASK))

    return asyncio.run(main())


PATHS = [by_msgspec, by_the_standard_library, as_a_large_body]


def x(value: bytes) -> bytes:
    return b'{"model": "m", "x": ' + value + b"}"


MANY = b"{" + b",".join(b'"k%d":%d' % (number, number) for number in range(9_999))
ROWS: dict[str, list[tuple[bytes, bytes | tuple[int, str]]]] = {
    "a number of any size and form inside a value": [
        (x(b"[1e400, -0, 1.0, 1.10, 1E+2, -0.0]"), b"[1e400, -0, 1.0, 1.10, 1E+2, -0.0]"),
        (x(b"[1180591620717411303424]"), b"[1180591620717411303424]"),
        (x(b'{"a": ' + b"7" * 5000 + b"}"), b'{"a": ' + b"7" * 5000 + b"}"),
    ],
    "a number at the top level": [
        (x(b"-0"), b"-0"),
        (x(b"1.0"), b"1.0"),
        (x(b"1180591620717411303424"), b"1180591620717411303424"),
        (x(b"2.50e2"), b"2.50e2"),
        (x(b"9" * 300), b"9" * 300),
    ],
    "a number at the top level that is out of range, such as `1e400`": [
        (x(b"1e400"), (400, "1e400 is out of range")),
        (x(b"-1E400"), (400, "-1E400 is out of range")),
        (x(b"9" * 5000), (400, "out of range")),
    ],
    "`NaN`, `Infinity`, `-Infinity`": [
        (x(b"NaN"), (400, "NaN is not JSON")),
        (x(b'[1, {"a": -Infinity}]'), (400, "-Infinity is not JSON")),
    ],
    r"an escape, such as `\u00e9`": [
        (x(rb'"\u00e9\/\ud83d\ude00\n"'), rb'"\u00e9\/\ud83d\ude00\n"'),
        (x(rb'{"\u0061": 1}'), rb'{"\u0061": 1}'),
    ],
    "half of a surrogate pair, escaped": [
        (x(rb'["\ud800"]'), rb'["\ud800"]'),
        (x(rb'{"\udc00": "a\ud83d"}'), rb'{"\udc00": "a\ud83d"}'),
        (b'{"model": "m", "\\ud800": 1}', b'{"model": "upstream", "\\ud800": 1}'),
    ],
    "half of a surrogate pair, as bytes": [
        (x(b'["\xed\xa0\x80"]'), rb'["\ud800"]'),
        (x(b'"\xed\xa0\xbd\\ude00"'), rb'"\ud83d\ude00"'),  # the other half makes a character
    ],
    "bytes that are not UTF-8": [
        (x(b'["\xff"]'), (400, "not valid JSON")),
        (x(b'"\xc0\xaf"'), (400, "not valid JSON")),
        (x(b'"\\\xed\xa0\x80"'), (400, "not valid JSON")),
    ],
    "several members with the same name": [
        (b'{"model": "a", "x": 1, "x": 2}', b'{"model": "upstream", "x": 2}'),
        (b'{"x": 1, "\\u0078": 2}', b'{"x": 2, "model": "upstream"}'),
        (b'{"model": "a", "mod\\u0065l": "b"}', b'{"model": "upstream"}'),
    ],
    "several members with the same name, inside a value": [
        (x(b'{"model": 1, "model": 2}'), b'{"model": 1, "model": 2}'),
        (x(b'[{"a": 1, "\\u0061": 2}]'), b'[{"a": 1, "\\u0061": 2}]'),
    ],
    "an empty name": [(b'{"model": "m", "": 1}', b'{"model": "upstream", "": 1}')],
    "a byte order mark": [(BOM + x(b"1"), b"1")],
    "UTF-16 or UTF-32": [
        (x('"日本"'.encode()).decode().encode(encoding), '"日本"'.encode())
        for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32")
    ],
    "white space": [(x(b'[1 ,\t2,\r\n{"a" : 3}]') + b" \n", b'[1 ,\t2,\r\n{"a" : 3}]')],
    "values that are nested too deep": [
        (x(b"[" * DEEP + b"]" * DEEP), (400, "nested too deep")),
        (x(b'{"a":' * DEEP + b"1" + b"}" * DEEP), (400, "nested too deep")),
    ],
    "values that are nested 500 levels deep": [
        (x(b"[" * 500 + b"]" * 500), b"[" * 500 + b"]" * 500)
    ],
    "10,000 members at the top level": [
        (MANY + b',"model":"m"}', MANY.replace(b":", b": ").replace(b",", b", ")),
        (MANY + b',"y":1,"model":"m"}', (413, "more than 10000 keys")),
    ],
    "text after the object": [
        (x(b"1") + b"x", (400, "Extra data")),
        (x(b"1") + b'{"model": "b"}', (400, "Extra data")),
        (x(b"1") + b"\x00", (400, "Extra data")),
    ],
    "invalid JSON inside a value": [
        (x(value), (400, "not valid JSON"))
        for value in (b"[1,]", b"[01]", b'["\\x"]', b'["\n"]', b"{1:2}", b"[tru]", b"[1", b"")
    ],
    "a list, a text or a number in place of an object": [
        (b"[1]", (400, "must be a JSON object")),
        (b'"x"', (400, "must be a JSON object")),
        (b"null", (400, "must be a JSON object")),
        (b"[NaN]", (400, "NaN is not JSON")),
        (b"", (400, "not valid JSON")),
    ],
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
@pytest.mark.parametrize("row", ROWS)
def test_a_body_means_the_same_on_every_path(row: str, path: Callable[[bytes], bytes]) -> None:
    for raw, wanted in ROWS[row]:
        if isinstance(wanted, tuple):
            with pytest.raises(ApiError, match=re.escape(wanted[1])) as caught:
                path(raw)
            assert caught.value.status == wanted[0]
            continue
        got = path(raw)
        if not wanted.startswith(b'{"model": "upstream"') and not wanted.endswith(b'"upstream"}'):
            model = b'{"model": "upstream", "x": ' + wanted + b"}"
            wanted = wanted + b', "model": "upstream"}' if wanted.startswith(b'{"k0"') else model
        assert got == wanted


def test_the_documentation_has_these_rows() -> None:
    table = [line for line in DOCS.read_text().splitlines() if line.startswith("| ")]
    assert {line.split(" | ")[0].removeprefix("| ") for line in table[1:]} == set(ROWS)


def test_a_small_body_and_a_large_one_mean_the_same() -> None:
    """Bodies above the limit of the small path, by msgspec and by the other process."""
    pad = b'"%b"' % (b"p" * LARGE)
    member = b'"pad": ' + pad + b", "
    for row, cases in ROWS.items():
        if row.startswith(("10,000", "UTF-16")):
            continue
        for raw, _ in cases:
            if not raw.startswith(b"{"):
                continue
            results: list[bytes | int] = []
            for one in (by_msgspec, as_a_large_body):
                padded = raw if one is by_msgspec else b"{" + member + raw[1:]
                got = attempt(one, padded)
                results.append(got if isinstance(got, int) else got.replace(member, b""))
            assert results[0] == results[1], (row, raw[:80])


# beside `json`


def _strict(text: str) -> None:
    raise ValueError(text)


def _pairs(pairs: list[tuple[str, Any]]) -> Any:
    return ("object", pairs)


def read(raw: bytes) -> Any:
    """What `json` says, with numbers as their text and all members of an object, in order."""
    return json.loads(
        raw, parse_int=str, parse_float=str, parse_constant=_strict, object_pairs_hook=_pairs
    )


def expected(raw: bytes) -> dict[str, Any] | None:
    """The members of a body by `json`, the last of each name; None for what is rejected."""
    try:
        value = read(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, tuple):
        return None
    last = dict(value[1])
    for name, plain in json.loads(raw).items():
        if isinstance(plain, float) and math.isinf(plain):
            return None
        assert name in last
    return last


WORDS = [
    *'{}[],:" \n\t\\', '"a"', '"a":', "1", "-0", "1e400", "1E5", "NaN", "tru", "null", "\ufeff",
    "é", '"\\ud800"', "\\ud83d", "\\ude00", "\ud800", '"model"', '"mod\\u0065l": "b",', "01", "-",
    "2.50", "\x00", "Infinity", "🔄", '"role":"assistant"', "\\u2705 Model ready! (3s)",
]  # fmt: skip
NAMES = ["a", "b", "model", "x", "messages", "role", "content", "stream", "", "é", "\ud800", "n"]


def value(random_: random.Random, depth: int = 0) -> str:
    """JSON, with everything that is allowed to be written in several ways."""
    kind = random_.randrange(9 if depth < 3 else 6)
    if kind < 2:
        return random_.choice(
            ["0", "-0", "1.50", "1e5", "1E-400", "1180591620717411303424", "-7.0"]
        )
    if kind == 2:
        return random_.choice(["true", "false", "null"])
    if kind < 6:
        text = "".join(random_.choice(["a", "é", "日", "😀", '"', "\\", "\n", "/"]) for _ in "abc")
        return json.dumps(text, ensure_ascii=random_.random() < 0.5)
    space = random_.choice(["", " ", "\n\t"])
    if kind == 6:
        inner = [value(random_, depth + 1) for _ in range(random_.randrange(4))]
        return "[" + space + f",{space}".join(inner) + space + "]"
    return mapping(random_, depth + 1)


def mapping(random_: random.Random, depth: int) -> str:
    members = [
        json.dumps(random_.choice(NAMES), ensure_ascii=True) + ": " + value(random_, depth)
        for _ in range(random_.randrange(5))
    ]
    return "{" + ", ".join(members) + "}"


def body(seed: int) -> bytes:
    """A JSON object, or what is left of one after changes to its text or its bytes."""
    random_ = random.Random(seed)
    text = mapping(random_, 0)
    for _ in range(random_.choice([0, 0, 1, 1, 2, 4])):
        at, cut = random_.randrange(len(text) + 1), random_.choice([0, 0, 1, 3])
        text = text[:at] + random_.choice(WORDS) + text[at + cut :]
    encoding = random_.choice(["utf-8"] * 12 + ["utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"])
    raw = bytearray(text.encode(encoding, "surrogatepass"))
    if random_.random() < 0.1 and raw:
        raw[random_.randrange(len(raw))] = random_.randrange(256)
    return bytes(raw)


def plain(members: dict[str, Any]) -> str:
    """To compare: two halves of a surrogate pair, one after the other, are their character."""
    return json.dumps(members, sort_keys=True)


def attempt(path: Callable[[bytes], bytes], raw: bytes) -> bytes | int:
    """What goes out, or the status of the error."""
    try:
        return path(raw)
    except ApiError as error:
        return error.status


def test_what_goes_out_is_what_json_says_of_what_came() -> None:
    """With one member of each name, whatever the body is made of; nothing invalid goes out."""
    accepted = 0
    for seed in range(RUNS):
        raw = body(seed)
        wanted = expected(raw)
        for path in (by_msgspec, by_the_standard_library):
            got = attempt(path, raw)
            if isinstance(got, int):
                assert (got, wanted) == (400, None), (seed, raw)
                continue
            assert wanted is not None, (seed, raw, got)
            assert json.detect_encoding(got) == "utf-8"
            got.decode()  # strictly
            _, members = read(got)
            names = [name for name, _ in members]
            assert len(names) == len(set(names)), (seed, raw, got)
            assert plain(dict(members)) == plain({**wanted, "model": "upstream"}), (seed, raw, got)
            accepted += 1
    assert accepted > RUNS // 3  # most are not rejected for what was done to them
