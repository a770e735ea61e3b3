"""A request, understood: whose it is for, what may become of it, and what its engine will be asked.

Nothing here waits, and nothing has been loaded yet: what cannot be done is said now.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from msgspec import Raw

from llm_router.api import form, parameters, status
from llm_router.api.auth import Caller
from llm_router.api.errors import (
    bad_request,
    not_supported,
    not_yours,
    path_not_allowed,
    unknown_model,
)
from llm_router.api.exchange import Call, Exchange, Pieces
from llm_router.api.headers import to_engine
from llm_router.api.large import LARGE, Split, split_small
from llm_router.api.paths import CHAT, UPSTREAM, Operation
from llm_router.api.repairs import ask_for_usage, mend_request
from llm_router.api.services import Services
from llm_router.api.status import Style
from llm_router.body_reader import Task
from llm_router.config.names import Name, find
from llm_router.config.schema import Config, Fallback, Model
from llm_router.engines import engine_for, repairs_for
from llm_router.json_members import Members, elements, pieces, value_of

STATUS_HEADER = "x-llm-router-status"
SWITCH_HEADER = "x-llm-router-switch"


@dataclass(frozen=True)
class Incoming:
    """A request as it came."""

    services: Services
    scope: Mapping[str, Any]
    caller: Caller
    headers: Mapping[str, str]
    raw: bytes | bytearray
    number: int
    """Of the requests that came."""
    split: Split | None = None
    """The body, if it is a large one and JSON."""


Understand = Callable[[Incoming], Exchange]
"""Raises `ApiError`."""


def understand(operation: Operation) -> Understand:
    """What understands the requests for ``operation``."""
    open_request = _form if operation.form else _json
    return lambda incoming: open_request(operation, incoming)


def _json(operation: Operation, incoming: Incoming) -> Exchange:
    config = incoming.services.settings.config
    split = incoming.split or split_small(incoming.raw, reading_task(operation, config))
    members = split.members
    read = read_members(operation, members)
    body = {**members, **read}
    asked = _named(operation, incoming, body.get("model"))
    try:
        keep_alive = parameters.keep_alive(body.pop("keep_alive", None))
    except ValueError as error:
        raise bad_request(
            f"keep_alive is '{error}': give seconds, or text such as 5m; 0 unloads at once.",
            "keep_alive",
        ) from error
    kept = {**to_engine(incoming.scope["headers"]), "content-type": "application/json"}
    learned = incoming.services.learned

    def tuned(model: Model) -> dict[str, Any]:
        if not operation.tuned:
            return body
        # one that stands in has its own parameters, and none of the variant's
        variant = asked.variant if model.name == asked.model else None
        if variant is None and not (model.defaults or model.force or model.strip):
            return body
        own = model.parameters
        return parameters.shaped(body, *((variant, own) if variant else (own,)))

    mine = tuned(asked.entry)
    stream = operation.generates and body.get("stream") is True
    style = _style(incoming, asked.entry, mine) if stream and operation is CHAT else "off"

    def call(model: Model) -> Call:
        sent = mine if model is asked.entry else tuned(model)
        sent = {**sent, "model": learned.named(model).upstream_name}
        if operation.name in ("chat", "completions"):
            repairs = repairs_for(model)
            sent = ask_for_usage(sent, repairs, stream=stream)
            tools = sent.get("tools")
            if repairs.tools and isinstance(tools, Raw) and len(tools) <= LARGE:
                sent["tools"] = _value("tools", tools)
            sent = mend_request(sent, repairs, stream=stream)
        target = _target(operation, model, incoming.scope)
        return Call("POST", target, kept, _pieces(sent, members, read), _choices(operation, sent))

    background = split.background and not body.get("stream")
    options = body.get("stream_options")
    return _exchange(
        operation,
        incoming,
        asked,
        call,
        stream=stream,
        style=style,
        wants_usage=isinstance(options, dict) and options.get("include_usage") is True,
        background=background,
        keep_alive=keep_alive,
    )


_USED = frozenset(
    (
        "model",
        "stream",
        "stream_options",
        "keep_alive",
        "n",
        "max_tokens",
        "max_completion_tokens",
        "max_length",
    )
)
"""The members that the router looks into, whatever the operation."""
MOST_OF_ONE = 16 * 1024
"""Bytes of such a member: all of them together are read within milliseconds."""
MOST_PROMPTS = 10_000
"""Texts in a large ``prompt`` that are counted."""


def read_members(operation: Operation, members: Members) -> dict[str, Any]:
    """The values of the members that the router looks into. Raises `ApiError`."""
    read = {
        name: _value(name, members[name])
        for name in _USED.intersection(members)
        if len(members[name]) <= MOST_OF_ONE
    }
    prompt = members.get("prompt")
    if prompt is not None and operation.name == "completions":
        read["prompt"] = _value("prompt", prompt) if len(prompt) <= LARGE else _prompts(prompt)
    return read


def _value(name: str, raw: Raw) -> Any:
    try:
        return value_of(raw)
    except ValueError as error:
        raise bad_request(f"The value of `{name}` cannot be read: {error}.", name) from error


def _prompts(raw: Raw) -> Any:
    """A large ``prompt``. Of a list, one with as many empty texts as it has texts or lists of
    tokens, at most `MOST_PROMPTS`."""
    text = memoryview(raw)
    if text[0] != ord("["):
        return raw
    found = (elements(raw) if bytes(text).count(b",") <= MOST_PROMPTS else None) or []
    several = bool(found) and bytes(memoryview(found[0])[:1]) in (b'"', b"[")
    return ["" for _ in found] if several else []


def _pieces(body: Mapping[str, Any], members: Members, read: Mapping[str, Any]) -> Pieces:
    try:
        return pieces(body, members, read)
    except ValueError as error:
        raise bad_request(f"The request body cannot be sent on: {error}.") from error


def _choices(operation: Operation, body: Mapping[str, Any]) -> int:
    """How many choices the answer to ``body`` has: ``n`` for each prompt."""
    given, prompts = body.get("n"), body.get("prompt")
    choices = given if isinstance(given, int) and given > 1 else 1
    if operation.name == "completions" and isinstance(prompts, list):
        several = bool(prompts) and isinstance(prompts[0], (str, list))
        choices *= len(prompts) if several else 1
    return choices


def reading_task(operation: Operation, config: Config) -> Task:
    """What is to be found in a large body for ``operation``."""
    if operation is not CHAT:
        return Task()
    pattern = config.background.pattern if config.background.enabled else None
    return Task(strip=True, background=pattern)


def _form(operation: Operation, incoming: Incoming) -> Exchange:
    """Passed on byte for byte, but for the model's name where the engine has another."""
    raw, content_type = incoming.raw, incoming.headers.get("content-type", "")
    boundary = form.boundary_of(content_type)
    if boundary is None:
        raise bad_request(
            "The request must be a form: Content-Type multipart/form-data with a boundary of "
            f"at most {form.LONGEST_BOUNDARY} characters, {form.LONGEST_CONTENT_TYPE} bytes in all."
        )
    try:
        fields = form.fields(raw, boundary)
    except ValueError as error:
        raise bad_request(f"The request's form cannot be read: {error}.") from error
    names = [one for one in fields if one.name == "model" and not one.is_file]
    if len(names) > 1:
        raise bad_request("The request's form has the field `model` more than once.", "model")
    given = raw[names[0].start : names[0].end].decode("utf-8", "replace") if names else None
    asked = _named(operation, incoming, given)
    kept, learned = to_engine(incoming.scope["headers"]), incoming.services.learned
    streams = {bytes(raw[one.start : one.end]) for one in fields if one.name == "stream"}
    view = memoryview(raw)

    def call(model: Model) -> Call:
        upstream_name = learned.named(model).upstream_name
        if names:
            start, end = names[0].start, names[0].end
            named: Pieces = (upstream_name.encode(),)
        else:
            start = end = form.first_part(raw, boundary)
            named = form.part("model", upstream_name, boundary)
        content = (view[:start], *named, view[end:])
        return Call("POST", _target(operation, model, incoming.scope), kept, content)

    # as pydantic and so the engines read a form's true
    stream = any(value.lower() in (b"true", b"1", b"yes", b"on", b"t", b"y") for value in streams)
    return _exchange(operation, incoming, asked, call, stream=stream)


