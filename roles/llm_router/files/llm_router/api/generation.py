"""The proxied paths: a request names a model, waits for it, and has its engine's answer.

A plain ASGI function per path, because this is the hot path: FastAPI serves everything else.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from typing import Any

import anyio

from llm_router.api import headers, journal, status
from llm_router.api.audit import address_of
from llm_router.api.auth import Caller, identify
from llm_router.api.body_budget import HeldBody
from llm_router.api.engine_errors import engine_error, has_form, refused_key, status_of
from llm_router.api.errors import (
    ApiError,
    answer_too_large,
    compressed_answer,
    cut_off,
    encoded_body,
    engine_silent,
    impossible_answer,
    internal_error,
    not_loaded,
    out_of_files,
    port_held,
    refused,
    units_unavailable,
    unknown_model,
    upstream_broke,
)
from llm_router.api.exchange import Exchange
from llm_router.api.intake import Incoming, Understand, reading_task
from llm_router.api.large import LARGE
from llm_router.api.passed_on import headers_for
from llm_router.api.paths import CHAT, UPSTREAM, Operation
from llm_router.api.reply import (
    ClientGone,
    Receive,
    Reply,
    Send,
    announced_size,
    read_body,
)
from llm_router.api.services import Services
from llm_router.api.sse import Measured, SseRelay, engine_rate, model_named_by
from llm_router.api.upstream import (
    Answer,
    BrokenOff,
    Held,
    OutOfFiles,
    Silent,
    TooLarge,
    UpstreamError,
)
from llm_router.api.whole_answer import WholeAnswer
from llm_router.config.schema import Config, Model
from llm_router.engines import engine_for, repairs_for
from llm_router.engines.base import Repairs, last_part
from llm_router.engines.values import count
from llm_router.http_protocol import LINE, Line
from llm_router.scheduler.service import Lease, Refused, Ticket
from llm_router.units.base import UnitError
from llm_router.units.ports import PortHeld

log = logging.getLogger(__name__)

_NUMBERS = itertools.count(1)
LARGE_ANSWER = 1024 * 1024
"""Bytes of a whole answer that are sent at once."""
LONGEST_ERROR = 1024 * 1024
"""Bytes of an answer of a model that is an error."""


class Proxy:
    """The ASGI app of one operation's paths.

    ``services`` is set when the app has started.
    """

    def __init__(self, operation: Operation, understand: Understand) -> None:
        self._operation = operation
        self._understand = understand

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        services: Services = scope["app"].state.services
        line: Line = scope[LINE]
        line.attach()
        number = next(_NUMBERS)
        identity = journal.request_id(services.boot, number)
        began = services.clock()
        reply = Reply(line, self._operation.dialect, identity)
        given = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        exchange: Exchange | None = None
        caller: Caller | None = None
        slot: Caller | None = None
        held: HeldBody | None = None
        try:
            caller = identify(scope, given, services.settings)
            caller.must("use")
            slot = services.take_slot(caller)
            encoding = given.get("content-encoding", "identity").strip().lower()
            if encoding not in ("", "identity"):
                raise encoded_body(encoding)
            limits = services.settings.config.requests
            held = services.hold_body(caller)
            raw = await read_body(
                line,
                limit=limits.max_body,
                idle=limits.client_timeout,
                total=limits.body_timeout,
                announced=announced_size(given),
                held=held,
            )
            split = None
            if self._operation.json_request and len(raw) > LARGE:
                task = reading_task(self._operation, services.settings.config)
                split = await services.large_bodies.read(raw, task)
            exchange = self._understand(
                Incoming(services, scope, caller, given, raw, number, split)
            )
            services.in_flight[number] = exchange
            await self._until_its_end(services, exchange, reply, line)
        except ApiError as error:
            reply.fail(error)
        except ClientGone:
            pass
        except Exception:
            log.exception("a request failed inside the router")
            reply.fail(internal_error())
        finally:
            if slot is not None:
                services.give_slot(slot)
            if held is not None:
                held.release()
            if exchange is not None:
                services.in_flight.pop(number, None)
            ended = services.clock()
            services.afterwards.do(
                lambda: self._note(services, scope, reply, exchange, caller, identity, began, ended)
            )

    def _note(
        self,
        services: Services,
        scope: Mapping[str, Any],
        reply: Reply,
        exchange: Exchange | None,
        caller: Caller | None,
        identity: str,
        began: float,
        ended: float,
    ) -> None:
        """Take note of a request that is over. Times are the services' clock."""
        seconds = ended - began
        # 499 is the field's name for "the client left first"
        code = reply.broken or (reply.status if reply.ended or reply.said_done else 499)
        told = reply.failed or code
        if exchange is None:
            key = caller.name if caller is not None else None
            path = self._operation.path
            if told == 401 and not services.audit.may_note_refusal():
                return
            journal.request_refused(
                identity, path, key, told, reply.error, seconds, address_of(scope)
            )
            return
        name = exchange.model.name
        services.metrics.request_ended(name, exchange.path, told, exchange.queue_seconds)
        services.activity.ended(services, exchange, told, ended)
        switch = None
        if exchange.switch is not None:
            switch = journal.switch_id(services.boot, exchange.switch)
        journal.request_ended(
            identity, exchange, told, reply.error, seconds, switch, address_of(scope)
        )

    async def _until_its_end(
        self, services: Services, exchange: Exchange, reply: Reply, line: Line
    ) -> None:
        """Answer it, unless its client leaves or others end it; either cancels this task.

        Raises `ApiError`, `ClientGone`.
        """
        task = asyncio.current_task()
        if task is None or line.gone:
            raise ClientGone
        line.on_gone = exchange.interrupt = task.cancel
        try:
            await self._answer(services, exchange, reply, line)
        except asyncio.CancelledError:
            if line.gone:
                raise ClientGone from None
            if exchange.verdict is None:
                raise
            if sys.version_info >= (3, 11):
                task.uncancel()
            reply.fail(exchange.verdict)
        finally:
            line.on_gone = line.on_full = line.on_room = exchange.interrupt = None

    async def _answer(
        self, services: Services, exchange: Exchange, reply: Reply, line: Line
    ) -> None:
        """Wait for the model and relay its answer; an engine found dead is brought back once."""
        for attempt in (1, 2):
            ticket: Ticket | None = None
            held = services.engines.hold()
            try:
                ticket = await _queue(services, exchange)
                ticket.on_cut = lambda: exchange.end(cut_off(exchange.model.name))
                lease = await self._wait(services, exchange, ticket, reply)
                # it may be configured otherwise than when the request came
                exchange.model = services.models.get(exchange.model.name, exchange.model)
                exchange.served = True
                exchange.queue_seconds = (exchange.queue_seconds or 0.0) + lease.queue_seconds
                exchange.switch_seconds += lease.switch_seconds
                await self._forward(services, exchange, reply, line, held, fresh=attempt == 2)
                return
            except Silent as error:
                raise _silent(services, exchange) from error
            except OutOfFiles as error:
                # the engine has no part in it, and asking how it is would take a file too
                raise out_of_files() from error
            except PortHeld as error:
                raise port_held(exchange.model.name, str(error)) from error
            except UnitError as error:
                raise units_unavailable(exchange.model.name, f"{error}.") from error
            except BrokenOff as error:
                # the engine has done the work: it must not do it twice
                what = f"broke off its answer ({error})"
                raise upstream_broke(exchange.model.name, what) from error
            except UpstreamError as error:
                # nothing of an answer has come: see what became of the engine
                if attempt == 2 or not await _may_try_again(services, exchange.model):
                    what = f"did not answer ({error})"
                    raise upstream_broke(exchange.model.name, what) from error
            except Refused as error:
                raise refused(
                    error.refusal,
                    with_log=exchange.caller.may("admin"),
                    with_names=exchange.caller.models is None,
                ) from error
            finally:
                held.release()
                if ticket is not None:
                    if ticket.waited:
                        exchange.switch = services.scheduler.switch_of(ticket) or exchange.switch
                    ticket.close(exchange.keep_alive)

    async def _wait(
        self, services: Services, exchange: Exchange, ticket: Ticket, reply: Reply
    ) -> Lease:
        """Wait for the lease, and tell who waits, in the style that the request has."""
        if ticket.is_settled():
            return await ticket.wait()
        if exchange.style == "off":
            await self._wait_in_silence(services.settings.config, exchange, ticket, reply)
            return await ticket.wait()
        if not reply.started:
            reply.start_events(_headers(exchange))
        name = exchange.model.name
        self._tell(exchange, reply, status.switching(name))
        interval = services.settings.config.status.interval
        while not await _settles(ticket, interval):
            self._tell(exchange, reply, _progress(services, exchange, ticket))
        lease = await ticket.wait()
        seconds = services.scheduler.seconds_since(ticket.since)
        self._tell(exchange, reply, status.ready(seconds), done=True)
        return lease

    async def _wait_in_silence(
        self, config: Config, exchange: Exchange, ticket: Ticket, reply: Reply
    ) -> None:
        """Keep the connection alive with what every client reads over."""
        limits = config.requests
        dialect = exchange.operation.dialect
        every = limits.json_keepalive if exchange.operation.json_answer else 0.0
        every = limits.keepalive if exchange.stream else every
        while not await _settles(ticket, every or None):
            if not reply.started and exchange.stream:
                reply.start_events(_headers(exchange))
            elif not reply.started:
                reply.start(200, [("content-type", "application/json"), *_headers(exchange)])
            reply.write(dialect.keepalive if exchange.stream else b" ")

    def _tell(self, exchange: Exchange, reply: Reply, line: str, *, done: bool = False) -> None:
        reply.write(status.status_chunk(exchange.base, exchange.style, line, done=done))

    async def _forward(
        self,
        services: Services,
        exchange: Exchange,
        reply: Reply,
        line: Line,
        held: Held,
        *,
        fresh: bool,
    ) -> None:
        """Have the engine's answer, over a new connection where ``fresh``; one that is not passed
        on as it comes is in ``held``.

        Raises `UpstreamError` only before the head of an answer came.
        """
        call = exchange.call(exchange.model)
        idle = services.settings.config.requests.idle_timeout
        sent = services.clock()
        key = services.engine_keys.headers(exchange.model, services.settings.config)
        if key:
            call = replace(call, headers={**call.headers, **key})
        model = exchange.model
        answer = await services.engines.ask(
            model.base_url, call, idle, lambda: services.ports.check(model), fresh=fresh
        )
        line.on_full, line.on_room = answer.pause, answer.resume
        try:
            wrong = headers.problem(answer.status, answer.fields)
            if wrong is not None:
                raise impossible_answer(exchange.model.name, wrong)
            kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
            events = kind == "text/event-stream"
            well = answer.status == 200
            encoding = headers.encoding_of(answer.fields)
            if encoding != "identity" and (exchange.operation.generates or reply.started):
                raise compressed_answer(exchange.model.name, encoding)
            if well and events and exchange.operation.generates:
                await self._relay(services, exchange, reply, line, answer, sent, call.choices)
                return
            if answer.status in (401, 403):
                raise _refused_key(services, model, answer.status)
            if not exchange.operation.generates:
                readable = exchange.operation is not UPSTREAM and encoding == "identity"
                rewritten = answer.status >= 400 and readable
                as_it_comes = not rewritten and (well or not reply.started)
            else:
                # only an answer that is not streamed, and JSON, is measured and mended
                measurable = kind in ("", "application/json") and not exchange.stream
                as_it_comes = well and not reply.started and not measurable
            if as_it_comes:
                await self._pass_on(services, exchange, reply, answer, events=events)
                return
            limit = services.settings.config.requests.max_answer
            most = limit if well else min(limit, LONGEST_ERROR)
            try:
                await held.read(answer, most, limit)
            except Silent:
                raise
            except TooLarge as error:
                raise answer_too_large(model.name, str(error), most) from error
            except UpstreamError as error:
                what = f"broke off its answer ({error})"
                raise upstream_broke(exchange.model.name, what) from error
        finally:
            line.on_full = line.on_room = None
            answer.close()
        if exchange.operation.generates and answer.status >= 500:
            await _failed(services, exchange)
        in_place = not reply.started or (well and not exchange.stream)
        if in_place and sum(map(len, held.parts)) > LARGE_ANSWER:
            await _send_pieces(exchange, reply, line, answer, held.parts)
            return
        data = b"".join(held.parts)
        if well and not exchange.stream:
            data = self._measured(services, exchange, data, services.clock() - sent)
            if reply.started:
                reply.end(data)
                return
        if reply.started or (answer.status >= 400 and not has_form(data)):
            raise _as_error(exchange, answer, data)
        fields = [*_fields(exchange, answer), *_headers(exchange)]
        if exchange.rate is not None:
            fields.append(("x-llm-router-tokens-per-second", f"{exchange.rate:.1f}"))
        reply.whole(answer.status, data, fields)

    async def _pass_on(
        self,
        services: Services,
        exchange: Exchange,
        reply: Reply,
        answer: Answer,
        *,
        events: bool,
    ) -> None:
        """An answer of any kind and length, piece by piece, as it is."""
        if not reply.started:
            reply.passing = True
            fields = _fields(exchange, answer, unchanged=True, stream=events)
            if events:
                fields += [("cache-control", "no-cache"), ("x-accel-buffering", "no")]
            reply.start(answer.status, [*fields, *_headers(exchange)])
        try:
            answer.deliver(reply.write)
            await answer.delivered()
        except UpstreamError as error:
            if reply.passing:
                log.warning("the answer of %s broke off: %s", exchange.model.name, error)
            elif exchange.stream:
                reply.write(b"\n\n")  # what follows shall not be part of half an event
            if isinstance(error, Silent):
                raise _silent(services, exchange) from error
            what = f"stopped in the middle of its answer ({error})"
            raise upstream_broke(exchange.model.name, what) from error
        reply.end()

    async def _relay(
        self,
        services: Services,
        exchange: Exchange,
        reply: Reply,
        line: Line,
        answer: Answer,
        sent: float,
        choices: int = 1,
    ) -> None:
        ends = exchange.operation.dialect.ends
        repairs = repairs_for(exchange.model)
        relay = SseRelay(
            before_done=lambda measured: _last_words(exchange, measured),
            enrich=lambda measured: _added_to_usage(exchange, measured.rate),
            # the router asks for it in the name of those who stream
            drop_usage=exchange.stream and not exchange.wants_usage,
            repairs=Repairs(done=repairs.done) if ends else repairs,
            ends=ends,
            measured=Measured(choices=choices),
            on_many=answer.read_less,
            model=_own_name(services, exchange.model),
        )
        exchange.measured, exchange.sent = relay.measured, sent
        if not reply.started:
            line.hold()  # the beginning goes with what has come of the body
            fields = headers.from_engine(answer.fields, stream=True)
            reply.start_events([*fields, *_headers(exchange)])
        measured, feed, write, clock = relay.measured, relay.feed, line.write, services.clock

        def take(data: bytes) -> None:
            out = feed(data, clock())
            if measured.stranger is not None:
                raise _Stranger(f"{measured.stranger} answered in its place")
            # said before it is out: if that takes its time, nothing else may follow it
            reply.said_done = measured.finished
            if answer.ended:
                line.hold()  # the last piece goes with the end
            write(out)

        broke: UpstreamError | None = None
        try:
            answer.deliver(take)
            if not answer.ended:
                line.flush()
            await answer.delivered()
        except _Stranger:
            raise
        except UpstreamError as error:
            broke = error
        finally:
            if measured.failed:
                reply.engine_told(status_of(measured.error), "engine_error")
            # many clients hang up as soon as they have read [DONE]
            ttft = measured.first_token - sent if measured.first_token is not None else None
            services.metrics.answered(
                exchange.model.name,
                ttft,
                measured.tokens,
                measured.rate,
                measured.prompt_tokens,
            )
        rest = relay.close(clock())
        if measured.failed and status_of(measured.error) >= 500:
            services.reconciler.generation_failed(exchange.model)
        elif measured.answered:
            services.reconciler.generation_succeeded(exchange.model)
        if measured.finished or (broke is None and measured.answered):
            reply.end(rest)
            return
        line.flush()
        reply.write(rest)
        if isinstance(broke, Silent):
            raise _silent(services, exchange)
        what = f"stopped in the middle of its answer ({broke or 'end of stream'})"
        raise upstream_broke(exchange.model.name, what)

    def _measured(
        self, services: Services, exchange: Exchange, data: bytes, seconds: float
    ) -> bytes:
        """A whole answer, mended; a chat's with tok/s in its ``usage`` by the engine's own measure.

        Where it has none, all that can be seen from here has the prompt's time in it, and a name
        that says so. What is not an answer passes as it is.
        """
        try:
            answer = WholeAnswer(data)
        except ValueError:
            return data
        body = answer.body
        own, said = _own_name(services, exchange.model), model_named_by(body)
        if own is not None and said not in (None, own):
            raise _Stranger(f"{said} answered in its place")
        if body.get("choices") == []:
            raise upstream_broke(exchange.model.name, "stopped before it had an answer")
        try:
            changed = answer.mend(repairs_for(exchange.model))
        except ValueError:
            return data
        services.reconciler.generation_succeeded(exchange.model)
        usage = body.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        tokens = count(usage.get("completion_tokens", usage.get("output_tokens")))
        if tokens is not None:
            exchange.rate = rate = engine_rate(body)
            exchange.measured = measured = Measured(usage=usage)
            prompt = measured.prompt_tokens
            services.metrics.answered(exchange.model.name, None, tokens, rate, prompt)
            if exchange.operation is CHAT and exchange.usage_rate:
                changed = True
                usage.update(_added_to_usage(exchange, rate))
                if rate is None and seconds > 0:
                    usage["tokens_per_second_with_prompt"] = round(tokens / seconds, 1)
                answer.changed("usage", usage)
        try:
            return answer.written() if changed else data
        except ValueError:
            return data  # with numbers that JSON has no word for: as the engine wrote it


