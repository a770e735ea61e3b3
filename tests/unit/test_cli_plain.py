"""What the command prints can do nothing to a terminal."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import pytest

from llm_router.cli import admin, main
from llm_router.cli.client import AdminClient
from llm_router.cli.exits import Failed
from llm_router.cli.plain import PrintableStream, printable

HOSTILE = [
    ("\x1b[31mred\x1b[0m", "red"),
    ("\x1b]0;title\x07after", "after"),
    ("\x1b]52;c;cm0gLXJm\x1b\\\\after", "after"),
    ("\x1bP1$q\x1b\\\\after", "after"),
    ("\x1bcafter", "after"),
    ("\x1b(0after", "after"),
    ("\x9b2Jafter", "after"),
    ("\x9d0;title\x9cafter", "after"),
    ("one\rtwo\x08\x07\x7f\x00", "one two    "),
    ("a\u202eb\u2066c\u200fd", "a b c d"),
    ("a\u2028b", "a b"),
    ("tab\tand\nnewline, ⚡ 漢 é", "tab\tand\nnewline, ⚡ 漢 é"),
    ("\x1b[", ""),
    ("\x1b", ""),
]


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_what_would_act_on_a_terminal_is_left_out(text: str, shown: str) -> None:
    text = text.replace("\\\\", "\\")
    assert printable(text) == shown


def test_a_long_text_takes_no_longer_than_its_length() -> None:
    began = time.process_time()
    for piece in ("\x1b]", "\x1b[", "\x1b", "\x9b;", "\x1b[1"):
        printable(piece * 200_000)
    assert time.process_time() - began < 5


def test_the_stream_below_is_asked_for_all_else() -> None:
    below = io.StringIO()
    stream = PrintableStream(below)
    assert stream.write("\x1b[2Jx") == 5
    assert not stream.isatty()
    assert below.getvalue() == "x"


def test_no_command_prints_what_would_act_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An engine's log, an error with a client's text, and both of them as JSON."""
    bad = "\x1b]0;owned\x07\u202e\x1b[2Jline"
    monkeypatch.setattr(admin, "client_of", lambda _: AdminClient("/nowhere"))
    monkeypatch.setattr(AdminClient, "call", lambda *_, **__: {"lines": [bad]})
    assert main(["logs", "m"]) == 0
    assert capsys.readouterr().out == " line\n"
    assert main(["logs", "m", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"lines": [bad]}

    def fails(*_: Any, **__: Any) -> dict[str, Any]:
        raise Failed(f"no model {bad}", log_lines=[bad])

    monkeypatch.setattr(AdminClient, "call", fails)
    main(["clear", "m"])
    assert capsys.readouterr().err == "no model  line\n   line\n"