def understand_upstream(incoming: Incoming) -> Exchange:
    """``/upstream/MODEL/PATH``: a path of the model's engine, which is sent exactly as allowed.

    The model's name may hold slashes, and may be percent-encoded. The path is compared as it came
    and is never decoded or made simpler, so there is nothing to be fooled by.
    """
    scope, services = incoming.scope, incoming.services
    raw_path = scope.get("raw_path") or scope["path"].encode()
    rest = raw_path.decode("latin-1").removeprefix(UPSTREAM.path + "/")
    asked, path = _split(services, rest, incoming.caller)
    method = scope["method"]
    model = asked.entry
    engine = engine_for(model)
    allowed = engine.own_paths.union(
        model.upstream_paths, (f"POST {one}" for one in engine.operations.values())
    )
    if f"{'GET' if method == 'HEAD' else method} {path}" not in allowed:
        raise path_not_allowed(engine.label, f"{method} {path or '/'}")
    target = path + _query(scope)
    kept = to_engine(scope["headers"])
    content = (incoming.raw,) if incoming.raw else ()
    return _exchange(UPSTREAM, incoming, asked, lambda _: Call(method, target, kept, content))


def _split(services: Services, rest: str, caller: Caller) -> tuple[Name[Model], str]:
    """The model with the longest name that ``rest`` begins with, and the path after it."""
    ends = [index for index, char in enumerate(rest) if char == "/"] + [len(rest)]
    # no model's name has more parts than this; the rest of a long path need not be tried
    for end in reversed(ends[:16]):
        found = find(services.models, unquote(rest[:end]))
        if found is not None:
            return found, rest[end:]
    raise unknown_model(rest.partition("/")[0], services.names_for(caller))


