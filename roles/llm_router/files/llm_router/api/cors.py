"""Web pages of the origins in ``listen.origins``, which may call the API from a browser. Pure.

An origin is no key: where keys are configured, the page sends one in a header, which its browser
adds to nothing by itself. So no answer allows credentials, which are cookies and certificates.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

Fields = list[tuple[bytes, bytes]]

REMEMBERED_FOR = 600
"""Seconds for which a browser may remember the answer to a preflight."""
_VARY = (b"vary", b"Origin")


def origin_of(fields: Iterable[tuple[bytes, bytes]], origins: Collection[str]) -> str | None:
    """The listed origin of the page that sent a request; None for any other request."""
    given = [value.decode("latin-1") for name, value in fields if name == b"origin"]
    return given[0] if len(given) == 1 and given[0] in origins else None


def allowed(origin: str | None) -> Fields:
    """What every answer says where origins are configured."""
    if origin is None:
        return [_VARY]
    return [
        _VARY,
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", b"*"),
    ]


def preflight(fields: Iterable[tuple[bytes, bytes]], methods: Iterable[str]) -> Fields | None:
    """What the answer to a browser's question for a listed origin says beside `allowed`; None
    where the request is no such question."""
    given = dict(fields)
    if b"access-control-request-method" not in given:
        return None
    found = [
        (b"access-control-allow-methods", ", ".join(methods).encode()),
        (b"access-control-max-age", b"%d" % REMEMBERED_FOR),
    ]
    if wanted := given.get(b"access-control-request-headers"):
        found.append((b"access-control-allow-headers", wanted))
    if given.get(b"access-control-request-private-network") == b"true":
        # a page of the internet asks for an address in the reader's own network
        found.append((b"access-control-allow-private-network", b"true"))
    return found
