"""model_download, the controller's side: calls the module until it is done, and says how far."""

from __future__ import annotations

import time
from typing import Any, Optional

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

display = Display()


class ActionModule(ActionBase):  # type: ignore[misc] # ansible has no types
    TRANSFERS_FILES = False

    def run(
        self, tmp: Optional[str] = None, task_vars: Optional[dict[str, Any]] = None
    ) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        host = (task_vars or {}).get("inventory_hostname", "")
        arguments = dict(self._task.args)
        changed, rate = False, Rate()
        while True:
            answer = self._execute_module(module_args=arguments, task_vars=task_vars)
            answer["changed"] = changed = changed or bool(answer.get("changed"))
            stopped = answer.get("failed") or answer.get("finished") or self._task.check_mode
            if "missing_bytes" in answer and answer["total_bytes"] and not self._task.check_mode:
                line = rate.line(answer["total_bytes"], answer["missing_bytes"], time.monotonic())
                display.display(f"{host}: {line}")
            if stopped or "finished" not in answer:
                result.update(answer)
                return result
            arguments["verify"] = False  # what it found is on record


class Rate:
    """Turns byte counts into what a person reads."""

    def __init__(self) -> None:
        self._last: Optional[tuple[float, int]] = None

    def line(self, total: int, missing: int, now: float) -> str:
        """``12.3 of 60.1 GB, 210 MB/s, 4 min left``; the rate is that since the line before."""
        unit, name = (1e9, "GB") if total >= 1e9 else (1e6, "MB")
        text = f"{(total - missing) / unit:.1f} of {total / unit:.1f} {name}"
        last, self._last = self._last, (now, missing)
        if last is None or not missing or now <= last[0] or missing >= last[1]:
            return text
        rate = (last[1] - missing) / (now - last[0])
        minutes = missing / rate / 60
        left = f"{minutes:.0f} min" if minutes >= 1 else "less than a minute"
        return f"{text}, {rate / 1e6:.1f} MB/s, {left} left"
