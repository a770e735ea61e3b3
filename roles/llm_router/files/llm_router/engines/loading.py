"""How far an engine has got with its load, by what it writes into its log. Pure.

vLLM's and SGLang's loaders share one form of bar, which ends with a newline so that it passes
through any log; rank 0 alone draws it::

    (Worker_TP0 pid=576689) \\rLoading safetensors checkpoint shards:  54% Completed | 20/37 [01:…

CUDA graphs are captured after the weights, with an ordinary tqdm bar (``Capturing CUDA graphs
(…):  45%|████ | 30/67``), of which a journal has mostly the last state alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_WEIGHTS = re.compile(r"oading [^|%]{1,120}?:\s+(\d{1,3})% Completed \| (\S+/\S+)")
_GRAPHS = re.compile(r"Capturing [^|%]{1,120}?:\s+(\d{1,3})%\|[^|]{0,200}\| (\d+/\d+)")
_LONGEST = 400
"""Characters of a line that are looked at: bars are short, and others' text is not ours to scan."""


@dataclass(frozen=True)
class Bar:
    """A progress bar. Another one than before means that the engine goes on."""

    weights: bool
    percent: int
    count: str

    @property
    def part(self) -> float | None:
        """How much of the weights is there, 0 to 1; None when that is not what is under way."""
        return self.percent / 100 if self.weights and self.percent < 100 else None


def last_bar(lines: Sequence[str]) -> Bar | None:
    """The newest bar in the lines of a log, oldest first; None where there is none."""
    for line in reversed(lines):
        for weights, bar in ((True, _WEIGHTS), (False, _GRAPHS)):
            found = bar.search(line[:_LONGEST])
            if found is not None:
                return Bar(weights, min(100, int(found[1])), found[2])
    return None
