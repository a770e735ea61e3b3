"""A small file of what a process wants to know again after its end: JSON, by name.

Reading and writing fail softly, with a warning: what is lost is a convenience and never the truth.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def read_notes(path: Path) -> dict[str, Any]:
    """What was noted; empty where there is nothing that can be read."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return dict(entries.items())
    except FileNotFoundError:
        pass
    except (OSError, ValueError, AttributeError) as error:
        log.warning("%s cannot be read, and is written anew: %s", path, error)
    return {}


def write_notes(path: Path, entries: Mapping[str, Any]) -> None:
    """Note ``entries`` in the place of all before: a few hundred bytes, in one step."""
    aside = path.with_suffix(".new")
    try:
        aside.write_text(json.dumps(entries), encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        log.warning("%s cannot be written: %s", path, error.strerror or error)
