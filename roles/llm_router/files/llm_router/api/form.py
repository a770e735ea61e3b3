"""A multipart form's fields, as spans of its bytes. Pure.

By hand, because all that is wanted is where one field's value begins and ends: the rest goes to
the engine byte for byte, so that nothing is decoded and written anew. The libraries give values,
not places, or would be one more thing to lock, for fifty lines.
RFC 7578 and RFC 2046, section 5.1.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message

_LONGEST_HEAD = 16 * 1024


@dataclass(frozen=True)
class Field:
    """One part; its value is ``raw[start:end]``."""

    name: str
    is_file: bool
    start: int
    end: int


def boundary_of(content_type: str) -> bytes | None:
    """The boundary of a multipart form; None for any other type of content."""
    header = _header("content-type", content_type)
    if header.get_content_type() != "multipart/form-data":
        return None
    boundary = header.get_param("boundary", header="content-type")
    if not isinstance(boundary, str) or not 0 < len(boundary) <= 200 or not boundary.isascii():
        return None
    return boundary.encode()


def fields(raw: bytes, boundary: bytes) -> list[Field]:
    """All parts of a form, in order. Raises ValueError where it is not one."""
    delimiter = b"--" + boundary
    if raw.startswith(delimiter):
        at = len(delimiter)
    else:  # what comes before the first part is to be ignored
        at = raw.find(b"\r\n" + delimiter)
        if at < 0:
            raise ValueError("the boundary of its content type is not in it")
        at += 2 + len(delimiter)
    delimiter = b"\r\n" + delimiter
    found: list[Field] = []
    while raw[at : at + 2] != b"--":
        line_end = raw.find(b"\r\n", at)
        if line_end < 0 or raw[at:line_end].strip(b" \t"):
            raise ValueError("a boundary is not alone on its line")
        # a part without headers begins with the empty line at once
        head_end = raw.find(b"\r\n\r\n", line_end, line_end + _LONGEST_HEAD)
        if head_end < 0:
            raise ValueError("a part's headers have no end")
        name, is_file = _disposition(raw[line_end + 2 : head_end + 2])
        start = head_end + 4
        end = raw.find(delimiter, start)
        if end < 0:
            raise ValueError("its last part has no end")
        found.append(Field(name, is_file, start, end))
        at = end + len(delimiter)
    return found


def _disposition(head: bytes) -> tuple[str, bool]:
    """A part's field name, and whether it is a file."""
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.strip().lower() == b"content-disposition":
            header = _header("content-disposition", value.decode("utf-8", "replace").strip())
            name = header.get_param("name", header="content-disposition")
            file = header.get_param("filename", header="content-disposition")
            return (name if isinstance(name, str) else ""), file is not None
    return "", False


def _header(key: str, value: str) -> Message:
    message = Message()
    message[key] = value.replace("\r", " ").replace("\n", " ")
    return message
