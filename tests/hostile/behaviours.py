"""What engines do that nobody would expect, a line each, and what the client must get."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"
UPSTREAM = "/upstream/MODEL/script"

IDLE = 2.0
"""Seconds: `requests.idle_timeout` of the router in these tests."""
MAX_ANSWER = 4_000_000
"""Bytes: `requests.max_answer` there."""

Script = list[list[Any]]

OK = "HTTP/1.1 200 OK\r\n"
JSON = "content-type: application/json\r\n"
EVENTS = "content-type: text/event-stream\r\n"
CHUNKED = "transfer-encoding: chunked\r\n"
STREAM = OK + EVENTS + CHUNKED + "\r\n"
END = "0\r\n\r\n"
ENDLESS = -1


def chunk(text: str) -> str:
    """A piece of a body in chunked encoding."""
    return f"{len(text):x}\r\n{text}\r\n"


def event(body: Any) -> str:
    """An event of a stream, in a chunk of its own."""
    return chunk(f"data: {body if isinstance(body, str) else json.dumps(body)}\n\n")


def token(text: str, index: int = 0, finish: str | None = None) -> dict[str, Any]:
    """A chat's chunk."""
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "choices": [choice]}


def answer(text: str, **more: Any) -> str:
    """A chat's whole answer."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"id": "c", "object": "chat.completion", "choices": [choice], **more})


def whole(body: str, fields: str = JSON, status: str = "200 OK") -> str:
    """A whole answer with its length."""
    return f"HTTP/1.1 {status}\r\n{fields}content-length: {len(body)}\r\n\r\n{body}"


DONE = event("[DONE]")
FINISHED = event(token("", finish="stop"))


@dataclass(frozen=True)
class Behaviour:
    """``gets`` is what the client must get, in the words of `outcome.Outcome.words`."""

    name: str
    script: Script
    gets: str
    path: str = CHAT
    stream: bool = False
    sent: int = 1
    """How often the engine is asked at most."""


def streamed(name: str, *script: Any, gets: str, **more: Any) -> Behaviour:
    """A behaviour in the answer to a streamed chat. A text is sent as it is."""
    return plain(name, *script, gets=gets, stream=True, **more)


def plain(name: str, *script: Any, gets: str, **more: Any) -> Behaviour:
    """A behaviour in the answer to a request that is not streamed."""
    steps = [["send", step] if isinstance(step, str) else step for step in script]
    return Behaviour(name, [["name", name], *steps], gets, **more)


BEGUN = STREAM + event(token("a"))
PASSING = "200, the engine's bytes so far, then a closed connection"
CUT = "200, the engine's events so far, then engine_failed"
LATE = "200, the engine's events so far, then engine_timeout"
TRUE = "200, the engine's answer"
EVENTS_AS_SENT = "200, the engine's events"
BROKEN = "502 engine_failed"
SILENT = "504 engine_timeout"
LISTS = "[" + "[]," * 1_000_000 + "1]"
HUGE = "9" * 400


def stream_of(*bodies: Any, finished: str = FINISHED + DONE) -> str:
    """A stream of these events that ends as it should."""
    return STREAM + "".join(map(event, bodies)) + finished + END


def numbers(**values: str) -> str:
    """A chat's answer with numbers in its usage as text, since JSON has none of these."""
    made = answer("hi", usage={"prompt_tokens": 1, **dict.fromkeys(values, "?")})
    for value in values.values():
        made = made.replace('"?"', value, 1)
    return made


