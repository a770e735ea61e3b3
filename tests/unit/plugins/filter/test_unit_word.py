"""Words in unit files come back as they were, as systemd's own parser reads them."""

from __future__ import annotations

import pytest
from ansible_collections.roundhouse.llm.plugins.filter.unit_word import unit_word


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("--enable-metrics", "--enable-metrics"),
        ("/srv/models/a-b_c.d", "/srv/models/a-b_c.d"),
        ("two words", '"two words"'),
        ('{"a": 1}', r'"{\"a\": 1}"'),
        ("100%", '"100%%"'),
        ("$HOME", '"$$HOME"'),
        ("it's", '"it\'s"'),
        ("", '""'),
        ("back\\slash", r'"back\\slash"'),
        (3, "3"),
        ("Häuser 🏠", '"Häuser 🏠"'),
        ("a\tb\nc\x1bd", r'"a\tb\nc\u001bd"'),
    ],
)
def test_quotes_what_systemd_would_read_otherwise(word: object, quoted: str) -> None:
    assert unit_word(word) == quoted
