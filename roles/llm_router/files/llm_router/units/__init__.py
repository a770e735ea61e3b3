"""Units: what runs engines. One interface, two implementations: systemd and child processes."""

from llm_router.units.base import UnitError, Units, UnitState

__all__ = ["UnitError", "UnitState", "Units"]
