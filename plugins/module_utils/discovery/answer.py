"""A survey and its proposal as plain values: for ``--json`` and for Ansible. Pure."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Optional

from ..engine_files import KEY_FILES
from .contradictions import contradictions
from .keys import KeyUser, adopted_keys
from .proposal import propose, render
from .survey import Engine, Survey


def answer_of(
    found: Survey,
    models: Optional[Mapping[str, Mapping[str, Any]]] = None,
    key: Optional[Callable[[Engine, bool], str]] = None,
) -> dict[str, Any]:
    """``models_yml`` is the proposal as text; the rest says how it came about.

    ``models`` are those of a models.yml that is there already, to be compared with what was found.
    ``key`` gives an engine's key (see `read_key_of`), to be compared with the others'; no key is in
    the answer.
    """
    proposal = propose(found)
    return {
        "models_yml": render(proposal, unread=found.unread),
        "models": proposal.models,
        "contradictions": [
            *contradictions(models or {}, found),
            *(_of_keys(models or {}, found, key) if key is not None else ()),
        ],
        "notes": list(proposal.notes),
        "engines": [
            {
                "unit": engine.unit,
                "backend": engine.launch.backend,
                "state": engine.state,
                "script": engine.launch.script or None,
                "serves": engine.serves or None,
                "ports": list(engine.ports),
            }
            for engine in found.engines
        ],
        "folders": [asdict(model) for model in found.models],
        "searched": list(found.searched),
        "unread": [{"path": path, "reason": reason} for path, reason in found.unread],
    }


def _of_keys(
    models: Mapping[str, Mapping[str, Any]], found: Survey, key: Callable[[Engine, bool], str]
) -> list[str]:
    """What `llm-router adopt-keys` would stumble over, when everything else is done."""
    users = []
    for entry in models.values():
        path = entry.get("api_key_file") or KEY_FILES.get(entry["backend"])
        # a file that is there already stays as it is
        if path and entry.get("service") and not os.path.exists(path):  # noqa: PTH110
            users.append(KeyUser(entry["service"], path, entry.get("residency") == "unload"))
    return adopted_keys(users, found.engines, key)[1]
