"""tools/gate.py: every stage runs and is reported, whichever of them fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import gate

MAKEFILE = """\
lint-a:
\t@echo linted
one two:
\t@exit 3
three:
\t@echo three-ran
host-a:
\t@touch a; for i in $$(seq 200); do [ -e b ] && exit 0; sleep 0.05; done; exit 1
host-b:
\t@touch b; for i in $$(seq 200); do [ -e a ] && exit 0; sleep 0.05; done; exit 1
"""


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    (tmp_path / "Makefile").write_text(MAKEFILE)
    monkeypatch.setattr(gate, "ROOT", tmp_path)
    monkeypatch.setattr(gate, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(gate, "LINTERS", ("lint-a",))
    monkeypatch.setattr(gate, "CHECK", ("lint-a", "one", "three"))
    monkeypatch.setattr(gate, "TEST", ("lint-a", "one", "three"))
    monkeypatch.setattr(gate, "ON_HOSTS", ("host-a", "two", "host-b"))
    monkeypatch.setattr(gate, "why_no_hosts", lambda: None)
    monkeypatch.delenv("HOST", raising=False)
    return monkeypatch


def test_a_failed_stage_does_not_stop_the_others(
    stages: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert gate.main("check") == 1
    output = capfd.readouterr().out
    assert "three-ran" in output
    assert "Stages that failed: one. To run them again: make one" in output
    assert output.endswith("2 passed, 1 failed\n")


def test_host_stages_run_side_by_side_and_all_failures_are_named(
    stages: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # host-a and host-b end only when both run; between them "two" fails
    stages.setattr(gate, "HOST_STAGES_AT_ONCE", 3)
    assert gate.main("test") == 1
    output = capfd.readouterr().out
    assert "Stages that failed: one, two. To run them again: make one two" in output
    assert output.endswith("4 passed, 2 failed\n")


def test_without_hosts_their_stages_are_reported_as_not_run(
    stages: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stages.setenv("HOST", "no")
    stages.delenv("CI", raising=False)
    assert gate.main("test") == 1
    output = capfd.readouterr().out
    assert "host-a            not run" in output
    assert output.endswith("2 passed, 1 failed, 1 skipped\n")
