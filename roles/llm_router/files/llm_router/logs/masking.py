"""Takes keys out of lines that engines logged. Pure.

SGLang logs its arguments with ``api_key='…'`` at each start, TabbyAPI its user and admin keys, and
any engine may log the headers of a request, or what pydantic refuses of a file with keys. TabbyAPI
breaks its lines at 80 columns where nobody has set a width, and then the keys stand in lines of
their own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

MASK = "***"
SHORTEST = 6
"""Characters; a shorter text is no key, and would be replaced in ordinary words."""

_NAMED = re.compile(
    r"""
    (?P<head>
      (?<![a-z0-9]) (?:api|admin|auth|access|hf) [_-]? (?:key|token) s? ['"]? \s* [=:] \s*
    | (?<![a-z0-9]) input_value \s* = \s*
    | (?<![a-z0-9]) (?:ssl[_-]?keyfile[_-]?)? password ['"]? \s* [=:] \s*
    | --(?:admin-)?api-keys? (?: ['"],\s* | \s+ )
    | (?<![a-z0-9]) (?:api|admin)\ key(?:s|\(s\))? \ is:\s*
    | (?<![a-z0-9]) bearer \s+
    )
    (?P<value>
      '[^']*(?:'|\Z)
    | "[^"]*(?:"|\Z)
    | \[[^\]]*(?:\]|\Z)
    | [^\s,;)\]}'"]+ (?: ,\ [^\s,;)\]}'"=:]{16,} )*
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""A quoted value that has no end was cut off: all the rest is taken for it."""
_KEYS_FOLLOW = re.compile(
    r"(?<![a-z0-9])(?:api|admin) key(?:s|\(s\))? is:\s*(?P<keys>(?:[!-~]+(?:,\s+[!-~]+)*,?)?)\s*\Z",
    re.IGNORECASE,
)
"""The end of a line that names keys: more of them, or of a long one, may follow in the next."""
_ONLY_KEYS = re.compile(r"\s*[!-~]+(?:,\s+[!-~]+)*,?\s*")
CONTEXT = 50
"""Lines before the first wanted one that `masked` must see as well: it may have a key in it that
the line above names."""
_NO_KEY = frozenset(("none", "null", "true", "false", "''", '""', "[]"))
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")


def masked(lines: Iterable[str], keys: Collection[str] = ()) -> list[str]:
    """The lines without ``keys``, and without whatever stands where a key is written."""
    known = sorted((key for key in keys if len(key) >= SHORTEST), key=len, reverse=True)
    shown = []
    follows = False
    for line in lines:
        if follows and _ONLY_KEYS.fullmatch(line):
            shown.append(MASK)
            continue
        named = _KEYS_FOLLOW.search(line)
        if named is not None and named["keys"]:
            line = line[: named.start("keys")] + MASK
        shown.append(_masked(line, known))
        follows = named is not None
    return shown


def last_masked(lines: Sequence[str], wanted: int, keys: Collection[str] = ()) -> list[str]:
    """The last ``wanted`` lines, masked; ``lines`` has up to `CONTEXT` more before them."""
    return masked(lines, keys)[-wanted:]


def _masked(line: str, known: list[str]) -> str:
    for key in known:
        line = line.replace(key, MASK)
    line = _HUB_TOKEN.sub(MASK, line)
    return _NAMED.sub(_without_value, line)


def _without_value(found: re.Match[str]) -> str:
    head, value = found["head"], found["value"]
    if value.lower() in _NO_KEY:
        return found[0]
    quote = value[0] if value[0] in "'\"" else ""
    if value[0] == "[":
        return f"{head}[{MASK}]"
    return f"{head}{quote}{MASK}{quote}"
