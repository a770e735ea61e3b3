"""Lets plugins be imported by the names that Ansible gives them, without Ansible's own importer."""

from __future__ import annotations

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]


def _link() -> Path:
    collections = CHECKOUT / ".cache/collections"
    link = collections / "ansible_collections/roundhouse/llm"
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(CHECKOUT)
    return collections


sys.path.insert(0, str(_link()))
