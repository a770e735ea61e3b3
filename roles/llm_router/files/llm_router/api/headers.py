"""Which header fields go on, to the engine and from it. Pure.

The rule, with its table, is in docs/api.md. To an engine goes what describes the request, traces
it or steers how it is scheduled; never what identifies its client. From an engine goes everything
except what belongs to one connection, what the router sets itself, and what would act in the name
of the router's own address in a browser.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Fields = Iterable[tuple[str, str]]
"""Names in lower case; several may have the same name."""

TO_ENGINE = frozenset(
    {
        "accept",
        "anthropic-beta",
        "anthropic-version",
        "content-type",
        "idempotency-key",
        "traceparent",
        "tracestate",
        "user-agent",
        "x-conversation-id",
        "x-data-parallel-rank",
        "x-request-id",
    }
)
"""Fields of a request. Keys are not among them: an engine's key is the router's."""

OF_CONNECTION = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Fields that end with the connection they came on: RFC 9110, section 7.6.1."""
ROUTERS_OWN = frozenset(
    {"content-security-policy", "content-type", "date", "x-content-type-options", "x-request-id"}
)
"""Fields that answers have from the router (the type and what guards it: `passed_on`); so are all
that begin with ``x-llm-router-``."""
OF_ORIGIN = frozenset(
    {
        "alt-svc",
        "clear-site-data",
        "expect-ct",
        "nel",
        "origin-agent-cluster",
        "public-key-pins",
        "refresh",
        "report-to",
        "reporting-endpoints",
        "service-worker-allowed",
        "set-cookie",
        "set-cookie2",
        "strict-transport-security",
        "www-authenticate",
    }
)
"""Fields that act on everything at the router's address; so do all that begin with
``access-control-``."""
PREFIXES = ("access-control-", "x-llm-router-")
_NEVER = OF_CONNECTION | ROUTERS_OWN | OF_ORIGIN
OF_BODY = frozenset(
    {
        "accept-ranges",
        "content-digest",
        "content-encoding",
        "content-length",
        "content-md5",
        "digest",
        "etag",
        "repr-digest",
    }
)
"""Fields that describe the engine's bytes: they go on where these bytes do, unchanged."""
OF_STREAM = frozenset({"cache-control", "x-accel-buffering"})
"""Fields that the router sets for an event stream, so that nothing on the way holds it back."""

MAX_FIELDS = 64
"""Fields of an engine's answer that go on: Python's http.client reads a hundred."""
MAX_SIZE = 16 * 1024
"""Bytes of these fields together: Node reads a head of as many."""


def to_engine(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """What an engine gets of a request's fields, as ASGI has them."""
    kept: dict[str, str] = {}
    for raw, value in fields:
        name = raw.decode("latin-1")
        if name not in TO_ENGINE:
            continue
        text = value.decode("latin-1")
        if name == "tracestate" and name in kept:
            text = f"{kept[name]},{text}"
        kept[name] = text
    return kept


def from_engine(
    fields: Fields, *, unchanged: bool = False, stream: bool = False
) -> list[tuple[str, str]]:
    """What a client gets of an engine's fields. ``unchanged``: its body goes on byte for byte;
    ``stream``: it goes on as an event stream."""
    given = list(fields)
    named = {
        one.strip().lower()
        for name, value in given
        if name == "connection"
        for one in value.split(",")
    }
    return [
        (name, value)
        for name, value in given
        if not (
            name in _NEVER
            or name in named
            or (name in OF_BODY and not unchanged)
            or (name in OF_STREAM and stream)
            or name.startswith(PREFIXES)
        )
    ]


def problem(status: int, fields: Fields) -> str | None:
    """What is wrong with the head of an engine's answer, as the end of a sentence that begins with
    the engine; None where it can go on."""
    given = list(fields)
    one: Mapping[str, str] = dict(given)
    if not 200 <= status <= 599:
        return f"answered with the status {status}, which HTTP does not have"
    if 300 <= status <= 399 and status != 304:
        where = one.get("location", "")[:200]
        return f"redirected the request to {where!r}, and the router follows no redirect"
    body = "transfer-encoding" in one or one.get("content-length", "0").strip() != "0"
    if (status == 204 and body) or (status == 205 and one.get("content-length") != "0"):
        return f"answered with the status {status} and a body, which that status cannot have"
    if any(
        value.strip().lower() not in ("chunked", "identity")
        for name, value in given
        if name == "transfer-encoding"
    ):
        return f"sent its answer in the transfer encoding {one['transfer-encoding'][:40]!r}"
    size = sum(len(name) + len(value) + 4 for name, value in given)
    if size > MAX_SIZE or len(given) > MAX_FIELDS:
        return (
            f"answered with {len(given)} header fields of {size} bytes; the router passes on "
            f"{MAX_FIELDS} fields of {MAX_SIZE} bytes at most"
        )
    return None


def encoding_of(fields: Fields) -> str:
    """How an answer's body is encoded: ``identity``, or its content codings."""
    codings = [
        coding
        for name, value in fields
        if name == "content-encoding"
        for coding in (one.strip().lower() for one in value.split(","))
        if coding not in ("", "identity")
    ]
    return ", ".join(codings) or "identity"
