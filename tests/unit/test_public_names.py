"""The names that users rely on stay."""

from __future__ import annotations

import json

import pytest

from tools.public_names import GOLDEN, public_names


@pytest.fixture(scope="module")
def names() -> dict[str, list[str]]:
    return public_names()


def test_no_name_that_users_rely_on_is_gone(names: dict[str, list[str]]) -> None:
    known = json.loads(GOLDEN.read_text(encoding="utf-8"))
    gone = {
        kind: sorted(missing)
        for kind, before in known.items()
        if (missing := set(before) - set(names.get(kind, ())))
    }
    assert not gone, "keep these names, or deprecate them in a release first"


def test_the_list_is_current(names: dict[str, list[str]]) -> None:
    known = json.loads(GOLDEN.read_text(encoding="utf-8"))
    new = {
        kind: sorted(more)
        for kind, found in names.items()
        if (more := set(found) - set(known.get(kind, ())))
    }
    assert not new, "run: make public-names"
