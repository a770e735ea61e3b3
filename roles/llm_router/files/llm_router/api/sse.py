"""An event stream on its way from engine to client: measured, and held at its last event. Pure.

Bytes go in and the same bytes come out, event by event, whatever the borders of the chunks were.
Only an event that needs a repair, or carries usage, is written anew.
What is measured is what a person sees: when the first token came, when the last, and how many there
were by the engine's own count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_router.api.repairs import MOST_CHOICES, ChunkRepair, beside_usage, without_usage
from llm_router.api.usual import TEXTS, Usual, learn
from llm_router.api.weight import from_engine, is_light
from llm_router.api.wire import event as event_of
from llm_router.api.wire import to_json
from llm_router.engines.base import Repairs
from llm_router.engines.values import LONGEST_TEXT, count, rate

_END_OF_EVENT = re.compile(rb"\n\r?\n|\n\r(?=[^\n])|\r\r\n?")
_BOM = b"\xef\xbb\xbf"
_LONGEST_END = 3
LONGEST_EVENT = 8 * 1024 * 1024
"""An event that is longer passes in pieces, unread: memory per stream is bounded."""
MOST_IN_VAIN = 8
"""A stream whose events are all different is parsed, and no more is learned of it."""
MOST_AT_ONCE = 64
"""Events of one piece that are read one by one; with more, the engine is read from in smaller
pieces, since a flood of tiny events takes long for its size."""
TOKENS_AN_EVENT = 1.5
"""With more tokens to an event than this, the events do not show how fast the engine generates: it
holds tokens back (tool calls, ``--stream-interval``), or hides them (reasoning). A few more are
usual: the end of the answer is a token, and one character may be several."""
_DONE = b"data: [DONE]\n\n"


@dataclass
class Measured:
    """What was seen of one answer; times are the caller's clock, in seconds."""

    first_token: float | None = None
    last_token: float | None = None
    token_events: int = 0
    usage: dict[str, Any] | None = None
    engine_rate: float | None = None
    """Tokens per second by the engine's own measure, where it has one."""
    choices: int = 1
    """How many choices the request asked for."""
    chunk_id: str | None = None
    created: int | None = None
    system_fingerprint: str | None = None
    """As the first chunk with an id says them: the router's own chunks say the same."""
    tool_calls: bool = False
    finished: bool = False
    """Whether ``[DONE]``, or what stands for it, came, or was put where it was missing."""
    failed: bool = False
    """Whether the engine told of an error in its stream."""
    error: Any = None
    """That error, as the engine said it."""
    stranger: str | None = None
    """The name of another model that answers in this one's place: nothing of it passes."""
    unfinished: dict[Any, bool] = field(default_factory=dict)
    """By choice: whether its finish reason has yet to come."""

    @property
    def answered(self) -> bool:
        """Whether every choice came to its end: what is missing then is no part of the answer."""
        return len(self.unfinished) >= self.choices and not any(self.unfinished.values())

    @property
    def tokens(self) -> int:
        """Generated tokens: the engine's count, else the number of events that carried text."""
        usage = self.usage or {}
        counted = count(usage.get("completion_tokens", usage.get("output_tokens")))
        return self.token_events if counted is None else counted

    @property
    def prompt_tokens(self) -> int | None:
        """As the engine counted them, if it did."""
        usage = self.usage or {}
        return count(usage.get("prompt_tokens", usage.get("input_tokens")))

    @property
    def seconds(self) -> float:
        """From the first token that was seen to the last."""
        if self.first_token is None or self.last_token is None:
            return 0.0
        return self.last_token - self.first_token

    @property
    def rate(self) -> float | None:
        """Tokens per second, of all choices together.

        Where what was seen does not show it, it is the engine's own measure of a single choice;
        None without one, and when one token was generated.
        """
        if self.tokens < 2:
            return None
        if self.shows_rate:
            return (self.tokens - 1) / self.seconds
        return self.engine_rate if self.choices == 1 else None

    @property
    def shows_rate(self) -> bool:
        """Whether the events that came show how fast the tokens were generated."""
        return self.tokens <= TOKENS_AN_EVENT * self.token_events and self.seconds > 0


