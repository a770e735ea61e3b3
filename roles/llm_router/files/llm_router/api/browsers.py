"""Other people's web pages, kept out of a router without keys. Pure.

A key travels in a header that a browser adds by itself to nothing, so with keys no page can act in
its reader's name. Without any, a page on the internet could have its reader's browser send requests
to a router on his own machine or network, and by pointing a name of its own at that address (DNS
rebinding) even read the answers.

* A request of another site's page is told by Origin and Sec-Fetch-Site.
* DNS rebinding is told by Host: such a page has nothing but a name that its author owns. Programs
  may use any name, so a browser must be told from a program.
* Browsers send Sec-Fetch-Site only to HTTPS and to loopback, and no Origin with an ``<img>``. Such
  a request to ``http://192.168.1.5:8002`` looks like an address that a person typed. It cannot read
  the answer; it could only cause something, so from a browser ``/upstream`` requires the evidence
  that its own page or a person asks. An address that a browser fetches ahead, because a person
  has typed its beginning, is no such evidence.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from llm_router.api.errors import ApiError

_LOCAL = (".localhost", ".local", ".lan", ".internal", ".home.arpa")
"""No stranger can own a name that ends so."""
_BROWSER_HEADERS = ("origin", "sec-fetch-site", "referer")
_PURPOSES = ("sec-purpose", "purpose", "x-moz")
_UPSTREAM = "/upstream/"
_HOST_AND_PORT = re.compile(r"(.*?)(?::([0-9]*))?", re.DOTALL)


def refuse_foreign_pages(
    scope: Mapping[str, Any],
    headers: Mapping[str, str],
    names: Collection[str],
    origins: Collection[str] = (),
) -> None:
    """Raises `ApiError` 403. ``names`` and ``origins``: those of ``listen``, which are trusted."""
    host = headers.get("host", "")
    origin = headers.get("origin") or headers.get("referer")
    site = headers.get("sec-fetch-site")
    browser = _is_browser(headers)
    trusted = _name(origin or "") in names or headers.get("origin") in origins
    if _crosses(origin, site, host) and not trusted:
        raise _foreign_page(f"a page of {origin or 'another site'}")
    if (browser or scope["path"].startswith("/admin")) and not _is_own(_name(f"//{host}"), names):
        raise ApiError(
            403,
            "foreign_name",
            f"{host!r} is none of this router's names. A router without keys is used by browsers, "
            "and administered, by its address, its host name or a local name: set a key, or put "
            "the name into listen.names of config.yml.",
            kind="permission_error",
        )
    if browser and scope["path"].startswith(_UPSTREAM):
        if origin is None and site is None:
            raise _foreign_page("a page of an unknown site")
        if any("prefetch" in headers.get(name, "") for name in _PURPOSES):
            raise _foreign_page("a browser ahead of its reader")


def _foreign_page(who: str) -> ApiError:
    return ApiError(
        403,
        "foreign_page",
        f"This was asked by {who}. A router without keys takes requests from no page "
        "but its own: set a key, or put that page's host name into listen.names of config.yml, or "
        "its origin into listen.origins.",
        kind="permission_error",
    )


def _is_browser(headers: Mapping[str, str]) -> bool:
    """Browsers send at least one of these. Node's fetch sends ``accept-language: *``."""
    return (
        any(name in headers for name in _BROWSER_HEADERS)
        or headers.get("user-agent", "").startswith("Mozilla/")
        or headers.get("accept-language", "*") != "*"
    )


def _crosses(origin: str | None, site: str | None, host: str) -> bool:
    if site in ("cross-site", "same-site"):
        return True
    return origin is not None and _place(origin) != _place(f"//{host}")


def _place(url: str) -> tuple[str, str]:
    """Host and port as they are written; an IP address in its short form."""
    try:
        authority = urlsplit(url).netloc.lower()
    except ValueError:  # brackets around something else than an address
        return url, ""
    name, port = _HOST_AND_PORT.fullmatch(authority).groups()  # type: ignore[union-attr]
    return _short(name), port or ""


def _short(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name.removeprefix("[").removesuffix("]")))
    except ValueError:
        return name


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
