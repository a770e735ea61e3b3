"""What is accepted of a value that an engine sent: numbers, texts. Pure.

An engine runs code of a model and builds of other people, so each of its values is checked here
before anything is computed, stored or shown. A value that is not plausible counts as absent.
"""

from __future__ import annotations

from typing import Any

MOST = 2**31
"""Counts and rates are below it."""
LONGEST_TEXT = 500
"""Characters of an engine's text in an error, a log line or a status."""


def count(value: Any) -> int | None:
    """``value`` if it can be a number of tokens, else None."""
    return value if isinstance(value, int) and _is_number(value) else None


def rate(value: Any) -> float | None:
    """``value`` if it can be a rate, such as tokens per second, else None."""
    return float(value) if _is_number(value) else None


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 <= value < MOST  # NaN and infinity are not


def cut_text(text: str, longest: int = LONGEST_TEXT) -> str:
    """At most ``longest`` characters of ``text``, and the number of those that are left out."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]}… ({len(text) - longest} more characters)"
