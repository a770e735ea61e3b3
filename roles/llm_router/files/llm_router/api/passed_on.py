"""What a browser may make of bytes that an engine wrote: nothing that runs. Pure.

An engine's page at an address of the router would be the router's own page to a browser: on a
router without keys its script could unload models. So types that a browser runs or builds a page
from become plain text or bytes, the browser may not guess another type, and it may not run
anything if the answer is opened as a page all the same.
"""

from __future__ import annotations

import re

GUARD = (("content-security-policy", "sandbox"), ("x-content-type-options", "nosniff"))
"""``sandbox`` alone gives a page an origin of its own, without scripts and forms."""
PLAIN, BYTES = "text/plain; charset=utf-8", "application/octet-stream"

_TYPE = re.compile(r"\s*([A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+)\s*(?:;[\t\x20-\x7e]*)?")
_JSON = frozenset(
    (
        "application/json",
        "application/jsonl",
        "application/json-seq",
        "application/ndjson",
        "application/x-ndjson",
        "application/openmetrics-text",  # an engine's /metrics
    )
)
_RUNS = re.compile("html|xml|xsl|script|css")
LONGEST_TYPE = 200


def shown_type(content_type: str) -> str:
    """The type that an engine's answer gets: its own, if that is JSON, text, audio, image or video;
    `PLAIN` for a text or image that a browser would run or style; `BYTES` for everything else."""
    found = _TYPE.fullmatch(content_type)
    if found is None or len(content_type) > LONGEST_TYPE:
        return BYTES
    kind = found[1].lower()
    if kind in _JSON or (kind.startswith("application/") and kind.endswith("+json")):
        return content_type
    if kind.partition("/")[0] not in ("text", "audio", "image", "video"):
        return BYTES
    return PLAIN if _RUNS.search(kind) else content_type


def headers_for(content_type: str | None, *, own_path: bool = False) -> list[tuple[str, str]]:
    """The type and what guards it. An API's JSON needs no guard: no browser runs it.

    ``own_path``: the answer to a path of the engine's own, which a browser can open as a page.
    """
    if content_type is None:
        return list(GUARD) if own_path else []
    shown = shown_type(content_type)
    if not own_path and shown.startswith("application/json"):
        return [("content-type", shown)]
    return [("content-type", shown), *GUARD]
