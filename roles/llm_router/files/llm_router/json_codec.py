"""JSON as bytes, whatever strange text a client or an engine put into it.

One error for everything that is not usable: ValueError. Python raises RecursionError for values
that are nested too deep, and by default writes NaN and Infinity, which are not JSON.
"""

from __future__ import annotations

import json
import math
from typing import Any

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_decode = json.JSONDecoder().decode

TOO_DEEP = "values are nested too deep"


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:20]} is out of range")
    return value


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


STRICT: dict[str, Any] = {"parse_float": _number, "parse_constant": _constant}
"""Arguments of `json.loads` that reject what `to_json` could not write again."""
_decode_strictly = json.JSONDecoder(**STRICT).decode


def from_json(data: bytes | bytearray, *, strict: bool = False) -> Any:
    """What ``data`` says: `json.loads`, without its look at the encoding where it is UTF-8.

    Raises ValueError, for values that are nested too deep as well; with ``strict``, for numbers
    that are not finite too.
    """
    try:
        try:
            return (_decode_strictly if strict else _decode)(data.decode())
        except ValueError:
            # with a byte order mark, or wrong; then it says where
            return json.loads(data, **(STRICT if strict else {}))
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def is_utf8(data: bytes | bytearray) -> bool:
    """Whether ``data`` is UTF-8, without the surrogates that JSON's escapes may have."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def to_json(value: Any) -> bytes:
    """``value`` as UTF-8; escaped where a lone surrogate would make that impossible.

    Raises ValueError for what JSON cannot say: a number that is not finite, values that are nested
    too deep.
    """
    try:
        try:
            return _encode(value).encode()
        except UnicodeEncodeError:
            return json_text(value).encode()
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def json_text(value: Any, **options: Any) -> str:
    """``value`` as ASCII text; `json.dumps` that never writes NaN and Infinity. Raises
    ValueError."""
    return json.dumps(value, allow_nan=False, **options)
