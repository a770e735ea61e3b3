"""HTTP/1.1 to the engines: kept connections, and answers that are handed on as their bytes come.

Not httpx, because this is the hot path: there is no task, no wake-up and no copy for a piece of an
answer, and a connection is found in the same time whether ten requests run or ten thousand.
docs/performance.md has the figures of both.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import select
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import httptools
from typing_extensions import Self

from llm_router import __version__
from llm_router.api.exchange import Call, Pieces
from llm_router.units.base import UnitError

CONNECT_WITHIN = 5.0
KEPT_FOR = 4.0
"""Seconds that a connection waits for its next request. Uvicorn, which serves vLLM and SGLang,
closes it after five: a request must not cross that."""
MOST_KEPT = 256
READ_AT_ONCE = 64 * 1024
"""Bytes."""
READ_A_LITTLE = 4 * 1024
"""Bytes that are read at once of an answer that takes long for its size."""
SENT_AT_ONCE = 128 * 1024
"""Bytes of a request that are sent in one turn of the event loop."""
MOST_UNTAKEN = 256 * 1024
"""Bytes of an answer that are read before anyone takes them."""
LONGEST_HEAD = 64 * 1024
"""Bytes before an answer's body, interim answers (1xx) included; and between two pieces of a body
that is chunked: the lengths with their extensions, and the trailer."""
WHOLE_AT_ONCE = 2
"""Answers of the largest size that are held in memory at the same time."""

LOOK_AGAIN = 0.1
"""Seconds until bytes that are in the socket have been read, once the router has time."""

REPORT_INTERVAL = 10.0
"""Seconds between two log lines about missing file descriptors."""

log = logging.getLogger(__name__)

Take = Callable[[bytes], None]
Guard = Callable[[], Awaitable["frozenset[int] | None"]]
"""Raises unless the listener is the engine's; its sockets, None where that cannot be told."""


class UpstreamError(Exception):
    """An engine gave no answer, or only part of one; the text says what happened."""


class Silent(UpstreamError):
    """No head or no part of the body came, or nothing was taken of the request, for as long as
    the caller would wait."""


class BrokenOff(UpstreamError):
    """An answer had begun. The engine has done the work: the request must not be sent again."""


class TooLarge(UpstreamError):
    """A whole answer is larger than it may be, or there is no room for it beside others."""


OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)


class OutOfFiles(UpstreamError):
    """This process, or the host, has no free file descriptor: no engine's fault."""


class Answer:
    """What an engine answers to one request: `status` and `headers` first, then its body.

    `close` must be called when it is no longer wanted.
    """

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._untaken: list[bytes] = []
        self._size = 0
        self._take: Take | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self.ended = False
        """Whether all of it has come; so already when its last piece is taken."""
        self.status = 0
        self.headers: Mapping[str, str] = {}
        """Names in lower case; of several with one name the last."""
        self.fields: Sequence[tuple[str, str]] = ()
        """All of them, in their order."""

    def deliver(self, take: Take) -> None:
        """Have each piece of the body given to ``take``: what has come now, the others as they
        come. Raises what ``take`` raises."""
        self.resume()
        if self._untaken:
            # whoever takes it may have enough of it at once, and pause
            take(b"".join(self._untaken))
            self._untaken.clear()
        self._take = take

    async def delivered(self) -> None:
        """Until the last piece is taken. Raises `UpstreamError`, and whatever ``take`` raised."""
        while not self.ended:
            await self.wait()
        if self._error is not None:
            raise self._error  # of `take`, with the last piece

    async def read(self) -> bytes:
        """The whole body, however large. Raises `UpstreamError`."""
        parts: list[bytes] = []
        self.deliver(parts.append)
        await self.delivered()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pause(self) -> None:
        """Read no more of it for now: whoever takes it has enough. No deadline runs meanwhile."""
        self._connection.pause()

    def resume(self) -> None:
        """Go on."""
        self._connection.resume()

    def read_less(self) -> None:
        """Read it in small pieces from now on, so that others have their turn in between."""
        self._connection.read_less()

    def close(self) -> None:
        """The connection is kept for the next request; one in the middle of an answer is not."""
        self._take = None
        self._connection.release()

    async def wait(self) -> None:
        """Until something has changed. Raises `UpstreamError`."""
        if self._error is None:
            self._waiter = self._connection.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._error is not None:
            raise self._error

    def came(self, data: bytes) -> None:
        """A piece of the body, from the connection."""
        if self._take is None:
            self._untaken.append(data)
            self._size += len(data)
            if self._size > MOST_UNTAKEN:
                self.pause()
            return
        try:
            self._take(data)
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is awaited
            self._error = self._error or error
            self.wake()

    def failed(self, error: BaseException) -> None:
        """No more will come."""
        if self._error is None and not self.ended:
            self._error = error
            self.wake()

    def wake(self) -> None:
        """Something has changed."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Held:
    """An answer that is held until it is whole, and until its client has taken it."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._size = 0
        self._most = self._together = 0
        self.parts: list[bytes] = []

    async def read(self, answer: Answer, most: int, largest: int | None = None) -> None:
        """Have all of ``answer`` in `parts`.

        ``largest``: the bytes of the largest answer that may be held, where ``most`` is a lower
        limit of this one. Raises `TooLarge` for more than ``most`` bytes, or when the answers that
        are held at the same time have more than `WHOLE_AT_ONCE` times ``largest``; `UpstreamError`.
        """
        self._most, self._together = most, WHOLE_AT_ONCE * (largest or most)
        announced = answer.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > most:
            raise TooLarge(f"sent an answer of {announced} bytes")
        answer.deliver(self._take)
        await answer.delivered()

    def release(self) -> None:
        """It is held no more. Safe to repeat."""
        self._engines.held -= self._size
        self._size = 0
        self.parts.clear()

    def _take(self, data: bytes) -> None:
        if self._size + len(data) > self._most:
            raise TooLarge(f"sent an answer of more than {self._most} bytes")
        if self._engines.held + len(data) > self._together:
            raise TooLarge("sent a large answer while others were held")
        self._size += len(data)
        self._engines.held += len(data)
        self.parts.append(data)