async def _send_pieces(
    exchange: Exchange, reply: Reply, line: Line, answer: Answer, parts: list[bytes]
) -> None:
    """Send a large answer as it is, as fast as its client takes it: to put its pieces together, to
    read it, or to give it to the connection at once would hold up other streams."""
    if not reply.started:
        fields = _fields(exchange, answer)
        size = ("content-length", str(sum(map(len, parts))))
        reply.start(answer.status, [*fields, size, *_headers(exchange)])
    room = asyncio.Event()
    line.on_room = room.set
    for part in parts:
        if line.full:
            room.clear()
            await room.wait()
        reply.write(part)
    reply.end()


class _Stranger(UpstreamError):
    """Another model answers in the place of the one that was asked."""


def _own_name(services: Services, model: Model) -> str | None:
    """What every answer of its engine is called; None where that depends on what was asked."""
    if not engine_for(model).names_itself:
        return None
    return last_part(services.learned.named(model).upstream_name)


async def _failed(services: Services, exchange: Exchange) -> None:
    """A generation was answered with a fault of the engine. One of an engine that has lost its
    model is no answer: raises `UpstreamError`, so that the request is sent once more."""
    model = exchange.model
    services.reconciler.generation_failed(model)
    if engine_for(model).names_itself and not await services.reconciler.still_serves(model):
        raise UpstreamError("it has no model any more")


