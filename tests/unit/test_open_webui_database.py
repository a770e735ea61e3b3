"""What is kept of Open WebUI's database when its version changes, by its unit's own script."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "roles/open_webui/files/keep-database.sh"
PAGE = (ROOT / "docs/open-webui.md").read_text()


class Data:
    """A data directory, and what its versions do to its database."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = 1_000_000_000

    def start(self, version: str) -> None:
        """A start of ``version``, which writes its name into the database."""
        subprocess.run(["/bin/sh", SCRIPT, version], cwd=self.path, check=True)
        for kept in (self.path / "kept").glob("*"):
            if kept.stat().st_mtime > self.clock + 1_000_000:
                self.clock += 1  # as if days had passed between two starts
                os.utime(kept, (self.clock, self.clock))
        assert (self.path / "version").read_text() == f"{version}\n"
        with (self.path / "webui.db").open("a") as database:
            database.write(f"{version} ")

    def go_back(self, version: str) -> None:
        """What the page says."""
        (line,) = re.findall(r"^cd /var/lib/open-webui && (.*)$", PAGE, re.MULTILINE)
        line = line.replace("0.12.3", version)
        subprocess.run(["/bin/sh", "-e", "-c", line], cwd=self.path, check=True)

    @property
    def now(self) -> str:
        return (self.path / "webui.db").read_text().strip()

    @property
    def kept(self) -> dict[str, str]:
        """By name: the database as it was."""
        kept = self.path / "kept"
        return {one.name: (one / "webui.db").read_text().strip() for one in kept.glob("*")}


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path)


def test_a_first_start_and_a_restart_keep_nothing(data: Data) -> None:
    data.start("1")
    data.start("1")
    assert data.kept == {}


def test_a_new_version_keeps_what_the_one_before_wrote(data: Data) -> None:
    data.start("1")
    (data.path / "webui.db-wal").write_text("not yet in it")
    data.start("2")
    assert data.kept == {"1": "1"}
    assert (data.path / "kept/1/webui.db-wal").read_text() == "not yet in it"


def test_going_back_loses_nothing_whether_it_was_started_before_or_not(data: Data) -> None:
    data.start("1")
    data.start("2")
    data.start("1")  # it can not read this
    assert data.kept == {"1": "1", "2": "1 2"}
    data.go_back("1")
    data.start("1")
    assert data.now == "1 1"
    assert data.kept == {"1": "1", "2": "1 2"}
    data.start("2")
    assert data.kept == {"1": "1", "2": "1 2", "1~2": "1 1"}


def test_going_back_before_it_is_started(data: Data) -> None:
    data.start("1")
    data.start("2")
    data.go_back("1")
    data.start("1")
    assert data.now == "1 1"
    assert data.kept == {"1": "1"}
    assert (data.path / "aside/webui.db").read_text() == "1 2 "


def test_three_are_kept_and_those_of_the_version_that_starts(data: Data) -> None:
    for version in "12345":
        data.start(version)
    assert set(data.kept) == {"2", "3", "4"}
    data.start("2")
    assert set(data.kept) == {"2", "3", "4", "5"}
    data.start("6")
    assert set(data.kept) == {"4", "5", "2~2"}


def test_a_copy_that_breaks_off_is_made_again(data: Data) -> None:
    data.start("1")
    (data.path / "kept/.new").mkdir(parents=True)
    (data.path / "kept/.new/webui.db").write_text("half")
    data.start("2")
    assert data.kept == {"1": "1"}


def test_a_database_of_an_unknown_version_is_kept_too(data: Data) -> None:
    (data.path / "webui.db").write_text("somebody's")
    (data.path / "version").write_text("")
    data.start("2")
    assert data.kept == {"unknown": "somebody's"}


def test_no_copy_no_start(data: Data) -> None:
    data.start("1")
    (data.path / "kept").write_text("no directory")
    with pytest.raises(subprocess.CalledProcessError):
        data.start("2")
    assert (data.path / "version").read_text() == "1\n"
    assert data.now == "1"
