"""The proxied paths: a request names a model, waits for it, and has its engine's answer.

A plain ASGI function per path, because this is the hot path: FastAPI serves everything else.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import anyio
import httpx

from llm_router.api import status
from llm_router.api.auth import Caller, identify
from llm_router.api.errors import (
    ApiError,
    bad_request,
    internal_error,
    refused,
    unknown_model,
    upstream_broke,
)
from llm_router.api.reply import DONE, ClientGone, Receive, Reply, Send, read_body
from llm_router.api.services import Services
from llm_router.api.sse import Measured, SseRelay
from llm_router.api.wire import to_json
from llm_router.config.schema import Model
from llm_router.engines import engine_for
from llm_router.scheduler.service import Lease, Refused, Ticket
from llm_router.units.base import UnitError

log = logging.getLogger(__name__)

STATUS_HEADER = "x-llm-router-status"
# the connection's own matters, and what the router answers for itself
_KEEP_RESPONSE_HEADERS = ("content-type", "retry-after", "x-request-id")


@dataclass
class Exchange:
    """One request on its way."""

    caller: Caller
    model: Model
    body: dict[str, Any]
    stream: bool
    style: status.Style
    began: float
    base: dict[str, Any]
    """id, created and model of the chunks that the router makes itself."""
    wants_usage: bool
    queue_seconds: float | None = None
    switch_seconds: float = 0.0
    rate: float | None = None


class Generation:
    """The ASGI app of one path, such as ``/v1/chat/completions``.

    ``services`` is set when the app has started.
    """

    def __init__(self, path: str, *, chat: bool) -> None:
        self._path = path
        self._chat = chat

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        services: Services = scope["app"].state.services
        reply = Reply(send)
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        exchange: Exchange | None = None
        try:
            caller = identify(scope, headers, services.settings)
            caller.must("use")
            raw = await read_body(receive, services.settings.config.requests.max_body)
            exchange = self._open(services, caller, headers, raw)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_cancel_when_gone, receive, tasks.cancel_scope)
                try:
                    await self._answer(services, exchange, reply)
                except ApiError as error:
                    await reply.fail(error)
                except Exception:
                    log.exception("request for %s failed inside the router", exchange.model.name)
                    await reply.fail(internal_error())
                tasks.cancel_scope.cancel()
        except ApiError as error:
            await reply.fail(error)
        except ClientGone:
            pass
        finally:
            if exchange is not None:
                # 499 is the field's name for "the client left first"
                code = reply.status if reply.ended else 499
                name = exchange.model.name
                services.metrics.request_ended(name, self._path, code, exchange.queue_seconds)
                log.info(
                    "request path=%s model=%s key=%s status=%d stream=%s seconds=%.3f switch=%.3f",
                    self._path,
                    name,
                    exchange.caller.name,
                    code,
                    exchange.stream,
                    services.clock() - exchange.began,
                    exchange.switch_seconds,
                )

    def _open(
        self, services: Services, caller: Caller, headers: Mapping[str, str], raw: bytes
    ) -> Exchange:
        """Understand the request. Raises `ApiError`."""
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise bad_request(f"The request body is not valid JSON: {error}.") from error
        if not isinstance(body, dict):
            raise bad_request("The request body must be a JSON object.")
        name = body.get("model")
        if not isinstance(name, str):
            raise bad_request("The request names no model: `model` must be text.", "model")
        model = services.models.get(name)
        if model is None:
            raise unknown_model(name, services.models)
        if "switch" not in caller.scopes and not services.is_loaded(name):
            loaded = services.scheduler.core.group_of(name).loaded
            raise ApiError(
                409,
                "switch_not_allowed",
                f"The model '{name}' is not loaded and the key '{caller.name}' may not cause a "
                f"switch. Loaded now: {loaded or 'none'}.",
                param="model",
            )
        stream = body.get("stream") is True
        options = body.get("stream_options")
        wants_usage = isinstance(options, dict) and options.get("include_usage") is True
        try:
            style = status.choose_style(
                body,
                header=headers.get(STATUS_HEADER),
                key=caller.status,
                model=model.status,
                default=services.settings.config.status.style,
            )
        except ValueError as error:
            raise bad_request(
                f"The header X-LLM-Router-Status has '{error}': "
                "use auto, content, event, reasoning or off."
            ) from error
        base = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": name,
        }
        return Exchange(
            caller,
            model,
            body,
            stream,
            style if stream and self._chat else "off",
            services.clock(),
            base,
            wants_usage,
        )

    async def _answer(self, services: Services, exchange: Exchange, reply: Reply) -> None:
        """Wait for the model and relay its answer; an engine found dead is brought back once."""
        for attempt in (1, 2):
            ticket = services.scheduler.request(exchange.model.name)
            try:
                lease = await self._wait(services, exchange, ticket, reply)
                exchange.queue_seconds = (exchange.queue_seconds or 0.0) + lease.queue_seconds
                exchange.switch_seconds += lease.switch_seconds
                await self._forward(services, exchange, reply)
                return
            except httpx.TransportError as error:
                # nothing of an answer has come: see what became of the engine
                if attempt == 2 or not await _engine_is_dead(services, exchange.model):
                    what = f"did not answer ({type(error).__name__})"
                    raise upstream_broke(exchange.model.name, what) from error
                services.scheduler.lost(exchange.model.name)
            except Refused as error:
                raise refused(error.refusal) from error
            finally:
                ticket.close()

    async def _wait(
        self, services: Services, exchange: Exchange, ticket: Ticket, reply: Reply
    ) -> Lease:
        """Wait for the lease, and tell who waits, in the style that the request has."""
        if ticket.is_settled() or exchange.style == "off":
            return await ticket.wait()
        if not reply.started:
            await reply.start_events(_headers(exchange))
        name = exchange.model.name
        await self._tell(exchange, reply, status.switching(name))
        interval = services.settings.config.status.interval
        while not ticket.is_settled():
            with anyio.move_on_after(interval):
                await ticket.wait()
            if not ticket.is_settled():
                await self._tell(exchange, reply, _progress(services, exchange.model, ticket))
        lease = await ticket.wait()
        seconds = services.scheduler.seconds_since(ticket.since)
        await self._tell(exchange, reply, status.ready(seconds), done=True)
        return lease

    async def _tell(
        self, exchange: Exchange, reply: Reply, line: str, *, done: bool = False
    ) -> None:
        await reply.write(status.status_chunk(exchange.base, exchange.style, line, done=done))

    async def _forward(self, services: Services, exchange: Exchange, reply: Reply) -> None:
        """Have the engine's answer. Raises `httpx.TransportError` only before any of it came."""
        url = exchange.model.base_url + self._path
        sent = services.clock()
        async with services.client.stream(
            "POST",
            url,
            content=to_json(_upstream_body(exchange)),
            headers={"content-type": "application/json", "accept-encoding": "identity"},
        ) as response:
            kind = response.headers.get("content-type", "")
            if response.status_code == 200 and kind.startswith("text/event-stream"):
                await self._relay(services, exchange, reply, response, sent)
                return
            try:
                data = await response.aread()
            except httpx.TransportError as error:
                what = f"broke off its answer ({type(error).__name__})"
                raise upstream_broke(exchange.model.name, what) from error
        if reply.started:
            raise _as_error(exchange.model.name, response.status_code, data)
        if response.status_code == 200:
            data = self._with_rate(services, exchange, data, services.clock() - sent)
        kept = [(k, response.headers[k]) for k in _KEEP_RESPONSE_HEADERS if k in response.headers]
        headers = [*kept, *_headers(exchange), ("content-length", str(len(data)))]
        if exchange.rate is not None:
            headers.append(("x-llm-router-tokens-per-second", f"{exchange.rate:.1f}"))
        await reply.start(response.status_code, headers)
        await reply.end(data)

    async def _relay(
        self,
        services: Services,
        exchange: Exchange,
        reply: Reply,
        response: httpx.Response,
        sent: float,
    ) -> None:
        relay = SseRelay(
            before_done=lambda measured: _last_words(exchange, measured),
            enrich=lambda measured: _rate_keys(exchange, measured.rate),
            drop_usage=not exchange.wants_usage,
        )
        if not reply.started:
            await reply.start_events(_headers(exchange))
        broke: str | None = None
        try:
            async for data in response.aiter_raw():
                await reply.write(relay.feed(data, services.clock()))
        except httpx.TransportError as error:
            broke = type(error).__name__
        await reply.write(relay.close(services.clock()))
        measured = relay.measured
        ttft = measured.first_token - sent if measured.first_token is not None else None
        services.metrics.answered(exchange.model.name, ttft, measured.tokens, measured.rate)
        if measured.finished:
            await reply.end()
        elif broke is None and measured.token_events:
            # the engine ended its stream in order but for the mark that clients wait for
            await reply.end(_last_words(exchange, measured) + DONE)
        else:
            what = f"stopped in the middle of its answer ({broke or 'end of stream'})"
            raise upstream_broke(exchange.model.name, what)

    def _with_rate(
        self, services: Services, exchange: Exchange, data: bytes, seconds: float
    ) -> bytes:
        """tok/s into ``usage`` of a whole answer, by the engine's own measure where it has one."""
        try:
            body = json.loads(data)
        except ValueError:
            return data
        usage = body.get("usage") if isinstance(body, dict) else None
        tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
        if not isinstance(usage, dict) or not isinstance(tokens, int):
            return data
        rate = _engine_rate(body)
        if rate is None and seconds > 0:
            rate = tokens / seconds
        services.metrics.answered(exchange.model.name, None, tokens, rate)
        exchange.rate = rate
        usage.update(_rate_keys(exchange, rate))
        return to_json(body)


