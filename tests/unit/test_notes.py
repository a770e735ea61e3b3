"""What a process notes for itself: short or long, over what was there before."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_router.notes import PAGE, read_notes, write_notes

LONG, SHORT = {"a": "x" * (2 * PAGE)}, {"b": 1}


@pytest.mark.parametrize(
    "written",
    [
        [SHORT],
        [{"a": "x" * 100}, SHORT],
        [SHORT, {"a": "x" * 100}],
        [LONG, SHORT],
        [SHORT, LONG],
        [LONG, SHORT, SHORT, {}],
    ],
)
def test_the_last_is_what_is_read(tmp_path: Path, written: list[dict[str, object]]) -> None:
    path = tmp_path / "notes.json"
    for entries in written:
        write_notes(path, entries)
        assert read_notes(path) == entries
    assert list(tmp_path.iterdir()) == [path]


def test_a_short_note_takes_no_other_files_place(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    write_notes(path, SHORT)
    before = path.stat().st_ino
    write_notes(path, {"b": 2})
    assert path.stat().st_ino == before


def test_where_nothing_can_be_written_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_notes(tmp_path / "none" / "notes.json", SHORT)
    assert "cannot be written" in caplog.text