def _exchange(
    operation: Operation,
    incoming: Incoming,
    asked: Name[Model],
    call: Callable[[Model], Call],
    *,
    stream: bool = False,
    style: Style = "off",
    wants_usage: bool = False,
    background: bool = False,
    keep_alive: float | None = None,
) -> Exchange:
    config, caller = incoming.services.settings.config, incoming.caller
    if not (caller.may_use(asked.name) or caller.may_use(asked.model)):
        raise not_yours(caller.name, asked.name)
    if "switch" not in caller.scopes:
        keep_alive = None  # an unload is a switch too
    fallback, patience = _without_switch(config, incoming, background)
    if fallback == "loaded" and not operation.generates:
        # another model's vectors or tokens are wrong in silence
        fallback = "none"
    base = {
        "id": f"chatcmpl-{secrets.token_hex(16)}",
        "created": int(time.time()),
        "model": asked.name,
    }
    return Exchange(
        incoming.number,
        operation.path,
        operation,
        incoming.caller,
        asked.entry,
        call,
        stream,
        style,
        incoming.services.clock(),
        base,
        wants_usage,
        fallback,
        patience,
        usage_rate=config.status.usage_rate,
        keep_alive=keep_alive,
    )


def _named(operation: Operation, incoming: Incoming, name: object) -> Name[Model]:
    """The model that a request names, if its engine can do what is asked. Raises `ApiError`."""
    services = incoming.services
    wanted = services.settings.config.requests.default_model
    if name in (None, "") and wanted is not None:
        name = _present(operation, incoming) if wanted == "loaded" else wanted
    if not isinstance(name, str):
        raise bad_request("The request names no model: `model` must be text.", "model")
    found = find(services.models, name)
    if found is None:
        raise unknown_model(name, services.names_for(incoming.caller))
    engine = engine_for(found.entry)
    if operation.name not in engine.operations:
        raise not_supported(name, engine.label, operation.path)
    return found


def _present(operation: Operation, incoming: Incoming) -> str:
    """The first model, in the order of models.yml, that is loaded, else being loaded, and that the
    request may use. Raises `ApiError` 400."""
    services = incoming.services
    for state in ("loaded", "loading"):
        for name, model in services.models.items():
            able = operation.name in engine_for(model).operations
            if able and services.state_of(name) == state and incoming.caller.may_use(name):
                return name
    raise bad_request(
        "The request names no model, and no model is loaded that could answer it "
        "(requests.default_model is `loaded`): name one in `model`.",
        "model",
    )


def _target(operation: Operation, model: Model, scope: Mapping[str, Any]) -> str:
    """Path and query. Raises `ApiError` 501 for a model that has another engine since it was
    asked for."""
    engine = engine_for(model)
    path = engine.operations.get(operation.name)
    if path is None:
        raise not_supported(model.name, engine.label, operation.path)
    return path + _query(scope)


def _query(scope: Mapping[str, Any]) -> str:
    query = scope.get("query_string", b"").decode("latin-1")
    return f"?{query}" if query else ""


def _style(incoming: Incoming, model: Model, body: Mapping[str, Any]) -> Style:
    try:
        return status.choose_style(
            body,
            header=incoming.headers.get(STATUS_HEADER),
            key=incoming.caller.status,
            model=model.status,
            default=incoming.services.settings.config.status.style,
        )
    except ValueError as error:
        raise bad_request(
            f"The header X-LLM-Router-Status has '{error}': "
            "use auto, content, event, reasoning or off."
        ) from error


def _without_switch(
    config: Config, incoming: Incoming, background: bool
) -> tuple[Fallback | None, float]:
    """What becomes of a request that may cause no switch, and its patience; None if it may.

    Raises `ApiError` 400 for a header that is not understood.
    """
    wish = incoming.headers.get(SWITCH_HEADER)
    if wish not in (None, "allow", "never"):
        raise bad_request(f"The header X-LLM-Router-Switch has '{wish}': use allow or never.")
    if wish is None and background:
        return config.background.fallback, config.background.patience
    if wish == "never" or "switch" not in incoming.caller.scopes:
        return config.scheduler.fallback, 0.0
    return None, 0.0
