"""The head of a GGUF file: what the file is, by its own metadata. Pure.

The format: magic ``GGUF``, version (u32), counts of tensors and of metadata (u64), then the
metadata: key, type, value. What a model is stands in the first keys; the tokenizer's long lists
come after them, so a few KiB of the file are enough. Byte order is the little one, as everywhere.
"""

from __future__ import annotations

import struct
from typing import Union

HEAD = 1 << 16
"""Bytes of a file that `read_gguf` wants."""
_MAX_KEYS = 200
_FORMATS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9

Value = Union[str, int, float, bool]


def read_gguf(head: bytes) -> dict[str, Value] | None:
    """The metadata's single values, as far as ``head`` reaches; None: it is no GGUF file."""
    if head[:4] != b"GGUF" or len(head) < 24:
        return None
    version, _, count = struct.unpack_from("<IQQ", head, 4)
    if version < 2:  # counts were 32 bits wide, and nobody has such files any more
        return {}
    found: dict[str, Value] = {}
    position = 24
    try:
        for _ in range(min(count, _MAX_KEYS)):
            key, position = _text(head, position)
            (kind,) = struct.unpack_from("<I", head, position)
            if kind == _ARRAY:
                position = _behind_array(head, position + 4)
                continue
            value, position = _value(head, position + 4, kind)
            found[key] = value
    except (struct.error, UnicodeDecodeError, KeyError, IndexError):
        pass  # what was read until here is good
    return found


def _text(head: bytes, position: int) -> tuple[str, int]:
    end = position + 8 + int(struct.unpack_from("<Q", head, position)[0])
    if end > len(head):
        raise IndexError(end)
    return head[position + 8 : end].decode(), end


def _value(head: bytes, position: int, kind: int) -> tuple[Value, int]:
    if kind == _STRING:
        return _text(head, position)
    form = "<" + _FORMATS[kind]
    (value,) = struct.unpack_from(form, head, position)
    return value, position + struct.calcsize(form)


def _behind_array(head: bytes, position: int) -> int:
    kind, length = struct.unpack_from("<IQ", head, position)
    position += 12
    length = int(length)
    if kind != _STRING:
        return position + length * struct.calcsize("<" + _FORMATS[kind])
    for _item in range(length):
        position = _text(head, position)[1]
    return position