@dataclass
class SseRelay:
    """Feed it what the engine sends; it returns what the client shall have.

    ``drop_usage``: the client did not ask for usage, the router did.
    ``before_done`` makes what goes in front of ``[DONE]``, from what was measured.
    ``enrich`` gives keys to add to a usage chunk that the client asked for.
    """

    before_done: Callable[[Measured], bytes]
    enrich: Callable[[Measured], Mapping[str, Any]]
    drop_usage: bool
    measured: Measured = field(default_factory=Measured)
    repairs: Repairs = field(default_factory=Repairs)
    model: str | None = None
    """The name that a chunk must have, of an engine whose chunks name the model that makes them."""
    ends: frozenset[str] = frozenset()
    """The ``type`` of the events that end it, where that is not ``[DONE]``'s to do."""
    on_many: Callable[[], None] | None = None
    """Called when one piece had more than `MOST_AT_ONCE` events to be read one by one."""
    _rest: bytearray = field(default_factory=bytearray, init=False)
    """The beginning of an event whose end has yet to come."""
    _usual: Usual | None = field(default=None, init=False)
    _vain: int = field(default=0, init=False)
    """How many events were learned from since one was recognised."""
    _began: bool = field(default=False, init=False)
    """Whether what may be a byte order mark has passed."""
    _too_long: bool = field(default=False, init=False)
    """Whether the event that is being received passes unread."""

    def __post_init__(self) -> None:
        self._chunks = ChunkRepair(self.repairs)

    def feed(self, data: bytes, now: float) -> bytes:
        """Whole events out of what has come so far."""
        if not self._began:
            data = self._beginning(data)
        out: list[bytes] = []
        start = 0
        if self._rest or self._too_long:
            held = len(self._rest)
            self._rest += data
            # what is held back was searched when it came, but for an end that the border cuts
            match = _END_OF_EVENT.search(self._rest, max(0, held - _LONGEST_END + 1))
            if match is None:
                return self._hold()
            out.append(self._whole(bytes(self._rest[: match.end()]), now))
            start = match.end() - held
            self._rest.clear()
        while start < len(data):
            if self._usual is not None:
                tokens, end = self._usual.run(data, start)
                if tokens:
                    self._vain = 0
                    self.measured.token_events += tokens
                    self.measured.last_token = now
                    if end - start == len(data):
                        return data
                    out.append(data[start:end])
                    start = end
                    continue
            match = _END_OF_EVENT.search(data, start)
            if match is None:
                self._rest += data[start:]
                out.append(self._hold())
                break
            out.append(self._whole(data[start : match.end()], now))
            start = match.end()
        if len(out) == 1:
            return out[0]
        if len(out) > MOST_AT_ONCE and self.on_many is not None:
            self.on_many()
        return b"".join(out)

    def _beginning(self, data: bytes) -> bytes:
        """The stream's first bytes without their byte order mark: events of the router may stand
        before it, and only at the very beginning of a stream a client ignores it."""
        data = bytes(self._rest) + data
        self._rest.clear()
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._rest += data
            return b""
        self._began = True
        return data.removeprefix(_BOM)

    def _hold(self) -> bytes:
        """What goes out of an event whose end has yet to come: nothing, unless it is too long."""
        if self._too_long or len(self._rest) > LONGEST_EVENT:
            return self._pass_on()
        return b""

    def close(self, now: float) -> bytes:
        """The engine's stream ended: what is left, be it a last event without its blank line.

        With the repair ``done``, half an event is dropped, and an answer that is whole but for
        ``[DONE]`` gets it.
        """
        rest = bytes(self._rest)
        self._rest.clear()
        if not self.repairs.done:
            return self._whole(rest, now) if rest else b""
        out = b""
        if self._too_long:
            out = rest + b"\n\n"
        elif rest and _is_whole(rest):
            out = self._event(rest.rstrip(b"\r\n") + b"\n\n", now)
        if self.ends:
            return out
        if not self.measured.finished and (self.measured.answered or self.measured.failed):
            out += self._event(_DONE, now)
        return out

    def _pass_on(self) -> bytes:
        """What has come of a too long event, but for what may be half of its end."""
        self._too_long = True
        held = next((end for end in (b"\n\r", b"\n", b"\r") if self._rest.endswith(end)), b"")
        part = bytes(self._rest.removesuffix(held))
        self._rest[:] = held
        return part

    def _whole(self, event: bytes, now: float) -> bytes:
        """The event whose end has come."""
        too_long, self._too_long = self._too_long or len(event) > LONGEST_EVENT, False
        return event if too_long else self._event(event, now)

    def _event(self, event: bytes, now: float) -> bytes:
        if not is_light(event):
            return event
        data = _data_of(event)
        if data is None:
            return event
        if data == b"[DONE]":
            if self.measured.finished:
                return event
            self.measured.finished = True
            return self.before_done(self.measured) + event
        try:
            body = from_engine(data)
        except ValueError:
            return event
        if not isinstance(body, dict):
            return event
        if self.ends:
            self._measure_typed(body, now)
            return event
        if self.model is not None and not self._is_own(body):
            return b""
        token = self._measure(body, now)
        changed = self._chunks.mend(body)
        try:
            if isinstance(body.get("usage"), dict) and isinstance(body.get("choices"), list):
                return self._with_usage(event, body, changed=changed)
            if changed:
                return _rewritten(event, body)
        except ValueError:
            return event  # with numbers that JSON has no word for: as the engine wrote it
        if token and self._vain < MOST_IN_VAIN:
            self._vain += 1
            self._usual = learn(event, body)
        return event

    def _is_own(self, body: Mapping[str, Any]) -> bool:
        """Whether a chunk is of the model that was asked."""
        said = model_named_by(body)
        if said is not None and said != self.model:
            self.measured.stranger = said
        return self.measured.stranger is None

    def _with_usage(self, event: bytes, body: dict[str, Any], *, changed: bool) -> bytes:
        """A chunk with usage: dropped but for what else it carries, parted or enriched."""
        apart = body.get("choices") == []
        if self.drop_usage:
            rest = beside_usage(body) if apart else without_usage(body)
            return _rewritten(event, rest) if rest is not None else b""
        extra = self.enrich(self.measured)
        if apart and extra:
            return _rewritten(event, {**body, "usage": {**body["usage"], **extra}})
        if apart or not self.repairs.usage_apart:
            return _rewritten(event, body) if changed else event
        usage = {**body, "choices": [], "usage": {**body["usage"], **extra}}
        return _rewritten(event, without_usage(body)) + event_of(usage)

    def _measure(self, body: dict[str, Any], now: float) -> bool:
        """Whether it is one token, and nothing else that would have to be measured."""
        measured, tokens = self.measured, 0
        if measured.chunk_id is None and isinstance(body.get("id"), str):
            if len(body["id"]) <= LONGEST_TEXT:
                measured.chunk_id = body["id"]
            created, fingerprint = body.get("created"), body.get("system_fingerprint")
            measured.created = count(created)
            if isinstance(fingerprint, str) and len(fingerprint) <= LONGEST_TEXT:
                measured.system_fingerprint = fingerprint
        usage = body.get("usage")
        if isinstance(usage, dict):
            measured.usage = usage
            measured.engine_rate = engine_rate(body)
        elif "timings" in body:
            measured.engine_rate = engine_rate(body)
        if body.get("error"):
            measured.failed, measured.error = True, body["error"]
        choices = body.get("choices")
        if not isinstance(choices, list):
            return False
        plain = not measured.failed
        for choice in choices:
            if not isinstance(choice, dict):
                continue
            index, finished = choice.get("index"), bool(choice.get("finish_reason"))
            if finished:
                plain = False
            if (
                isinstance(index, int)
                and (finished or index not in measured.unfinished)
                and (len(measured.unfinished) < MOST_CHOICES or index in measured.unfinished)
            ):
                measured.unfinished[index] = not finished
            delta = choice.get("delta")
            if isinstance(delta, dict) and (delta.get("tool_calls") or delta.get("function_call")):
                measured.tool_calls = True
                plain = False
            elif not _has_text(delta) and not _has_text(choice):
                continue
            tokens += 1
            self._token(now)
        return plain and tokens == 1

    def _measure_typed(self, body: dict[str, Any], now: float) -> None:
        """The Responses API's and Anthropic's events, which say their ``type``."""
        kind = body.get("type")
        if not isinstance(kind, str):
            return
        if kind in self.ends:
            self.measured.finished = True
        if kind in ("error", "response.failed"):
            failed = body.get("response") if kind == "response.failed" else body
            told = failed.get("error") if isinstance(failed, dict) else None
            self.measured.failed, self.measured.error = True, told
        if kind == "content_block_delta" or kind.endswith(".delta"):
            self._token(now)
        holder = body.get("response") if kind.startswith("response.") else body
        usage = holder.get("usage") if isinstance(holder, dict) else None
        if isinstance(usage, dict):
            self.measured.usage = usage

    def _token(self, now: float) -> None:
        measured = self.measured
        measured.token_events += 1
        measured.last_token = now
        if measured.first_token is None:
            measured.first_token = now