WHOLE_ANSWERS = (
    plain("answers well", whole(answer("hi")), gets=TRUE),
    plain("sends nothing", ["wait", 20], gets=SILENT),
    plain(
        "sends a header line now and then, without end",
        OK,
        ["repeat", "x-a: 1\r\n", ENDLESS, 0.2],
        gets=SILENT,
    ),
    plain(
        "sends 100 Continue now and then, without end",
        ["repeat", "HTTP/1.1 100 Continue\r\n\r\n", ENDLESS, 0.2],
        gets=SILENT,
    ),
    plain(
        "sends a head without end",
        OK,
        ["repeat", f"x-a: {'y' * 8000}\r\n", ENDLESS, 0],
        gets=BROKEN,
    ),
    plain(
        "sends a header without end", OK + "x-a: ", ["repeat", "y" * 8000, ENDLESS, 0], gets=BROKEN
    ),
    plain(
        "sends 103 Early Hints without end",
        ["repeat", "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 100, ENDLESS, 0],
        gets=BROKEN,
    ),
    plain(
        "sends three interim answers before its answer",
        "HTTP/1.1 102 Processing\r\n\r\n" * 3 + whole(answer("hi")),
        gets=TRUE,
    ),
    plain(
        "sends an answer without end",
        OK + JSON + CHUNKED + "\r\n",
        ["repeat", chunk("x" * 65536), ENDLESS, 0],
        gets=BROKEN,
    ),
    plain(
        "sends an error without end",
        "HTTP/1.1 500 Oh\r\n" + JSON + CHUNKED + "\r\n",
        ["repeat", chunk("x" * 65536), ENDLESS, 0],
        gets=BROKEN,
    ),
    plain(
        "announces a length of 10 GB",
        OK + JSON + "content-length: 10000000000\r\n\r\n{",
        ["wait", 20],
        gets=BROKEN,
    ),
    plain(
        "sends a chunk of 2^60 bytes",
        OK + JSON + CHUNKED + "\r\n1000000000000000\r\n",
        ["repeat", "x" * 65536, ENDLESS, 0],
        gets=BROKEN,
    ),
    plain(
        "sends a chunk extension without end",
        OK + JSON + CHUNKED + "\r\n2;",
        ["repeat", "y" * 8000, ENDLESS, 0],
        gets=BROKEN,
    ),
    plain(
        "sends a trailer without end",
        OK + JSON + CHUNKED + "\r\n" + chunk(answer("hi")) + "0\r\n",
        ["repeat", f"x-a: {'y' * 8000}\r\n", ENDLESS, 0],
        gets=BROKEN,
    ),
    plain(
        "sends a trailer now and then, without end",
        OK + JSON + CHUNKED + "\r\n" + chunk(answer("hi")) + "0\r\n",
        ["repeat", "x-a: y\r\n", ENDLESS, 0.2],
        gets=SILENT,
    ),
    plain(
        "sends its answer in chunks of a byte",
        OK + JSON + CHUNKED + "\r\n" + "".join(map(chunk, answer("hi" * 5000))) + END,
        gets=TRUE,
    ),
    plain(
        "takes longer than the idle time for its answer, a piece at a time",
        OK + JSON + CHUNKED + "\r\n" + chunk(answer("hi")[:-1]),
        ["repeat", chunk(" "), 6, IDLE / 4],
        chunk("}") + END,
        gets=TRUE,
    ),
    plain("closes the connection", ["close"], gets=BROKEN, sent=2),
    plain("resets the connection", ["reset"], gets=BROKEN, sent=2),
    plain(
        "resets all its connections, once",
        ["once", [["reset others"], ["reset"]]],
        whole(answer("hi")),
        gets=TRUE,
        sent=2,
    ),
    plain("closes after half a status line", "HTTP/1.1 2", ["close"], gets=BROKEN),
    plain("closes after half a head", OK + "content-le", ["close"], gets=BROKEN),
    plain("resets after half a head", OK + "content-le", ["wait", 0.1], ["reset"], gets=BROKEN),
    plain("closes after half an answer", whole(answer("hi"))[:-5], ["close"], gets=BROKEN),
    plain(
        "resets after half an answer",
        whole(answer("hi"))[:-5],
        ["wait", 0.1],
        ["reset"],
        gets=BROKEN,
    ),
    plain("falls silent after half an answer", whole(answer("hi"))[:-5], ["wait", 20], gets=SILENT),
    plain("ends its process", ["exit"], gets=BROKEN, sent=2),
    plain(
        "ends its process after half an answer",
        whole(answer("hi"))[:-5],
        ["wait", 0.1],
        ["exit"],
        gets=BROKEN,
    ),
    plain("speaks SSH", "SSH-2.0-OpenSSH_9.2\r\n", gets=BROKEN),
    plain("speaks TLS", "\x15\x03\x01\x00\x02\x02\x46", ["close"], gets=BROKEN),
    plain(
        "speaks HTTP/2",
        "\x00\x00\x12\x04\x00\x00\x00\x00\x00" + "\x00" * 18,
        ["close"],
        gets=BROKEN,
    ),
    plain("speaks HTTP/0.9", answer("hi"), ["close"], gets=BROKEN),
    plain(
        "switches protocols",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nhi",
        gets=BROKEN,
    ),
    plain("sends a byte after its answer", whole(answer("hi")) + "x", gets=TRUE),
    plain(
        "sends a second answer after its answer",
        whole(answer("hi")) + whole(answer("no")),
        gets=TRUE,
    ),
    plain(
        "announces two lengths",
        OK + JSON + "content-length: 2\r\ncontent-length: 5\r\n\r\n{}   ",
        gets=BROKEN,
    ),
    plain(
        "announces a length and sends chunks",
        OK + JSON + CHUNKED + "content-length: 2\r\n\r\n" + chunk("{}") + END,
        gets=BROKEN,
    ),
    plain(
        "announces a length that is no number",
        OK + JSON + "content-length: x\r\n\r\n{}",
        gets=BROKEN,
    ),
    plain(
        "has control characters in a header",
        OK + JSON + "x-a: \x00\x1b]52;c;x\x07\r\ncontent-length: 2\r\n\r\n{}",
        gets=BROKEN,
    ),
    plain(
        "answers with HTTP/1.0 and closes",
        "HTTP/1.0 200 OK\r\n" + JSON + "\r\n" + answer("hi"),
        ["close"],
        gets=TRUE,
    ),
    plain(
        "compresses its answer",
        whole("\x1f\x8b\x08\x00", JSON + "content-encoding: gzip\r\n"),
        gets=BROKEN,
    ),
    plain(
        "answers 500 with JSON",
        whole('{"error": {"message": "oh", "type": "x", "code": "y"}}', status="500 Oh"),
        gets="500, the engine's answer",
    ),
    plain(
        "answers 500 with a page",
        whole("<html>oh</html>", "content-type: text/html\r\n", "500 Oh"),
        gets="500 engine_error",
    ),
    plain(
        "answers 200 with a page",
        whole("<html>oh</html>", "content-type: text/html\r\n"),
        gets=TRUE,
    ),
    plain(
        "answers 204 with a body",
        "HTTP/1.1 204 No Content\r\n" + JSON + "\r\nhi",
        gets="204, the engine's answer",
    ),
    plain("answers nothing that is JSON", whole("{" * 100), gets=TRUE),
    plain("answers with a text of 3 MB", whole(answer("x" * 3_000_000)), gets=TRUE),
    plain("answers null", whole("null"), gets=TRUE),
    plain("answers with text that is not UTF-8", whole('{"choices": "\xff\xfe"}'), gets=TRUE),
    plain("nests its answer 200,000 deep", whole("[" * 200_000 + "]" * 200_000), gets=TRUE),
    plain("answers with a million lists", whole(LISTS), gets=TRUE),
    plain(
        "answers with choices that are none",
        whole('{"choices": [1, null, {"message": []}], "usage": [], "timings": 1}'),
        gets=TRUE,
    ),
    plain("counts -1 tokens", whole(numbers(completion_tokens="-1")), gets=TRUE),
    plain("counts 10^400 tokens", whole(numbers(completion_tokens=HUGE)), gets=TRUE),
    plain("counts infinitely many tokens", whole(numbers(completion_tokens="1e999")), gets=TRUE),
    plain("counts NaN tokens", whole(numbers(completion_tokens="NaN")), gets=TRUE),
    plain(
        "is infinitely fast",
        whole(numbers(completion_tokens="5", completion_tokens_per_sec="1e999")),
        gets=TRUE,
    ),
    plain(
        "logs 40 MB with terminal escapes",
        ["log", "\x1b]52;c;eA==\x07" + "x" * 4000, 10_000],
        whole(answer("hi")),
        gets=TRUE,
    ),
)

STREAMS = (
    streamed("streams well", stream_of(token("a")), gets=EVENTS_AS_SENT),
    streamed("sends nothing of a stream", STREAM, ["wait", 20], gets=LATE),
    streamed("falls silent in a stream", BEGUN, ["wait", 20], gets=LATE),
    streamed("closes a stream", BEGUN, ["close"], gets=CUT),
    streamed("resets a stream", BEGUN, ["wait", 0.1], ["reset"], gets=CUT),
    streamed("ends its process in a stream", BEGUN, ["wait", 0.1], ["exit"], gets=CUT),
    streamed("ends a stream in the middle", BEGUN + END, gets=CUT),
    streamed(
        "ends a stream in the middle of an event", BEGUN + chunk('data: {"choi') + END, gets=CUT
    ),
    streamed(
        "ends a stream without [DONE]",
        stream_of(token("a"), finished=FINISHED),
        gets="200, the engine's events and [DONE]",
    ),
    streamed("sends a chunk that is none in a stream", BEGUN + "zz\r\n", gets=CUT),
    streamed(
        "sends a chunk extension without end in a stream",
        BEGUN + "2;",
        ["repeat", "y" * 8000, ENDLESS, 0],
        gets=CUT,
    ),
    streamed(
        "sends a trailer without end after a stream",
        STREAM + event(token("a")) + FINISHED + DONE + "0\r\n",
        ["repeat", f"x-a: {'y' * 8000}\r\n", ENDLESS, 0],
        gets=EVENTS_AS_SENT,
    ),
    streamed(
        "sends a second answer after a stream",
        stream_of(token("a")) + whole(answer("no")),
        gets=EVENTS_AS_SENT,
    ),
    streamed(
        "waits between half events",
        STREAM,
        *[step for part in event(token("abc")) for step in (part, ["wait", 0.01])],
        FINISHED + DONE + END,
        gets=EVENTS_AS_SENT,
    ),
    streamed(
        "sends an error in a stream",
        stream_of(
            token("a"), {"error": {"message": "oh", "type": "x", "code": 500}}, finished=DONE
        ),
        gets=EVENTS_AS_SENT,
    ),
    streamed(
        "sends an error that is a text in a stream",
        stream_of(token("a"), {"error": "oh"}, finished=DONE),
        gets=EVENTS_AS_SENT,
    ),
    streamed(
        "sends events that are not JSON",
        stream_of("{", "null", "[]", "1", '"x"'),
        gets=EVENTS_AS_SENT,
    ),
    streamed(
        "sends choices that are none",
        stream_of(
            '{"choices": [1, null, {"delta": [], "index": "x"}, '
            '{"delta": {"content": 7}, "index": 1e999}], "usage": 3}',
            token("a"),
        ),
        gets=EVENTS_AS_SENT,
    ),
    streamed(
        "sends text that is not UTF-8",
        stream_of('{"choices": [{"index": 0, "delta": {"content": "\xff\xfe"}}]}'),
        gets=EVENTS_AS_SENT,
    ),
    streamed(
        "sends terminal escapes as text",
        stream_of(token("\x1b]52;c;eA==\x07\u009b31m"[:12])),
        gets=EVENTS_AS_SENT,
    ),
    streamed(
        "sends a new choice with each event",
        STREAM,
        *[
            ["send", "".join(event(token("a", index)) for index in range(start, start + 1000))]
            for start in range(0, 6_000, 1000)
        ],
        FINISHED + DONE + END,
        gets=EVENTS_AS_SENT,
    ),
    streamed(
        "sends an event with 50,000 choices",
        stream_of({"choices": [{"index": i, "delta": {"content": "a"}} for i in range(50_000)]}),
        gets=EVENTS_AS_SENT,
    ),
    streamed("sends an event with a million lists", stream_of(LISTS), gets=EVENTS_AS_SENT),
    streamed(
        "sends an event nested 200,000 deep",
        stream_of("[" * 200_000 + "]" * 200_000),
        gets=EVENTS_AS_SENT,
    ),
    streamed(
        "sends an event with 5,900 texts beside its token",
        stream_of({**token("a"), "more": [{"text": "a"}] * 5900}),
        gets=EVENTS_AS_SENT,
    ),
    streamed(
        "sends an event of 200,000 lines",
        STREAM,
        ["repeat", chunk("data: 1\n" * 10_000), 20, 0],
        chunk("\n"),
        FINISHED + DONE + END,
        gets=EVENTS_AS_SENT,
    ),
    streamed(
        "sends an event of 12 MB",
        STREAM,
        chunk("data: "),
        ["repeat", chunk("x" * 60_000), 200, 0],
        chunk("\n\n"),
        FINISHED + DONE + END,
        gets=EVENTS_AS_SENT,
    ),
    streamed(
        "sends 240,000 empty lines",
        STREAM,
        ["repeat", chunk("\n" * 60_000), 4, 0],
        FINISHED + DONE + END,
        gets=EVENTS_AS_SENT,
    ),
    streamed(
        "sends 60,000 comments",
        STREAM,
        ["repeat", chunk(":\n\n" * 20_000), 3, 0],
        FINISHED + DONE + END,
        gets=EVENTS_AS_SENT,
    ),
    streamed(
        "sends 30,000 events without a choice",
        STREAM,
        ["repeat", chunk("data: {}\n\n" * 5_000), 6, 0],
        FINISHED + DONE + END,
        gets=EVENTS_AS_SENT,
    ),
    streamed(
        "counts -1 tokens in a stream",
        stream_of({**token("a"), "usage": {"completion_tokens": -1, "prompt_tokens": -1}}),
        gets=EVENTS_AS_SENT,
    ),
    streamed(
        "counts 10^400 tokens in a stream",
        stream_of({**token("a"), "usage": {"completion_tokens": 10**400}}),
        gets=EVENTS_AS_SENT,
    ),
    streamed(
        "is infinitely fast in a stream",
        stream_of(
            '{"choices": [], "usage": {"completion_tokens": 5}, '
            '"timings": {"predicted_per_second": 1e999}}',
            token("a"),
        ),
        gets=EVENTS_AS_SENT,
    ),
    streamed(
        "ends its lines with CR alone",
        STREAM + chunk("data: 1\r\rdata: 2\r\r") + FINISHED + DONE + END,
        gets=EVENTS_AS_SENT,
    ),
    streamed(
        "answers 500 to a stream",
        whole('{"error": {"message": "oh", "type": "x", "code": "y"}}', status="500 Oh"),
        gets="500, the engine's answer",
    ),
    streamed("answers a stream with JSON", whole(answer("hi")), gets=TRUE),
    streamed(
        "closes a stream of completions",
        STREAM + event('{"choices": [{"index": 0, "text": "a"}]}'),
        ["close"],
        gets=CUT,
        path=COMPLETIONS,
    ),
    streamed(
        "closes a stream of Messages",
        STREAM + chunk('event: message_start\ndata: {"type": "message_start"}\n\n'),
        ["close"],
        gets=CUT,
        path=MESSAGES,
    ),
    streamed(
        "closes a stream of Responses",
        STREAM + chunk('event: response.created\ndata: {"type": "response.created"}\n\n'),
        ["close"],
        gets=CUT,
        path=RESPONSES,
    ),
    streamed(
        "falls silent in a stream of Messages",
        STREAM + chunk('event: message_start\ndata: {"type": "message_start"}\n\n'),
        ["wait", 20],
        gets=LATE,
        path=MESSAGES,
    ),
)

PASSED_ON = (
    plain("embeds well", whole('{"data": []}'), gets=TRUE, path=EMBEDDINGS),
    plain(
        "closes after half an embedding",
        whole('{"data": []}')[:-3],
        ["close"],
        gets=PASSING,
        path=EMBEDDINGS,
    ),
    plain(
        "falls silent after half an embedding",
        OK + JSON + CHUNKED + "\r\n" + chunk("{"),
        ["wait", 20],
        gets=PASSING,
        path=EMBEDDINGS,
    ),
    plain(
        "sends a byte after an embedding", whole('{"data": []}') + "x", gets=TRUE, path=EMBEDDINGS
    ),
    plain(
        "sends an embedding of 12 MB",
        OK + JSON + CHUNKED + "\r\n",
        ["repeat", chunk("1" * 40_000), 300, 0],
        END,
        gets=TRUE,
        path=EMBEDDINGS,
    ),
    plain(
        "sends a head without end for an embedding",
        OK,
        ["repeat", f"x-a: {'y' * 8000}\r\n", ENDLESS, 0],
        gets=BROKEN,
        path=EMBEDDINGS,
    ),
    plain(
        "answers a path of its own well",
        whole("hi", "content-type: text/plain\r\n"),
        gets=TRUE,
        path=UPSTREAM,
    ),
    plain(
        "closes after half of an answer to a path of its own",
        whole("hi", "content-type: text/plain\r\n")[:-1],
        ["close"],
        gets=PASSING,
        path=UPSTREAM,
    ),
)

BEHAVIOURS: tuple[Behaviour, ...] = (*WHOLE_ANSWERS, *STREAMS, *PASSED_ON)
AFTER = plain("is well again", whole(answer("well")), gets=TRUE)
"""What is requested of the same model next."""
