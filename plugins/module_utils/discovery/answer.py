"""A survey and its proposal as plain values: for ``--json`` and for Ansible. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Optional

from .contradictions import contradictions
from .proposal import propose, render
from .survey import Survey


def answer_of(
    found: Survey, models: Optional[Mapping[str, Mapping[str, Any]]] = None
) -> dict[str, Any]:
    """``models_yml`` is the proposal as text; the rest says how it came about.

    ``models`` are those of a models.yml that is there already, to be compared with what was found.
    """
    proposal = propose(found)
    return {
        "models_yml": render(proposal, unread=found.unread),
        "models": proposal.models,
        "contradictions": contradictions(models or {}, found),
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
