"""Anthropic's Messages and OpenAI's Responses: streams of events that have names and types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

from contracts.openai import OpenAi, Routes, Turn
from wire import Connection, Request, Stopping

Event = tuple[str, dict[str, Any]]


class TypedApis(OpenAi):
    """An engine that has both natively."""

    routes: ClassVar[Routes] = {
        **OpenAi.routes,
        ("POST", "/v1/messages"): "chat",
        ("POST", "/v1/messages/count_tokens"): "count_tokens",
        ("POST", "/v1/responses"): "chat",
    }

    def count_input_tokens(self, connection: Connection, request: Request) -> None:
        connection.answer(200, {"object": "response.input_tokens", "input_tokens": 3})

    def count_tokens(self, connection: Connection, request: Request) -> None:
        connection.answer(200, {"input_tokens": 3})

    def answer_turn(self, connection: Connection, turn: Turn) -> None:
        if turn.path not in ("/v1/messages", "/v1/responses"):
            super().answer_turn(connection, turn)
            return
        if "no-token" in self.options.faults:
            self.generation_failed(connection)
            return
        if "mute" in self.options.faults:
            connection.wait(None)
        messages = turn.path == "/v1/messages"
        if not turn.body.get("stream"):
            connection.wait(self.options.first + self.options.interval * max(0, turn.count - 1))
            connection.answer(200, self.message(turn) if messages else self.response(turn))
            return
        connection.wait(self.options.first)
        connection.begin_stream()
        connection.heeds_stop = self.streams_heed_stop
        try:
            self.typed_stream(connection, turn, messages=messages)
        except Stopping:
            connection.close()

    def typed_stream(self, connection: Connection, turn: Turn, *, messages: bool) -> None:
        opening, closing = self.around_message(turn) if messages else self.around_response(turn)
        for event in opening:
            self.typed(connection, *event)
        for number in range(turn.count):
            if number:
                self.between_tokens(connection, self.options.interval)
            if number == self.options.after and not self.goes_on(connection, turn):
                return
            if messages:
                delta = {"type": "text_delta", "text": self.word(number)}
                self.typed(connection, "content_block_delta", {"index": 0, "delta": delta})
            else:
                delta = {"item_id": "msg_1", "delta": self.word(number)}
                self.typed(connection, "response.output_text.delta", delta)
        if "no-done" not in self.options.faults:
            for event in closing:
                self.typed(connection, *event)
        connection.end_stream()

    def typed(self, connection: Connection, kind: str, fields: dict[str, Any]) -> None:
        data = json.dumps({"type": kind, **fields}, ensure_ascii=False)
        connection.piece(f"event: {kind}\ndata: {data}\n\n".encode())

    def message(self, turn: Turn) -> dict[str, Any]:
        usage = {"input_tokens": 3, "output_tokens": turn.count}
        text = {"type": "text", "text": self.words(0, turn.count)}
        reason = {"stop_reason": "end_turn", "stop_sequence": None}
        head = {"id": "msg_1", "type": "message", "role": "assistant"}
        model = {"model": turn.base["model"]}
        return {**head, **model, "content": [text], **reason, "usage": usage}

    def around_message(self, turn: Turn) -> tuple[Iterator[Event], Iterator[Event]]:
        start = {**self.message(turn), "content": [], "stop_reason": None}
        block = {"type": "text", "text": ""}
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        opening: list[Event] = [
            ("message_start", {"message": start}),
            ("content_block_start", {"index": 0, "content_block": block}),
        ]
        closing: list[Event] = [
            ("content_block_stop", {"index": 0}),
            ("message_delta", {"delta": end, "usage": {"output_tokens": turn.count}}),
            ("message_stop", {}),
        ]
        return iter(opening), iter(closing)

    def response(self, turn: Turn) -> dict[str, Any]:
        usage = {"input_tokens": 3, "output_tokens": turn.count, "total_tokens": 3 + turn.count}
        part = {"type": "output_text", "text": self.words(0, turn.count), "annotations": []}
        item = {"type": "message", "id": "msg_1", "role": "assistant", "content": [part]}
        head = {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed"}
        model = {"model": turn.base["model"]}
        return {**head, **model, "output": [{**item, "status": "completed"}], "usage": usage}

    def around_response(self, turn: Turn) -> tuple[Iterator[Event], Iterator[Event]]:
        begun = {**self.response(turn), "status": "in_progress", "output": [], "usage": None}
        opening: list[Event] = [("response.created", {"response": begun})]
        closing: list[Event] = [("response.completed", {"response": self.response(turn)})]
        return iter(opening), iter(closing)
