"""Other projects' test suites, at a server directly and through the router in front of it.

    python -m tests.conformance.run [--write] [SUITE ...]

The outcomes are compared test by test. Each difference is a line of differences.txt, with its
reason; every other difference is an error, as is a line that is no longer true. The tables of
docs/conformance.md have the numbers, which a run must find again, or write.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.conformance import table
from tests.conformance.compare import Comparison, compare, read_known
from tests.conformance.suites import HERE, REPORTS, SUITES

KNOWN = HERE / "differences.txt"


def main() -> int:
    """0 when every difference is listed and the tables are right."""
    parser = argparse.ArgumentParser()
    parser.add_argument("suites", nargs="*", help=", ".join(suite.name for suite in SUITES))
    parser.add_argument("--write", action="store_true", help="write docs/conformance.md's tables")
    options = parser.parse_args()
    unknown = set(options.suites) - {suite.name for suite in SUITES}
    if unknown:
        parser.error(f"unknown suites: {', '.join(sorted(unknown))}")
    REPORTS.mkdir(parents=True, exist_ok=True)
    known = read_known(KNOWN)
    found: dict[tuple[str, str, str], Comparison] = {}
    problems: list[str] = []
    for suite in SUITES:
        if options.suites and suite.name not in options.suites:
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            outcomes = suite.outcomes(Path(directory))
        for way in suite.ways:
            it = compare(suite.name, way, outcomes["direct"], outcomes[way], known)
            found[suite.name, suite.version, way] = it
            problems += it.problems
            print(
                f"conformance: {suite.name} {suite.version}, {way}: {it.ran} ran, {it.direct} "
                f"passed direct, {it.through} through, {len(it.differences)} differences; "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
    tables = table.tables(found, known, table.written())
    if options.write and not problems:
        table.write(tables)
    elif tables != table.written():
        problems.append("docs/conformance.md has other numbers: run `make conformance-table`")
    for problem in problems:
        print(f"WRONG: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
