"""prometheus_config on real files, with a checker that refuses what a test wants refused.

With the real promtool: tests/integration/test_monitoring.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.roundhouse.llm.plugins.modules import prometheus_config

THEIRS = "scrape_configs:\n  - job_name: mine\n    basic_auth: {password: hunter2}\n"
JOBS = [{"job_name": "roundhouse", "static_configs": [{"targets": ["127.0.0.1:8002"]}]}]

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "prometheus.yml"
    path.write_text(THEIRS)
    path.chmod(0o640)
    return path


@pytest.fixture
def run(path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    checker = path.parent / "promtool"
    checker.write_text(
        "#!/bin/sh\n"
        'echo "$*" >>"$0.asked"\n'
        '[ "${3%/*}" = "${0%/*}" ] || exit 7\n'
        'if grep -q refuse "$3"; then echo "  FAILED: line 3: no"; exit 1; fi\n'
    )
    checker.chmod(0o755)

    def run_module(*, check: bool = False, **options: Any) -> dict[str, Any]:
        arguments = {"path": str(path), "promtool": str(checker), **options}
        with (
            patch_module_args({**arguments, "_ansible_check_mode": check}),
            pytest.raises(SystemExit),
        ):
            prometheus_config.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return run_module


def asked(path: Path) -> list[str]:
    """With what the checker was run."""
    log = path.parent / "promtool.asked"
    return log.read_text().splitlines() if log.exists() else []


def test_entries_go_in_once_and_out_again(run: Run, path: Path) -> None:
    first = run(scrape_configs=JOBS, rule_files=["rules.yml"])
    assert first["changed"], first
    assert first["diff"]["before"] == ""
    assert "job_name: roundhouse" in first["diff"]["after"]
    assert "hunter2" not in json.dumps(first["diff"])
    assert path.stat().st_mode & 0o777 == 0o640
    assert len(asked(path)) == 1
    assert not run(scrape_configs=JOBS, rule_files=["rules.yml"])["changed"]
    assert len(asked(path)) == 1
    gone = run(state="absent")
    assert gone["changed"], gone
    assert gone["diff"]["after"] == ""
    assert path.read_text() == THEIRS
    assert not run(state="absent")["changed"]


def test_what_promtool_refuses_is_not_put_in_place(run: Run, path: Path) -> None:
    refused = run(scrape_configs=[{"job_name": "refuse"}])
    assert refused["failed"], refused
    assert "stays as it is" in refused["msg"]
    assert "FAILED: line 3: no" in refused["msg"]
    assert path.read_text() == THEIRS
    assert sorted(one.name for one in path.parent.iterdir()) == [
        "prometheus.yml",
        "promtool",
        "promtool.asked",
    ]


def test_check_mode_says_it_and_does_nothing(run: Run, path: Path) -> None:
    assert run(check=True, scrape_configs=JOBS)["changed"]
    assert path.read_text() == THEIRS
    assert not asked(path)


def test_a_link_stays_one(run: Run, path: Path) -> None:
    path.rename(path.with_name("real.yml"))
    path.symlink_to("real.yml")
    assert run(scrape_configs=JOBS)["path"] == str(path.with_name("real.yml"))
    assert path.is_symlink()
    assert "roundhouse" in path.read_text()


def test_a_file_that_is_not_there_or_cannot_be_edited_is_said(run: Run, path: Path) -> None:
    path.write_text("scrape_configs: []\n")
    assert f"{path}:1: does not write scrape_configs as a list" in run(scrape_configs=JOBS)["msg"]
    path.unlink()
    assert f"{path} cannot be read" in run(scrape_configs=JOBS)["msg"]
