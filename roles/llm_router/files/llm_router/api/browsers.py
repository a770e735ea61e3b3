"""Other people's web pages, kept out of a router without keys. Pure.

A key travels in a header that a browser adds by itself to nothing, so with keys no page can act in
its reader's name. Without any, a page on the internet could have its reader's browser POST to a
router on his own machine, and by pointing a name of its own at 127.0.0.1 (DNS rebinding) even read
the answers. The first is told by Origin and Sec-Fetch-Site, the second by Host: such a page has
nothing but a name that its author owns.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from llm_router.api.errors import ApiError

_LOCAL = (".localhost", ".local", ".lan", ".internal", ".home.arpa")
"""No stranger can own a name that ends so."""
_SAFE = ("GET", "HEAD", "OPTIONS")


def refuse_foreign_pages(
    scope: Mapping[str, Any], headers: Mapping[str, str], names: Collection[str]
) -> None:
    """Raises `ApiError` 403. ``names``: those of listen.names, which are trusted."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    admin = scope["path"].startswith("/admin")
    changes = scope["method"] not in _SAFE
    host = headers.get("host", "")
    if changes and _crosses(origin, site, host) and _name(origin or "") not in names:
        raise ApiError(
            403,
            "foreign_page",
            f"This was asked by a page of {origin or 'another site'}. A router without keys takes "
            "such calls from no page but its own: set a key, or put that page's host name into "
            "listen.names of config.yml.",
            kind="permission_error",
        )
    # a browser cannot be told by its headers where it only reads; what it reads here matters
    if (admin or (changes and origin)) and not _is_own(_name(f"//{host}"), names):
        raise ApiError(
            403,
            "foreign_name",
            f"{host!r} is none of this router's names. A router without keys is administered by "
            "its address, its host name or a local name: set a key, or put the name into "
            "listen.names of config.yml.",
            kind="permission_error",
        )


def _crosses(origin: str | None, site: str | None, host: str) -> bool:
    if site in ("cross-site", "same-site"):
        return True
    return origin is not None and urlsplit(origin).netloc.lower() != host.lower()


def _name(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_own(name: str, names: Collection[str]) -> bool:
    if name in names or name.endswith(_LOCAL) or name == socket.gethostname().lower():
        return True
    if "." not in name and ":" not in name:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
