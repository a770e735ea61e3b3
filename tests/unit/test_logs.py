"""A record is one line, whatever is in it; and who logs never waits for who reads."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import shlex
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.logs import Event, formatter
from llm_router.logs.lines import Value
from llm_router.logs.writer import AT_ONCE, KEPT, LineWriter

SMALLEST_PIPE = 4096
ROLES = Path(__file__).parents[2] / "roles"


def record(said: object, *arguments: object, level: int = logging.INFO) -> logging.LogRecord:
    made = logging.LogRecord("llm_router.x", level, "", 0, said, arguments, None)
    made.created = 1_700_000_000.25
    return made


def logfmt(said: object, *arguments: object, level: int = logging.INFO) -> str:
    return formatter("logfmt", journal=True).format(record(said, *arguments, level=level))


def test_what_is_plain_is_not_quoted() -> None:
    fields: dict[str, Value] = {"model": "org/m-7b:q4", "unit": "llamacpp@m.service", "n": 3}
    fields |= {"seconds": 0.25, "stream": True, "switch": None, "empty": ""}
    assert logfmt(Event("request", fields)) == (
        "<6>level=info msg=request model=org/m-7b:q4 unit=llamacpp@m.service n=3 seconds=0.25 "
        'stream=true empty=""'
    )


def test_quotes_spaces_and_equals_signs() -> None:
    assert logfmt(
        Event("x", {"a": 'he said "no"', "b": "k=v", "c": "back\\slash", "d": "für"})
    ) == (r'<6>level=info msg=x a="he said \"no\"" b="k=v" c="back\\slash" d="für"')


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1e", "\x85", "\u2028"])
def test_nothing_can_begin_a_line_of_its_own(end: str) -> None:
    forged = f"a{end}<3>level=error msg=forged"
    for kind in ("logfmt", "json"):
        made = formatter(kind, journal=True).format(record(Event("x", {"key": forged})))
        assert len(made.splitlines()) == 1
        made = formatter(kind, journal=True).format(record("text %s", forged))
        assert len(made.splitlines()) == 1


def test_nothing_moves_a_terminals_cursor() -> None:
    made = logfmt(Event("x", {"a": "\x1b[2J\x9b\x7f\x00"}))
    assert made.isprintable()


def test_text_says_who_says_it_and_how_bad_it_is() -> None:
    made = logfmt("unit %s is gone", "a b", level=logging.WARNING)
    assert made == '<4>level=warning msg="unit a b is gone" logger=llm_router.x'


def test_a_trace_is_one_line() -> None:
    made = record("it failed", level=logging.ERROR)
    try:
        raise ValueError("of\nthe third kind")
    except ValueError:
        made.exc_info = sys.exc_info()
    line = formatter("logfmt", journal=True).format(made)
    assert line.startswith('<3>level=error msg="it failed" logger=llm_router.x trace="Traceback')
    assert r"ValueError: of\nthe third kind" in line
    assert "\n" not in line


def test_where_nobody_adds_a_time_the_line_has_one() -> None:
    assert formatter("logfmt").format(record(Event("x", {"a": 1}))) == (
        "time=2023-11-14T22:13:20.250Z level=info msg=x a=1"
    )


def test_json_has_all_of_it() -> None:
    said = Event("request", {"id": "a-1", "tokens": 3, "error": None, "stream": False})
    assert formatter("json").format(record(said)) == (
        '{"time":"2023-11-14T22:13:20.250Z","level":"info","msg":"request","id":"a-1","tokens":3,'
        '"stream":false}'
    )
    text = json.loads(formatter("json", journal=True).format(record("a %d", 1)).removeprefix("<6>"))
    assert text["msg"] == "a 1"
    assert text["logger"] == "llm_router.x"


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.text()))
def test_every_value_can_be_read_back(fields: dict[str, str]) -> None:
    said = Event("x", fields)
    read = json.loads(formatter("json").format(record(said)))
    assert {name: read[name] for name in fields} == fields
    line = logfmt(said)
    pairs = re.findall(r' (\w+)=("(?:[^"\\]|\\.)*"|[^ "]+)', line)
    values = {name: json.loads(value) if value[0] == '"' else value for name, value in pairs}
    assert {name: values[name] for name in fields} == fields


def test_a_shell_can_take_a_line_apart() -> None:
    words = shlex.split(logfmt(Event("x", {"a": 'one "two"', "b": "c"})))
    assert words[-2:] == ['a=one "two"', "b=c"]


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int, logging.Logger]]:
    """A logger that writes to a pipe of 4 KiB, and the pipe's ends."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
    writer = LineWriter(writing)
    writer.setFormatter(formatter("logfmt", journal=True))
    logger = logging.Logger("piped")
    logger.addHandler(writer)
    try:
        yield reading, writing, logger
    finally:
        os.close(reading)
        writer.flush()
        writer.close()
        os.close(writing)


