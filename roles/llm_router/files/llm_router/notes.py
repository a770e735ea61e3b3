"""A small file of what a process wants to know again after its end: JSON, by name.

Reading and writing fail softly, with a warning: what is lost is a convenience and never the truth.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_router.json_codec import json_text

log = logging.getLogger(__name__)

PAGE = 4096
"""Bytes."""


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
    """Note ``entries`` in the place of all before: whoever is killed leaves these or those."""
    text = json_text(entries).encode()
    aside = path.with_suffix(".new")
    try:
        if not _overwrite(path, text):
            aside.write_bytes(text)
            aside.replace(path)
    except OSError as error:
        log.warning("%s cannot be written: %s", path, error.strerror or error)


def _overwrite(path: Path, text: bytes) -> bool:
    """Write less than a page over what is there, in one call that is done or not done.

    A file that takes another's place goes to the disk at once (ext4), which takes milliseconds; a
    switch of models that sleep would do that five times. False where there is no such small file.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        size = os.fstat(descriptor).st_size
        if max(size, len(text)) > PAGE:
            return False
        # JSON may end in blanks
        return os.pwrite(descriptor, text.ljust(size), 0) >= len(text)
    finally:
        os.close(descriptor)
