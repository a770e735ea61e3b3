"""A request to the router, by hand, and how its answer looks to a client."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

import h11

from tests.hostile.behaviours import CHAT, COMPLETIONS, MESSAGES, Behaviour, Script

WITH_DONE = (CHAT, COMPLETIONS)
OF_THE_ROUTER = ("engine_failed", "engine_timeout", "engine_error", "internal_error")
"""Codes of errors that the router reports itself."""
MOST_KEPT = 16 * 1024 * 1024
"""Bytes of an answer that are looked at; what comes after is only counted."""


@dataclass
class Outcome:
    """What came: ``status`` is 0 for no answer, ``whole`` is whether the answer has its end."""

    status: int = 0
    content_type: str = ""
    body: bytearray = field(default_factory=bytearray)
    size: int = 0
    whole: bool = False
    seconds: float = 0.0
    hung: bool = False

    def words(self, behaviour: Behaviour) -> str:
        """What the client got, in few words; the same in each run."""
        if self.hung or not self.status:
            return "no end" if self.hung else "no answer"
        if not self.whole:
            true = body_of(behaviour.script).startswith(self.body)
            what = "the engine's bytes so far" if true else "OTHER BYTES"
            return f"{self.status}, {what}, then a closed connection"
        if self.content_type.startswith("text/event-stream"):
            return f"{self.status}, {self._events(behaviour)}"
        body = parsed(self.body)
        error = error_of(body)
        if error is not None and error.get("code") in OF_THE_ROUTER:
            return f"{self.status} {error['code']}"
        theirs = body_of(behaviour.script)
        same = self.body == theirs or (body is not None and _plain(body) == _plain(parsed(theirs)))
        return f"{self.status}, " + ("the engine's answer" if same else "ANOTHER ANSWER")

    def _events(self, behaviour: Behaviour) -> str:
        ours, theirs = events_of(self.body), events_of(body_of(behaviour.script))
        if self.body == body_of(behaviour.script):
            return "the engine's events"
        errors = [error_of(parsed(one)) for one in ours]
        codes = [error["code"] for error in errors if error and error.get("code") in OF_THE_ROUTER]
        if not codes:
            return _compared(ours, theirs)
        if len(codes) > 1 or (behaviour.path in WITH_DONE and ours[-1] != "[DONE]"):
            return f"ERRORS: {', '.join(codes)}"
        at = errors.index(next(error for error in errors if error and error.get("code") in codes))
        if not _is_beginning(ours[:at], theirs):
            return "OTHER EVENTS"
        return f"the engine's events so far, then {codes[0]}"


async def request(port: int, behaviour: Behaviour, model: str, patience: float) -> Outcome:
    """Ask, and read the answer to its end or until ``patience`` seconds are over."""
    outcome, began = Outcome(), time.monotonic()
    try:
        await asyncio.wait_for(_ask(port, behaviour, model, outcome), patience)
    except asyncio.TimeoutError:
        outcome.hung = True
    except (OSError, h11.RemoteProtocolError):
        pass  # the connection broke: ``whole`` says so
    outcome.seconds = time.monotonic() - began
    return outcome


async def _ask(port: int, behaviour: Behaviour, model: str, outcome: Outcome) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=1024 * 1024)
    try:
        body = json.dumps(_body(behaviour, model)).encode()
        path = behaviour.path.replace("MODEL", model)
        fields = {
            "host": "router",
            "content-type": "application/json",
            "content-length": str(len(body)),
            "x-llm-router-status": "off",
        }
        asked = h11.Request(method="POST", target=path, headers=list(fields.items()))
        for sent in (asked, h11.Data(data=body), h11.EndOfMessage()):
            writer.write(http.send(sent) or b"")
        while True:
            found = http.next_event()
            if found is h11.NEED_DATA:
                http.receive_data(await reader.read(1024 * 1024))
            elif isinstance(found, h11.Response):
                outcome.status = found.status_code
                outcome.content_type = dict(found.headers).get(b"content-type", b"").decode()
            elif isinstance(found, h11.Data):
                outcome.size += len(found.data)
                if len(outcome.body) < MOST_KEPT:
                    outcome.body += found.data
            elif isinstance(found, h11.EndOfMessage):
                outcome.whole = True
                return
            else:
                return
    finally:
        writer.transport.abort()


def _body(behaviour: Behaviour, model: str) -> dict[str, Any]:
    script = json.dumps(behaviour.script)
    if behaviour.path.startswith("/upstream/"):
        return {"script": script}
    asked: dict[str, Any] = {"model": model}
    if "chat" in behaviour.path or behaviour.path == MESSAGES:
        asked["messages"] = [{"role": "user", "content": script}]
        asked["max_tokens"] = 100
    elif behaviour.path.endswith("/completions"):
        asked["prompt"] = script
    else:
        asked["input"] = script
    if behaviour.stream:
        asked["stream"] = True
    return asked


def error_of(body: Any) -> dict[str, Any] | None:
    """The error in an answer of the API, OpenAI's or Anthropic's form; None where it is none."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None
    return error if isinstance(error.get("type"), str) else None