def test_the_last_lines_get_out_at_the_end_of_the_program() -> None:
    """`logging.shutdown` holds the handler's own lock meanwhile."""
    with pipe() as (reading, writing, logger):
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, b"x")
        os.set_blocking(writing, True)
        for line in ("one", "another one", "the last one"):
            logger.warning(line)
        got: list[list[str]] = []
        reader = threading.Thread(target=lambda: got.append(read_lines(reading, "the last one")))
        (handler,) = logger.handlers
        handler.acquire()
        try:
            reader.start()
            handler.flush()
            assert handler._kept == deque()  # type: ignore[attr-defined]
        finally:
            handler.release()
        reader.join(20)
        assert "the last one" in got[0][-1]


def read_lines(descriptor: int, until: str, seconds: float = 20.0) -> list[str]:
    """All lines until one that has ``until`` in it."""
    data, deadline = b"", time.monotonic() + seconds
    while until.encode() not in data or not data.endswith(b"\n"):
        assert time.monotonic() < deadline, data[-300:]
        data += os.read(descriptor, 65536)
    return data.decode().splitlines()


def test_a_line_is_out_when_the_call_returns() -> None:
    with pipe() as (reading, _, logger):
        logger.info(Event("x", {"a": 1}))
        os.set_blocking(reading, False)
        assert os.read(reading, 100) == b"<6>level=info msg=x a=1\n"


def test_who_logs_does_not_wait_for_who_reads_and_nothing_is_lost() -> None:
    with pipe() as (reading, _, logger):
        began = time.monotonic()
        for number in range(500):
            logger.info(Event("x", {"number": number, "text": "y" * 100}))
        logger.info(Event("long", {"text": "z" * 3 * AT_ONCE}))
        logger.info(Event("last", {}))
        # a write that waited would wait for ever: nobody reads
        assert time.monotonic() - began < 5
        lines = read_lines(reading, "msg=last")
        numbers = [int(line.split("number=")[1].split()[0]) for line in lines[:500]]
        assert numbers == list(range(500))
        assert len(lines[500]) > 3 * AT_ONCE
        # and from now on nothing is kept
        time.sleep(0.1)
        logger.info(Event("again", {}))
        assert read_lines(reading, "msg=again")


def test_what_is_kept_has_a_bound_and_what_was_lost_is_said() -> None:
    with pipe() as (reading, _, logger):
        for number in range(KEPT + 1000):
            logger.info(Event("x", {"number": number, "text": "y" * 50}))
        lines = read_lines(reading, "were lost")
        assert re.search(r"msg=\"\d+ lines of the log were lost", lines[-1])
        assert lines[-1].startswith("<4>level=warning")
        assert KEPT <= len(lines) - 1 < KEPT + 1000


def test_a_log_that_nobody_can_read_any_more_ends_nothing() -> None:
    reading, writing = os.pipe()
    writer = LineWriter(writing)
    writer.setFormatter(formatter("logfmt"))
    logger = logging.Logger("broken")
    logger.addHandler(writer)
    os.close(reading)
    before, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        logger.info(Event("x", {}))
    finally:
        logging.raiseExceptions = before
        os.close(writing)


def test_every_unit_that_a_role_installs_says_who_it_is_in_the_journal() -> None:
    units = sorted(ROLES.glob("*/templates/*.service.j2"))
    assert len(units) >= 3
    for unit in units:
        assert "\nSyslogIdentifier=" in unit.read_text(encoding="utf-8"), unit