def _silent(services: Services, exchange: Exchange) -> ApiError:
    idle = services.settings.config.requests.idle_timeout
    return engine_silent(exchange.model.name, idle)


async def _settles(ticket: Ticket, within: float | None) -> bool:
    """Whether the ticket is granted within so many seconds. Raises `Refused`."""
    with anyio.move_on_after(within):
        await ticket.wait()
    return ticket.is_settled()


async def _queue(services: Services, exchange: Exchange) -> Ticket:
    """A place in the queue of the model that will answer. Raises `ApiError` 409, `Refused`.

    A request that may cause no switch has its own model, if that is loaded, is being loaded, or
    comes to be within its patience; else, where a fallback is allowed, the one that is loaded.
    """
    name = exchange.model.name
    if name not in services.models:
        # it was removed since the request came
        raise unknown_model(name, services.names_for(exchange.caller))
    if exchange.fallback is None:
        return services.scheduler.request(name, priority=exchange.caller.priority)
    ticket = await _passive(services, name, exchange.patience)
    if ticket is not None:
        return ticket
    loaded = services.scheduler.core.group_of(name).current
    other = services.models.get(loaded or "")
    if (
        exchange.fallback == "loaded"
        and other is not None
        and exchange.caller.may_use(other.name)
        and exchange.operation.name in engine_for(other).operations
    ):
        ticket = await _passive(services, other.name, 0.0)
        if ticket is not None:
            exchange.model = other
            return ticket
    raise not_loaded(name, loaded if loaded and exchange.caller.may_use(loaded) else None)