def parsed(text: str | bytes | bytearray) -> Any:
    """What it says as JSON; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def body_of(script: Script) -> bytes:
    """The body that a script sends, as far as it is HTTP; of an endless one a part."""
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_KEPT)
    http.send(h11.Request(method="POST", target="/", headers=[("host", "x")]))
    http.send(h11.EndOfMessage())
    body = bytearray()
    try:
        for step, *values in script:
            if step in ("send", "repeat"):
                text = values[0].encode("latin-1")
                times = values[1] if step == "repeat" else 1
                if times < 0:
                    times = MOST_KEPT // len(text) + 1
                for _ in range(times):
                    http.receive_data(text)
                    _read(http, body)
            elif step in ("close", "reset", "exit"):
                http.receive_data(b"")
                _read(http, body)
                break
    except h11.RemoteProtocolError:
        pass
    return bytes(body)


def _read(http: h11.Connection, body: bytearray) -> None:
    while isinstance(
        found := http.next_event(), (h11.Response, h11.InformationalResponse, h11.Data)
    ):
        if isinstance(found, h11.Data):
            body += found.data


def events_of(body: bytes | bytearray) -> list[str]:
    """The data of each event of a stream."""
    text = body.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    return [line[5:].removeprefix(" ") for line in text.split("\n") if line.startswith("data:")]


ADDED = ("tokens_per_second", "tokens_per_second_with_prompt", "switch_seconds")


def _plain(body: Any) -> Any:
    """Without what the router documents that it adds or drops."""
    if not isinstance(body, dict):
        return body
    kept = {key: value for key, value in body.items() if key != "usage"}
    if isinstance(body.get("usage"), dict):
        kept["usage"] = {k: v for k, v in body["usage"].items() if k not in ADDED}
    return kept


def _event(text: str) -> Any:
    """An event for a comparison: no usage, no role of a first delta."""
    body = parsed(text)
    if not isinstance(body, dict):
        return text
    choices = body.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and isinstance(choice.get("delta"), dict):
            choice["delta"].pop("role", None)
    return {key: value for key, value in body.items() if key != "usage"}


def _kept(events: list[str]) -> list[Any]:
    """Without those that have usage only: the router drops it where it was not requested."""
    found = [_event(one) for one in events]
    return [one for one in found if not isinstance(one, dict) or one.get("choices") != []]


def _is_beginning(ours: list[str], theirs: list[str]) -> bool:
    mine, its = _kept(ours), _kept(theirs)
    return mine == its[: len(mine)]


def _compared(ours: list[str], theirs: list[str]) -> str:
    if _kept(ours) == _kept(theirs):
        return "the engine's events"
    if ours[-1:] == ["[DONE]"] and _kept(ours[:-1]) == _kept(theirs):
        return "the engine's events and [DONE]"
    return "OTHER EVENTS"
