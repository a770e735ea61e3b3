"""Engines that answer the router's own requests badly, on real sockets: it harms nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import anyio
import httpx
import pytest

from llm_router.api.services import Services, running
from llm_router.engines.values import LONGEST_TEXT
from llm_router.scheduler.service import Refused
from llm_router.switcher import engine_client
from llm_router.switcher.engine_client import AnswerRefused, EngineClient
from llm_router.switcher.executor import Switcher

from .test_switcher import FakeUnits, load, make_settings, until

pytestmark = pytest.mark.anyio

MIB = 1 << 20
Talk = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
"""What an engine sends for a path."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def listening_before_their_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """These engines have their ports before the fake units start them."""

    async def closed(*_: object) -> None:
        return

    monkeypatch.setattr(Switcher, "_port_closed", closed)


@asynccontextmanager
async def engine(talk: Talk) -> AsyncIterator[int]:
    """The port of an engine that reads a request's head and then does as ``talk`` does."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            await talk(head.split()[1].decode(), writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


def whole(body: bytes, *headers: str, status: int = 200) -> bytes:
    lines = "".join(f"{line}\r\n" for line in (*headers, f"content-length: {len(body)}"))
    return f"HTTP/1.1 {status} X\r\n{lines}connection: close\r\n\r\n".encode() + body


async def well(path: str, writer: asyncio.StreamWriter) -> None:
    body: dict[str, Any] = {"data": [{"id": "a"}], "choices": [{"text": "x"}]}
    await write(writer, whole(json.dumps(body).encode()))