def model_named_by(body: Mapping[str, Any]) -> str | None:
    """The model that an answer, or a chunk with a choice, names as its own."""
    if not body.get("choices"):
        return None
    said = body.get("model", body.get("model_name"))
    return said if isinstance(said, str) else None


def engine_rate(body: Mapping[str, Any]) -> float | None:
    """llama.cpp: timings; TabbyAPI: usage; vLLM: metrics."""
    for section, key in (
        ("timings", "predicted_per_second"),
        ("usage", "completion_tokens_per_sec"),
        ("metrics", "tokens_per_second"),
    ):
        values = body.get(section)
        measured = rate(values.get(key)) if isinstance(values, dict) else None
        if measured:
            return measured
    return None


def _has_text(part: Any) -> bool:
    if isinstance(part, dict):
        for key in TEXTS:
            if part.get(key):
                return True
    return False


def _data_of(event: bytes) -> bytes | None:
    """The payload of an event; None for a comment or an event without data."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]  # what nearly every event looks like
    lines = [line for line in event.splitlines() if line.startswith(b"data:")]
    if not lines:
        return None
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)


def _rewritten(event: bytes, body: Mapping[str, Any]) -> bytes:
    """``event`` with other data; its other fields and its line ends stay."""
    data = b"data: " + to_json(body)
    out: list[bytes] = []
    for line in event.splitlines(keepends=True):
        if line.startswith(b"data:"):
            out.append(data + line[len(line.rstrip(b"\r\n")) :] if data else b"")
            data = b""
        else:
            out.append(line)
    return b"".join(out)


def _is_whole(rest: bytes) -> bool:
    """Whether a last event lacks no more than its blank line."""
    data = _data_of(rest) if is_light(rest) else None
    if data is None:
        return False
    if data == b"[DONE]":
        return True
    try:
        from_engine(data)
    except ValueError:
        return False
    return True