async def _passive(services: Services, name: str, patience: float) -> Ticket | None:
    """A ticket that is granted, or will be because its model is being loaded; else None."""
    await services.reconciler.known(services.models[name].group)
    ticket = services.scheduler.request(name, passive=True)
    coming = False
    try:
        coming = await _settles(ticket, patience) or services.scheduler.is_loading(name)
    finally:
        if not coming:
            ticket.close()
    return ticket if coming else None


async def _may_try_again(services: Services, model: Model) -> bool:
    """After a connection that brought nothing: an engine that is gone, or serves no more, is
    brought back by the next request for it; one that is only slow is left alone."""
    try:
        await services.reconciler.see(model)
    except UnitError:
        return False
    return True


def _progress(services: Services, exchange: Exchange, ticket: Ticket) -> str:
    model = exchange.model
    switch = services.scheduler.switches.get(model.group)
    if switch is not None and switch.target == model.name and switch.step not in ("", "Drain"):
        timeout = switch.limit or services.switcher.load_timeout(model)
        elapsed = services.scheduler.seconds_since(switch.drained_at or switch.started)
        # what earlier loads took says nothing of one that compiles
        expected = None if switch.doing else services.learned.total(switch.plan) or None
        return status.loading(elapsed, timeout, expected, switch.progress, switch.doing)
    elapsed = services.scheduler.seconds_since(ticket.since)
    loaded = services.scheduler.core.groups[model.group].current
    others = switch.target if switch is not None and switch.target != model.name else None
    busy = others or loaded or model.name
    return status.waiting(busy if exchange.caller.may_use(busy) else "another model", elapsed)