async def _cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    """A client that hangs up ends its request: its place in the queue, its answer at the engine."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _engine_is_dead(services: Services, model: Model) -> bool:
    """Whether a refused connection means that the engine must be started again.

    A unit that is still there is restarted only if nobody else is being served by it.
    """
    try:
        state = await services.units.state(model)
    except UnitError:
        return False
    leases = services.scheduler.core.group_of(model.name).leases
    return not state.running or len(leases) <= 1


def _progress(services: Services, model: Model, ticket: Ticket) -> str:
    switch = services.scheduler.switches.get(model.group)
    if switch is not None and switch.target == model.name and switch.step not in ("", "Drain"):
        timeout = model.timeout or services.settings.config.switch.timeout
        return status.loading(services.scheduler.seconds_since(switch.started), timeout)
    elapsed = services.scheduler.seconds_since(ticket.since)
    if switch is not None and switch.target != model.name:
        return status.waiting(switch.target, elapsed)
    loaded = services.scheduler.core.groups[model.group].loaded
    return status.waiting(loaded or model.name, elapsed)


def _upstream_body(exchange: Exchange) -> dict[str, Any]:
    """The request as the engine gets it."""
    body = {**exchange.body, "model": exchange.model.upstream_name}
    if "messages" in body:
        body["messages"], _ = status.strip_status(body["messages"])
    if exchange.stream and engine_for(exchange.model).asks_for_usage:
        options = body.get("stream_options")
        options = options if isinstance(options, dict) else {}
        body["stream_options"] = {**options, "include_usage": True}
    return body


def _headers(exchange: Exchange) -> list[tuple[str, str]]:
    headers = [
        ("x-llm-router-model", exchange.model.name),
        ("x-llm-router-backend", exchange.model.backend),
    ]
    if exchange.queue_seconds is not None:
        headers.append(("x-llm-router-queue-seconds", f"{exchange.queue_seconds:.3f}"))
        headers.append(("x-llm-router-switch-seconds", f"{exchange.switch_seconds:.3f}"))
    return headers


def _last_words(exchange: Exchange, measured: Measured) -> bytes:
    """What the router adds before ``[DONE]``."""
    base = {**exchange.base, "id": measured.chunk_id or exchange.base["id"]}
    rate = measured.rate
    if rate is None or exchange.style == "off":
        return b""
    if exchange.style == "content":
        if measured.tool_calls:
            return b""
        line = status.footer(rate, measured.tokens, measured.seconds)
        return status.chunk(base, {"content": f"\n\n{line}"})
    if exchange.wants_usage:
        return b""
    # choices with an empty delta: a client that asked for no usage reads choices[0] of every chunk
    usage = {**(measured.usage or {}), **_rate_keys(exchange, rate)}
    return status.chunk(base, {}, usage=usage)


def _rate_keys(exchange: Exchange, rate: float | None) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    if rate is not None:
        keys["tokens_per_second"] = round(rate, 1)
    if exchange.switch_seconds:
        keys["switch_seconds"] = round(exchange.switch_seconds, 1)
    return keys


def _engine_rate(body: Mapping[str, Any]) -> float | None:
    """llama.cpp: timings; TabbyAPI: usage; vLLM: metrics."""
    for section, key in (
        ("timings", "predicted_per_second"),
        ("usage", "completion_tokens_per_sec"),
        ("metrics", "tokens_per_second"),
    ):
        values = body.get(section)
        rate = values.get(key) if isinstance(values, dict) else None
        if isinstance(rate, (int, float)) and rate > 0:
            return float(rate)
    return None


def _as_error(model: str, code: int, data: bytes) -> ApiError:
    """An engine's refusal, for a stream whose 200 is out already."""
    try:
        message = json.loads(data)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = data[:300].decode("utf-8", "replace")
    return ApiError(
        code,
        "engine_error",
        f"The engine of '{model}' answered {code}: {message}",
        kind="server_error",
    )
