"""The fields of a multipart form, as spans of its bytes. Pure.

Only the place of a field's value is needed: the rest goes to the engine byte for byte. A library
would be one more thing to lock for these lines. `email.message` is not used for the headers: it is
quadratic on the Pythons of current distributions. Every size has a limit, every pattern is linear.
RFC 7578 and RFC 2046, section 5.1.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LONGEST_CONTENT_TYPE = 256
LONGEST_BOUNDARY = 70
"""RFC 2046's own limit."""
LONGEST_HEAD = 1024
MOST_PARTS = 64

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# each alternative begins with another character, so there is one way to read a text
_PARAMETER = re.compile(rf'[ \t]*;[ \t]*({_WORD})=({_WORD}|"(?:[^"\\]|\\.)*")')
_ESCAPED = re.compile(r"\\(.)")
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]*[0-9A-Za-z'()+_,./:=?-]")


@dataclass(frozen=True)
class Field:
    """One part; its value is ``raw[start:end]``."""

    name: str
    is_file: bool
    start: int
    end: int


def boundary_of(content_type: str) -> bytes | None:
    """The boundary of a multipart form; None for any other, or a too long, type of content."""
    if len(content_type) > LONGEST_CONTENT_TYPE:
        return None
    kind, semicolon, rest = content_type.partition(";")
    if kind.strip(" \t").lower() != "multipart/form-data":
        return None
    try:
        boundary = _parameters(semicolon + rest).get("boundary", "")
    except ValueError:
        return None
    if len(boundary) > LONGEST_BOUNDARY or not _BOUNDARY.fullmatch(boundary):
        return None
    return boundary.encode()


def fields(raw: bytes | bytearray, boundary: bytes) -> list[Field]:
    """All parts of a form, in order. Raises ValueError where it is not one."""
    delimiter = b"--" + boundary
    at = first_part(raw, boundary) + len(delimiter)
    delimiter = b"\r\n" + delimiter
    found: list[Field] = []
    while raw[at : at + 2] != b"--":
        if len(found) == MOST_PARTS:
            raise ValueError(f"it has more than {MOST_PARTS} parts")
        line_end = raw.find(b"\r\n", at, at + LONGEST_HEAD)
        if line_end < 0 or raw[at:line_end].strip(b" \t"):
            raise ValueError("a boundary is not alone on its line")
        # a part without headers begins with the empty line at once
        head_end = raw.find(b"\r\n\r\n", line_end, line_end + LONGEST_HEAD + 4)
        if head_end < 0:
            raise ValueError(f"a part's headers do not end within {LONGEST_HEAD} bytes")
        name, is_file = _disposition(raw[line_end + 2 : head_end + 2])
        start = head_end + 4
        end = raw.find(delimiter, start)
        if end < 0:
            raise ValueError("its last part has no end")
        found.append(Field(name, is_file, start, end))
        at = end + len(delimiter)
    return found


def first_part(raw: bytes | bytearray, boundary: bytes) -> int:
    """Where the first part's delimiter begins; what comes before it is to be ignored. Raises
    ValueError."""
    delimiter = b"--" + boundary
    if raw.startswith(delimiter):
        return 0
    at = raw.find(b"\r\n" + delimiter)
    if at < 0:
        raise ValueError("the boundary of its content type is not in it")
    return at + 2


def part(name: str, value: str, boundary: bytes) -> tuple[bytes, bytes, bytes]:
    """A part with a field, in three: what comes before its value, the value, what comes after."""
    head = b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n'
    return head % (boundary, name.encode()), value.encode(), b"\r\n"


def _disposition(head: bytes | bytearray) -> tuple[str, bool]:
    """A part's field name, and whether it is a file. Raises ValueError where it is ambiguous."""
    values = [
        value
        for line in head.split(b"\r\n")
        for key, _, value in (line.partition(b":"),)
        if key.strip().lower() == b"content-disposition"
    ]
    if not values:
        return "", False
    if len(values) > 1:
        raise ValueError("a part has two Content-Disposition headers")
    value = values[0].decode("utf-8", "replace")
    _, semicolon, rest = value.partition(";")
    given = _parameters(semicolon + rest)
    if "name*" in given:
        raise ValueError("a part has `name*`, which RFC 7578 does not allow; send `name`")
    return given.get("name", ""), "filename" in given or "filename*" in given


def _parameters(text: str) -> dict[str, str]:
    """``; key=value; key="value"``, names in lower case. Raises ValueError."""
    found: dict[str, str] = {}
    at, text = 0, text.rstrip(" \t;")
    while at < len(text):
        match = _PARAMETER.match(text, at)
        if match is None:
            raise ValueError("a header's parameters cannot be read")
        key, value = match[1].lower(), match[2]
        if key in found:
            raise ValueError(f"a header has the parameter '{key}' twice")
        found[key] = _ESCAPED.sub(r"\1", value[1:-1]) if value[0] == '"' else value
        at = match.end()
    return found
