"""Run the stages of `make check` or `make test` and report all of them.

A stage is a make target, so each can be run alone. A stage that fails does not stop the others:
one run reports every failure. The linters run side by side, as each uses one CPU. Stages on test
hosts run two at a time, as they mostly wait for downloads and boots; the output of such a stage is
printed when it ends. All other stages run one after the other.
The last line counts tests: those of pytest from its reports, and one for each stage that is a
single check.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / ".cache" / "reports"
DOCTOR_MAY_NOT_BOOT = 3

LINTERS = ("types", "lint-ansible", "lint", "lint-yaml", "lint-docs")
CHECK = (
    *LINTERS,
    "test-unit",
    "test-integration",
)
TEST = (
    *CHECK,
    "test-timing",
    "test-long",
    "test-contracts",
    "test-hostile",
    "test-packages",
    "test-openapi",
    "test-metrics",
    "test-ui",
    "test-open-webui",
    "test-properties",
    "test-load",
    "soak-short",
    "build",
    "sanity",
    "test-demo",
)
# The longest first: with two at a time, a long stage that starts last runs alone.
ON_HOSTS = (
    "molecule",
    "test-fleet",
    "soak-systemd-short",
    "test-seed",
    "test-adopt",
    "test-llamacpp",
    "test-uninstall",
    "test-install",
    "test-monitoring",
    "test-systemd",
)
HOST_STAGES_AT_ONCE = 2


@dataclass
class Result:
    stage: str
    outcome: str  # passed, failed, not run
    seconds: float = 0.0
    passed: int = 0
    failed: int = 0
    skipped: int = 0


def run_stage(stage: str, *, together: bool = False) -> Result:
    """Run one make target. With ``together`` its output is kept and printed when it ends."""
    report = REPORTS / f"{stage}.xml"
    report.unlink(missing_ok=True)
    start = time.monotonic()
    command = ["make", "--no-print-directory", stage]
    print(f"\n===> {stage}", flush=True)
    output = ""
    if together:
        made = subprocess.run(
            command, cwd=ROOT, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output = made.stdout.decode(errors="replace")
    else:
        made = subprocess.run(command, cwd=ROOT, check=False)
    result = Result(stage, "failed" if made.returncode else "passed", time.monotonic() - start)
    if report.exists():
        for suite in ET.parse(report).iter("testsuite"):
            bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            skipped = int(suite.get("skipped", 0))
            result.failed += bad
            result.skipped += skipped
            result.passed += int(suite.get("tests", 0)) - bad - skipped
    if made.returncode and not result.failed:
        result.failed = 1
    elif not made.returncode and not result.passed:
        result.passed = 1
    # one call of print: the stage beside it must not write in between
    print(f"{output}===> {stage}: {result.outcome} ({result.seconds:.1f} s)", flush=True)
    return result


def run_together(stages: Sequence[str], at_once: int) -> list[Result]:
    """Run stages side by side, at most ``at_once`` at a time; results in the stages' order."""
    with ThreadPoolExecutor(max_workers=at_once) as pool:
        return list(pool.map(lambda stage: run_stage(stage, together=True), stages))


def why_no_hosts() -> str | None:
    """One sentence why test hosts can't be booted here; None when they can."""
    doctor = subprocess.run(
        [sys.executable, "tests/hosts/hosts.py", "doctor"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if doctor.returncode == 0:
        return None
    lines = doctor.stdout.strip().splitlines()
    if doctor.returncode != DOCTOR_MAY_NOT_BOOT:
        raise SystemExit(doctor.stdout + f"tests/hosts/hosts.py doctor: exit {doctor.returncode}")
    return lines[-1] if lines else "tests/hosts/hosts.py doctor says that no host can be booted"


def summary(results: list[Result], seconds: float) -> None:
    print(f"\n{'stage':<18}{'result':<10}{'seconds':>8}{'passed':>8}{'failed':>8}{'skipped':>9}")
    for result in results:
        counts = f"{result.passed:>8}{result.failed:>8}{result.skipped:>9}"
        print(f"{result.stage:<18}{result.outcome:<10}{result.seconds:>8.1f}{counts}")
    print(f"{'all':<28}{seconds:>8.1f}\n")


def main(what: str) -> int:
    start = time.monotonic()
    REPORTS.mkdir(parents=True, exist_ok=True)
    no_hosts = None
    if what == "test":
        if os.environ.get("HOST") == "no":
            no_hosts = "HOST=no was given"
        else:
            no_hosts = why_no_hosts()
        if no_hosts and os.environ.get("CI") == "true":
            print(f"Test hosts can't be booted here, and in CI they must: {no_hosts}")
            print("0 passed, 1 failed")
            return 1

    results = run_together(LINTERS, os.cpu_count() or 1)
    results += [run_stage(stage) for stage in (TEST if what == "test" else CHECK)[len(LINTERS) :]]
    if what == "test" and no_hosts:
        results += [Result(stage, "not run") for stage in ON_HOSTS]
    elif what == "test":
        results += run_together(ON_HOSTS, HOST_STAGES_AT_ONCE)
    summary(results, time.monotonic() - start)

    failed = sum(result.failed for result in results)
    skipped = sum(result.skipped for result in results)
    if no_hosts:
        print(f"Not run, as no test host was booted: {', '.join(sorted(ON_HOSTS))} ({no_hosts}).")
        # Asked for, it is a skipped stage. Not asked for, the gate did not do its work.
        if os.environ.get("HOST") == "no":
            skipped += 1
        else:
            failed += 1
            print("`make test HOST=no` leaves it out on purpose.")
    red = [result.stage for result in results if result.failed]
    if red:
        print(f"Stages that failed: {', '.join(red)}. To run them again: make {' '.join(red)}")
    passed = sum(result.passed for result in results)
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