def _headers(exchange: Exchange) -> list[tuple[str, str]]:
    fields = [
        ("x-llm-router-model", exchange.model.name),
        ("x-llm-router-backend", exchange.model.backend),
    ]
    if exchange.queue_seconds is not None:
        fields.append(("x-llm-router-queue-seconds", f"{exchange.queue_seconds:.3f}"))
        fields.append(("x-llm-router-switch-seconds", f"{exchange.switch_seconds:.3f}"))
    return fields


def _fields(
    exchange: Exchange, answer: Answer, *, unchanged: bool = False, stream: bool = False
) -> list[tuple[str, str]]:
    """What a client gets of an engine's header, with the type that its body is shown as."""
    own = exchange.operation is UPSTREAM
    shown = headers_for(answer.headers.get("content-type"), own_path=own)
    return [*shown, *headers.from_engine(answer.fields, unchanged=unchanged, stream=stream)]


def _last_words(exchange: Exchange, measured: Measured) -> bytes:
    """What the router adds before ``[DONE]``."""
    base = {**exchange.base, "id": measured.chunk_id or exchange.base["id"]}
    if measured.created is not None:
        base["created"] = measured.created
    if measured.system_fingerprint is not None:
        base["system_fingerprint"] = measured.system_fingerprint
    rate = measured.rate
    if rate is None or measured.failed or exchange.style == "off":
        return b""
    if exchange.style == "content":
        if measured.tool_calls:
            return b""
        seconds = measured.seconds if measured.shows_rate else measured.tokens / rate
        line = status.footer(rate, measured.tokens, seconds)
        return status.chunk(base, {"content": f"\n\n{line}"})
    if exchange.wants_usage or not exchange.usage_rate:
        return b""
    # choices with an empty delta: a client that asked for no usage reads choices[0] of every chunk
    added = _added_to_usage(exchange, rate)
    try:
        return status.chunk(base, {}, usage={**(measured.usage or {}), **added})
    except ValueError:
        return status.chunk(base, {}, usage=added)


def _added_to_usage(exchange: Exchange, rate: float | None) -> dict[str, Any]:
    if exchange.operation is not CHAT or not exchange.usage_rate:
        return {}
    keys: dict[str, Any] = {}
    if rate is not None:
        keys["tokens_per_second"] = round(rate, 1)
    if exchange.switch_seconds:
        keys["switch_seconds"] = round(exchange.switch_seconds, 1)
    return keys


def _as_error(exchange: Exchange, answer: Answer, data: bytes) -> ApiError:
    """An engine's refusal in the router's form. JSON, where a stream was requested and has begun,
    is a fault of the engine, whatever its status."""
    retry_after = answer.headers.get("retry-after", "")
    error = engine_error(exchange.model.name, answer.status, data, retry_after)
    error.headers.update(_headers(exchange))
    if answer.status < 400:
        error.status = 502
    return error


def _refused_key(services: Services, model: Model, status: int) -> ApiError:
    shown = services.engine_keys.shown(model, services.settings.config)
    log.error("the engine of %s answers %d to the router; %s", model.name, status, shown)
    return refused_key(model.name, status)
