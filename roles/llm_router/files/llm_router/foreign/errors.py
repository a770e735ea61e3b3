"""The one error of this package."""

from __future__ import annotations


class Unreadable(Exception):
    """The file is not what it should be. The message goes behind its name."""
