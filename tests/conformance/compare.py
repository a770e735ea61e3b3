"""A suite's outcomes, direct and through the router, and the differences that are known."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Outcome = Literal["passed", "failed", "skipped", "not run"]
Outcomes = Mapping[str, Outcome]
"""By test."""


@dataclass(frozen=True)
class Known:
    """A line of the list: tests of a suite whose outcomes differ, and why."""

    line: int
    suite: str
    way: str
    tests: str
    """The name of a test; ``*`` stands for any characters, ``{a,b}`` for a or b."""
    reason: str

    def matches(self, test: str) -> bool:
        pattern = ""
        for part in re.split(r"(\*|\{[\w,]+\})", self.tests):
            if part == "*":
                pattern += ".*"
            elif part.startswith("{") and part.endswith("}"):
                pattern += f"(?:{part[1:-1].replace(',', '|')})"
            else:
                pattern += re.escape(part)
        return re.fullmatch(pattern, test, re.DOTALL) is not None


@dataclass(frozen=True)
class Comparison:
    """What one suite shows."""

    ran: int
    direct: int
    """Tests that passed at the server itself."""
    through: int
    differences: tuple[str, ...]
    """Tests with another outcome."""
    problems: tuple[str, ...]
    """What makes the run red."""


def read_known(path: Path) -> list[Known]:
    """The list: ``suite way tests reason``, one a line; ``#`` begins a comment.

    Raises ValueError for a line that has no reason.
    """
    found = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not text.strip() or text.startswith("#"):
            continue
        words = text.split(maxsplit=3)
        if len(words) < 4:
            raise ValueError(
                f"{path.name}:{number}: expected 'suite way tests reason', got {text!r}; "
                "add what is missing"
            )
        found.append(Known(number, *words))
    return found


def read_report(path: Path, prefix: str = "") -> dict[str, Outcome]:
    """The outcomes in a JUnit file. ``prefix`` is removed from the tests' names."""
    outcomes: dict[str, Outcome] = {}
    for case in ET.parse(path).iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name', '')}".removeprefix(prefix)
        children = {child.tag for child in case}
        outcome: Outcome = "passed"
        if children & {"failure", "error"}:
            outcome = "failed"
        elif "skipped" in children:
            outcome = "skipped"
        # an error in its teardown is a second entry of the same test
        if outcomes.get(name) != "failed":
            outcomes[name] = outcome
    return outcomes


def compare(
    suite: str, way: str, direct: Outcomes, through: Outcomes, known: Iterable[Known]
) -> Comparison:
    """Hold the outcomes ``through`` the router, by one ``way``, against those without it.

    A difference that is not in the list is a problem. So is a line of the list that matches no
    difference, or a test that passes both ways: the line says more than is true.
    """
    names = sorted(direct.keys() | through.keys())
    differ = {
        name: f"{direct.get(name, 'not run')} direct, {through.get(name, 'not run')} through"
        for name in names
        if direct.get(name, "not run") != through.get(name, "not run")
    }
    problems, explained = [], set()
    for line in known:
        if (line.suite, line.way) != (suite, way):
            continue
        matched = {name for name in names if line.matches(name)}
        passed = sorted(name for name in matched - differ.keys() if direct.get(name) == "passed")
        explained |= matched
        where = f"differences.txt:{line.line}: {line.tests}"
        if not matched & differ.keys():
            problems.append(f"{where}: no test differs any longer; remove the line")
        elif passed:
            problems.append(f"{where}: {passed[0]} passes both ways; name fewer tests")
    for name in differ.keys() - explained:
        problems.append(f"{suite} {way} {name}: {differ[name]}; not in differences.txt")
    return Comparison(
        ran=sum(outcome in ("passed", "failed") for outcome in direct.values()),
        direct=Counter(direct.values())["passed"],
        through=Counter(through.values())["passed"],
        differences=tuple(differ),
        problems=tuple(sorted(problems)),
    )