async def silent(_: str, writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        await asyncio.sleep(0.01)


async def trickled_body(_: str, writer: asyncio.StreamWriter) -> None:
    await write(writer, b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    while not writer.is_closing():
        await write(writer, b" ")
        await asyncio.sleep(0.01)


async def trickled_head(_: str, writer: asyncio.StreamWriter) -> None:
    await write(writer, b"HTTP/1.1 200 OK\r\n")
    while not writer.is_closing():
        await write(writer, b"x: y\r\n")
        await asyncio.sleep(0.01)


async def provisional(_: str, writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        await write(writer, b"HTTP/1.1 102 Processing\r\n\r\n")
        await asyncio.sleep(0.01)


async def endless_body(_: str, writer: asyncio.StreamWriter) -> None:
    await write(writer, b"HTTP/1.1 200 OK\r\n\r\n")
    while not writer.is_closing():
        await write(writer, b" " * MIB)


async def endless_head(_: str, writer: asyncio.StreamWriter) -> None:
    await write(writer, b"HTTP/1.1 200 OK\r\nx: ")
    while not writer.is_closing():
        await write(writer, b"y" * MIB)


@cache
def bomb() -> bytes:
    """64 MiB of zeros as gzip, made in little memory."""
    made = zlib.compressobj(wbits=31)
    return b"".join([*(made.compress(bytes(MIB)) for _ in range(64)), made.flush()])


async def empty(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()


async def compressed(_: str, writer: asyncio.StreamWriter) -> None:
    await write(writer, whole(bomb(), "content-encoding: gzip"))


HOSTILE = [
    silent,
    trickled_body,
    trickled_head,
    provisional,
    endless_body,
    endless_head,
    compressed,
]


@asynccontextmanager
async def router(ports: dict[str, int], **config: Any) -> AsyncIterator[tuple[Services, FakeUnits]]:
    """The services, with a model of that name on each port; its unit is a fake."""
    with tempfile.TemporaryDirectory() as state_dir:
        models = {name: {"port": port, "group": name} for name, port in ports.items()}
        settings, units = make_settings(models, state_dir=state_dir, **config), FakeUnits()
        async with running(settings, units) as services:
            yield services, units


@pytest.mark.parametrize("talk", HOSTILE, ids=lambda talk: talk.__name__)
async def test_a_probe_ends_in_time_and_takes_little_memory(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_router.switcher.executor.PROBE_WITHIN", 0.5)
    async with engine(talk) as port, router({"a": port}) as (services, units):
        units.run("a.service", "a")
        tracemalloc.start()
        try:
            with anyio.fail_after(5):
                _, readiness = await services.switcher.see_one(services.models["a"])
            assert readiness.verdict == "loading"
            assert tracemalloc.get_traced_memory()[1] < 8 * MIB
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("talk", [silent, trickled_body, trickled_head, provisional])
async def test_a_client_whose_connection_broke_waits_for_no_endless_probe(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_router.switcher.executor.PROBE_WITHIN", 0.3)
    bad = False

    async def turns(path: str, writer: asyncio.StreamWriter) -> None:
        await (talk if bad else well)(path, writer)

    async with engine(turns) as port, router({"a": port}) as (services, _):
        with anyio.fail_after(10):
            await load(services, "a")
        bad = True
        with anyio.fail_after(3):
            await services.reconciler.see(services.models["a"])
        assert services.state_of("a") == "loaded"  # a slow answer proves nothing


async def test_an_engine_that_trickles_keeps_neither_the_router_nor_a_model_from_starting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llm_router.switcher.executor.PROBE_WITHIN", 1.0)
    monkeypatch.setattr("llm_router.runtime.reconcile.READY_WITHIN", 0.1)
    with anyio.fail_after(10):
        async with engine(trickled_body) as bad, engine(well) as good:
            models = {"a": {"port": good, "group": "g"}, "bad": {"port": bad, "group": "h"}}
            units = FakeUnits()
            units.run("bad.service", "bad")
            with tempfile.TemporaryDirectory() as state_dir:
                began = anyio.current_time()
                async with running(make_settings(models, state_dir=state_dir), units) as services:
                    assert anyio.current_time() - began < 0.9
                    assert services.reconciler.unknown() == ["h"]
                    await load(services, "a")
                    await until(lambda: not services.reconciler.unknown())


async def test_a_hundred_probes_of_a_hung_engine_delay_no_other_engines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each client whose connection broke has its engine probed, by connections of one pool."""
    monkeypatch.setattr("llm_router.switcher.executor.PROBE_WITHIN", 2.0)
    async with (
        engine(silent) as bad,
        engine(well) as good,
        router({"bad": bad, "a": good}) as (services, units),
        anyio.create_task_group() as tasks,
    ):
        units.run("bad.service", "bad")
        units.run("a.service", "a")
        for _ in range(150):
            tasks.start_soon(services.switcher.see_one, services.models["bad"])
        await anyio.sleep(0.2)  # they have their connections, or wait for them
        with anyio.fail_after(1):
            _, readiness = await services.switcher.see_one(services.models["a"])
        assert readiness.verdict == "ready"
        tasks.cancel_scope.cancel()


async def refusal(services: Services) -> str:
    with pytest.raises(Refused) as caught:
        await load(services, "a")
    return str(caught.value)


@pytest.mark.parametrize(
    ("talk", "said"),
    [
        (endless_body, "no first token: the engine sent more than 1048576 bytes"),
        (compressed, "sent a compressed body, for which the router did not ask"),
        (empty, "no first token: 503 with an empty body"),
        (endless_head, "no answer to a first token"),
        (trickled_body, "not done within 1 s"),
        (silent, "not done within 1 s"),
    ],
    ids=lambda one: one.__name__ if callable(one) else "",
)
async def test_a_first_token_is_read_within_a_size_and_a_time(talk: Talk, said: str) -> None:
    async def bad_token(path: str, writer: asyncio.StreamWriter) -> None:
        await (talk if path == "/v1/completions" else well)(path, writer)

    switch = {"timeout": 1 if "1 s" in said else 8, "on_failure": "stop"}
    async with engine(bad_token) as port, router({"a": port}, switch=switch) as (services, _):
        tracemalloc.start()
        try:
            with anyio.fail_after(10):
                assert said in await refusal(services)
            assert tracemalloc.get_traced_memory()[1] < 12 * MIB
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("path", ["/v1/models", "/v1/completions"])
async def test_an_error_quotes_little_of_what_an_engine_says(path: str) -> None:
    async def talkative(asked: str, writer: asyncio.StreamWriter) -> None:
        if asked != path:
            await well(asked, writer)
        elif path == "/v1/models":
            ids = [{"id": "another" * 10} for _ in range(10_000)]
            await write(writer, whole(json.dumps({"data": ids}).encode()))
        else:
            await write(writer, whole(b"no memory " * 50_000, status=500))

    async with engine(talkative) as port, router({"a": port}) as (services, _):
        with anyio.fail_after(10):
            message = await refusal(services)
        assert LONGEST_TEXT < len(message) < 2 * LONGEST_TEXT
        assert "more characters" in message
        assert len(str(services.scheduler.core.failures["a"].message)) < 2 * LONGEST_TEXT


async def test_a_failed_load_keeps_little_of_a_long_line_of_its_engines_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def log_tail(*_: object) -> list[str]:
        return ["x" * 100_000, "the last line"]

    async def ends(_: str, writer: asyncio.StreamWriter) -> None:
        await write(writer, whole(b"{}", status=500))

    monkeypatch.setattr(FakeUnits, "log_tail", log_tail)
    switch = {"timeout": 0.3}
    async with engine(ends) as port, router({"a": port}, switch=switch) as (services, _):
        with anyio.fail_after(10):
            await refusal(services)
        long, last = services.scheduler.core.failures["a"].log_lines
        assert LONGEST_TEXT < len(long) < 2 * LONGEST_TEXT
        assert last == "the last line"


async def test_a_load_that_comes_too_late_says_what_its_engine_answered_last() -> None:
    async def never(path: str, writer: asyncio.StreamWriter) -> None:
        if path == "/v1/models":
            await compressed(path, writer)
        else:
            await well(path, writer)

    switch = {"timeout": 0.5}
    async with engine(never) as port, router({"a": port}, switch=switch) as (services, _):
        with anyio.fail_after(10):
            message = await refusal(services)
        assert "not done within 0.5 s; its last answer: /v1/models: sent a compressed" in message


async def test_deep_json_in_a_probe_is_no_fault_of_the_router(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def deep(_: str, writer: asyncio.StreamWriter) -> None:
        await write(writer, whole(b"[" * 200_000 + b"]" * 200_000))

    async with engine(deep) as port, router({"a": port}) as (services, units):
        units.run("a.service", "a")
        _, readiness = await services.switcher.see_one(services.models["a"])
        assert readiness.verdict == "loading"
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
async def test_lines_come_as_they_come_and_none_is_endless(
    end: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_client, "MOST_BYTES", 100_000)
    go_on = asyncio.Event()

    async def talk(_: str, writer: asyncio.StreamWriter) -> None:
        await write(writer, b"HTTP/1.1 200 OK\r\n\r\none" + end + b"tw")
        await go_on.wait()
        await write(writer, b"o" + end + end + b"x" * 200_000)

    lines: list[bytes] = []

    async def read(port: int) -> None:
        async with httpx.AsyncClient() as client:
            url = f"http://127.0.0.1:{port}"
            async with EngineClient(client).stream("POST", url, "/load", {}) as answer:
                async for line in answer.lines():
                    lines.append(line)
                    go_on.set()

    async with engine(talk) as port:
        with anyio.fail_after(5), pytest.raises(AnswerRefused, match="a line of more than"):
            await read(port)
    assert lines == [b"one", b"two", b""]