class _Connection(asyncio.BufferedProtocol):
    """One connection to an engine; it has one request at a time.

    ``buffer`` is everybody's: what is read into it is parsed at once. asyncio would make 256 kB of
    room for each token otherwise, and read as much of an answer that nobody takes.
    """

    def __init__(self, kept: deque[_Connection], buffer: memoryview) -> None:
        self._room = self._buffer = buffer
        self.loop = asyncio.get_running_loop()
        self.idle_since = 0.0
        self._kept = kept
        self._answer: Answer | None = None
        self._transport: asyncio.Transport | None = None
        self._parts: list[bytes] = []
        # straight into the list: an answer's chunks cost no Python call each
        self.on_body = self._parts.append
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._fields: list[tuple[str, str]] = []
        self._head_only = False
        self._complete = False
        self._reusable = False
        self._paused = False
        self._patience = 0.0
        self._heard = 0.0
        """When a head ended, or a part of a body came. Other bytes are no sign of life: a head or
        a trailer may go on without end."""
        self._vain = 0
        """Bytes since `_vain_since` that brought neither."""
        self._vain_since = 0.0
        self._unsent = 0
        self._outgoing: deque[memoryview] = deque()
        """What the transport has not got yet of a request."""
        self._full = False
        """Whether the transport takes no more for now."""
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, request: Pieces, patience: float, *, head_only: bool) -> Answer:
        """Send a request. ``patience``: seconds in which something must happen."""
        self._answer = answer = Answer(self)
        if self._transport is None:
            answer.failed(UpstreamError("connection closed"))
            return answer
        self._buffer = self._room
        self._headers, self._fields, self._head_only = {}, [], head_only
        self._complete = self._reusable = False
        if sum(map(len, request)) <= SENT_AT_ONCE:
            self._transport.writelines(request)
        else:
            self._outgoing.extend(map(memoryview, request))
            self._send_some()
        self._unsent = self._left()
        self._heard = self._vain_since = now = self.loop.time()
        self._vain = 0
        self._patience = patience
        if self._timer is not None and self._timer.when() > now + patience:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self.loop.call_later(patience, self._check)
        return answer

    def release(self) -> None:
        """The answer is no longer wanted."""
        whole = self._complete and self._reusable and not self._paused and not self._outgoing
        self._answer = None
        self._outgoing.clear()
        if self._transport is None or self._transport.is_closing():
            return
        if whole and len(self._kept) < MOST_KEPT:
            self.idle_since = self.loop.time()
            self._kept.append(self)
        else:
            self._transport.abort()

    def abort(self) -> None:
        """Closed at once."""
        if self._transport is not None:
            self._transport.abort()

    def _send_some(self) -> None:
        """Send as much as the transport takes, at most `SENT_AT_ONCE`; then the others' turn."""
        room = SENT_AT_ONCE
        while self._outgoing and not self._full and self.is_open and self._transport is not None:
            piece = self._outgoing.popleft()
            if len(piece) > room:
                self._outgoing.appendleft(piece[room:])
                piece = piece[:room]
            self._transport.write(piece)
            room -= len(piece)
            if not room:
                self.loop.call_soon(self._send_some)
                return

    def _left(self) -> int:
        """Bytes of the request that the engine has not taken."""
        buffered = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return buffered + sum(map(len, self._outgoing))

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def pause(self) -> None:
        if not self._paused and self.is_open and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._heard = self.loop.time()
            if self.is_open and self._transport is not None:
                self._transport.resume_reading()

    def read_less(self) -> None:
        self._buffer = self._room[:READ_A_LITTLE]

    def _check(self) -> None:
        """Whether it has been silent for too long. One timer a connection, not one a piece."""
        self._timer = None
        if self._answer is None or self._transport is None:
            return
        now = self.loop.time()
        unsent = self._left()
        if self._paused or unsent < self._unsent:
            self._heard, self._unsent = now, unsent
        left = self._heard + self._patience - now
        if left > 0.0005:
            self._timer = self.loop.call_later(left, self._check)
            return
        if self._has_news():
            # the router itself was stopped for a while, or had no time to read
            self._timer = self.loop.call_later(LOOK_AGAIN, self._check)
            return
        self._answer.failed(Silent(f"sent nothing for {self._patience:g} s"))
        self._transport.abort()

    def _has_news(self) -> bool:
        """Whether there are bytes, or an end, that were not read yet."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is None or sock.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    # asyncio's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._send_some()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.received(self._buffer[:nbytes])

    def received(self, data: bytes | memoryview) -> None:
        """What has come."""
        answer, parts = self._answer, self._parts
        if answer is None:
            self.abort()  # nobody has asked
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._reusable = False
            # else the answer stands, and what came behind it is no part of it
            if not self._complete:
                if parts:
                    answer.came(b"".join(parts))
                    parts.clear()
                answer.failed(BrokenOff("answered something that is not HTTP"))
                self.abort()
                return
        if self._complete and not answer.ended:
            answer.ended = True
            answer.wake()
        if parts:
            self._heard = self.loop.time()
            piece = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            answer.came(piece)
        elif not answer.ended:
            self._came_in_vain(len(data), answer)

    def _came_in_vain(self, size: int, answer: Answer) -> None:
        """Bytes that were no part of a body: a head, lengths of chunks, a trailer."""
        if self._vain_since != self._heard:
            self._vain, self._vain_since = 0, self._heard
        self._vain += size
        if self._vain > LONGEST_HEAD:
            what = "the end of its answer" if answer.status else "a head"
            answer.failed(BrokenOff(f"sent {what} of more than {LONGEST_HEAD} bytes"))
            self.abort()

    def eof_received(self) -> None:
        """The answer may have had no other end."""
        answer = self._answer
        framed = "content-length" in self._headers or "transfer-encoding" in self._headers
        if answer is not None and answer.status and not framed and not answer.ended:
            answer.ended = True
            answer.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._outgoing.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._answer is not None:
            what = type(exc).__name__ if exc is not None else "connection closed"
            begun = self._vain or self._answer.status
            self._answer.failed(BrokenOff(what) if begun else UpstreamError(what))
        elif self in self._kept:
            self._kept.remove(self)

    # the parser's calls

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError  # nobody has asked for a second answer

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._answer is not None and self._answer.status:
            return  # a trailer: nothing here has a use for one
        field = name.decode("latin-1").lower(), value.decode("latin-1")
        self._headers[field[0]] = field[1]
        self._fields.append(field)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self._answer is None:
            self._headers, self._fields = {}, []  # 100 Continue: the answer itself is to come
            return
        self._answer.headers, self._answer.fields = self._headers, self._fields
        self._answer.status = status
        self._heard = self.loop.time()
        if self._head_only:
            self._complete = True
        self._answer.wake()

    def on_message_complete(self) -> None:
        if self._answer is not None and self._answer.status:
            self._complete = True
            self._reusable = self._parser.should_keep_alive()


class Engines:
    """All connections to engines. An async context manager: it closes those that are kept."""

    def __init__(self) -> None:
        self._kept: dict[str, deque[_Connection]] = {}
        self._buffer = memoryview(bytearray(READ_AT_ONCE))
        self._sweeper: asyncio.TimerHandle | None = None
        self._reported = float("-inf")
        self.held = 0
        """Bytes of the answers that are held until they are whole."""

    async def ask(
        self,
        base_url: str,
        call: Call,
        patience: float,
        guard: Guard | None = None,
        *,
        fresh: bool = False,
    ) -> Answer:
        """The answer to ``call``, as soon as its head is here.

        ``guard`` is asked before and after a connection is made: only one that the same listener
        has taken is used. What it raises is raised here. ``fresh``: a kept connection failed, and
        the others may be as old.

        Raises `Silent` when nothing happens for ``patience`` seconds, `BrokenOff` when part of an
        answer came, `UpstreamError`.
        """
        kept = None if fresh else self._take(base_url)
        connection = kept or await self._connect(base_url, guard)
        answer = connection.ask(_request(base_url, call), patience, head_only=call.method == "HEAD")
        try:
            while not answer.status:
                await answer.wait()
        except BaseException as error:
            # what came before it broke off is the engine's, and is told when it was taken
            if not (answer.status and isinstance(error, UpstreamError)):
                answer.close()
                raise
        return answer

    def hold(self) -> Held:
        """Room for an answer that is held until it is whole. `Held.release` it."""
        return Held(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        for kept in self._kept.values():
            while kept:
                kept.popleft().abort()

    def _take(self, base_url: str) -> _Connection | None:
        """The connection that was used last, unless its engine may be about to close it."""
        kept = self._kept.get(base_url)
        while kept:
            connection = kept.pop()
            if connection.is_open:
                if asyncio.get_running_loop().time() - connection.idle_since < KEPT_FOR:
                    return connection
                connection.abort()
        return None

    async def _connect(self, base_url: str, guard: Guard | None) -> _Connection:
        expected = await self._listening(base_url, guard)
        host, _, port = base_url.rpartition("/")[2].rpartition(":")
        loop = asyncio.get_running_loop()
        kept = self._kept.setdefault(base_url, deque())
        if self._sweeper is None:
            self._sweeper = loop.call_later(KEPT_FOR, self._sweep)
        connecting = loop.create_connection(
            lambda: _Connection(kept, self._buffer), host, int(port)
        )
        try:
            _, connection = await asyncio.wait_for(connecting, CONNECT_WITHIN)
        except (OSError, asyncio.TimeoutError) as error:
            number = getattr(error, "errno", None)
            if number in OUT_OF_FILES:
                raise self._out_of_files(base_url, error) from error
            raise UpstreamError(f"no connection: {type(error).__name__}") from error
        try:
            if guard is not None and (
                expected == frozenset() or await self._listening(base_url, guard) != expected
            ):
                raise UpstreamError("no connection: its listener has changed")
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _listening(self, base_url: str, guard: Guard | None) -> frozenset[int] | None:
        """What ``guard`` finds. Raises `UnitError`, `OutOfFiles`."""
        try:
            return await guard() if guard is not None else None
        except UnitError as error:
            if getattr(error.__cause__, "errno", None) in OUT_OF_FILES:
                raise self._out_of_files(base_url, error) from error
            raise

    def _out_of_files(self, base_url: str, error: Exception) -> OutOfFiles:
        self._report(f"no connection to {base_url}: no free file descriptor")
        return OutOfFiles(str(error))

    def _report(self, problem: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._reported >= REPORT_INTERVAL:
            self._reported = now
            log.error(
                "%s; raise LimitNOFILE of llm-router.service, or lower requests.max_connections",
                problem,
            )

    def _sweep(self) -> None:
        """Close what nobody has wanted for a time."""
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(KEPT_FOR, self._sweep)
        old = loop.time() - KEPT_FOR
        for kept in self._kept.values():
            while kept and kept[0].idle_since < old:
                kept.popleft().abort()


def _request(base_url: str, call: Call) -> Pieces:
    """The bytes of a request, head and body apart."""
    given: dict[str, Any] = {
        "host": base_url.rpartition("/")[2],
        "user-agent": f"llm-router/{__version__}",
        "accept": "*/*",
        "accept-encoding": "identity",
        **call.headers,
    }
    size = sum(map(len, call.content))
    if size or call.method not in ("GET", "HEAD", "DELETE"):
        given["content-length"] = size
    lines = "".join([f"{name}: {value}\r\n" for name, value in given.items()])
    head = f"{call.method} {call.target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
    return (head, *call.content)
