"""Editing YAML as text: nothing but the one key changes, whatever the file looks like."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml as pyyaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from llm_router.yaml_edit import (
    NotEditable,
    YamlError,
    get,
    line_of,
    load,
    mapping,
    remove,
    same,
    scalar,
    set_value,
)

PATH = ("model", "model_name")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("model:\n  model_name:\n", "model:\n  model_name: new\n"),
        ("model:\n  model_name: # none\n", "model:\n  model_name: new # none\n"),
        ("model:\n  model_name :   \n", "model:\n  model_name : new   \n"),
        ("model:\n  model_name: old  # c\n", "model:\n  model_name: new  # c\n"),
        ("model:\n  model_name: 'old'\n", "model:\n  model_name: 'new'\n"),
        ('model:\n  model_name: "old"\n', 'model:\n  model_name: "new"\n'),
        ("model:\n  'model_name': old", "model:\n  'model_name': new"),
        ("model:\n  model_name: null\n", "model:\n  model_name: new\n"),
        ("model:\n  model_name: !!str 5\n", "model:\n  model_name: new\n"),
        ("model:\n  model_name: &a old\n", "model:\n  model_name: &a new\n"),
        ("model:\n  model_name: &a\n", "model:\n  model_name: &a new\n"),
        ("x: &a old\nmodel:\n  model_name: *a\n", "x: &a old\nmodel:\n  model_name: new\n"),
        ("model: {model_name: old, b: c} # d\n", "model: {model_name: new, b: c} # d\n"),
        ('{"model": {"model_name": "old"}}\n', '{"model": {"model_name": "new"}}\n'),
        ("model:\n  model_name: o\n    l\n    d\n  b: c\n", "model:\n  model_name: new\n  b: c\n"),
        (
            "model:\n  model_name: | # why\n    o\n    ld\n\n  b: c\n",
            "model:\n  model_name: new  # why\n\n  b: c\n",
        ),
        (
            "model:\r\n  model_name: >- # why\r\n    o\r\n\r\n    ld\r\n\r\n  b: c\r\n",
            "model:\r\n  model_name: new  # why\r\n\r\n  b: c\r\n",
        ),
        ("model:\n  model_name: >+\n    o\n\n  b: c\n", "model:\n  model_name: new\n  b: c\n"),
        (
            "model:\n  model_name:  # l\n  - o # x\n  - p\n  # of b\n  b: c\n",
            "model:\n  model_name: new  # l\n  # of b\n  b: c\n",
        ),
        ("model:\n  model_name:\n    a: o\n  b: c\n", "model:\n  model_name: new\n  b: c\n"),
        ("model:\n  model_name:\n    - o", "model:\n  model_name: new"),
        ("model:\n  a: b # c\n\nz: 1\n", "model:\n  a: b # c\n  model_name: new\n\nz: 1\n"),
        ("model: {}\nz: 1\n", "model:\n  model_name: new\nz: 1\n"),
        ("model:\nz: 1\n", "model:\n  model_name: new\nz: 1\n"),
        ("z: 1\n", "z: 1\nmodel:\n  model_name: new\n"),
        ("z: 1", "z: 1\nmodel:\n  model_name: new"),
        ("", "model:\n  model_name: new\n"),
        ("# c\n---\n", "# c\n---\nmodel:\n  model_name: new\n"),
        ("---\n...\n", "---\nmodel:\n  model_name: new\n...\n"),
        ("--- # c\n# d\n... # e", "--- # c\n# d\nmodel:\n  model_name: new\n... # e"),
        ("z: 1\n...\n", "z: 1\nmodel:\n  model_name: new\n...\n"),
        ("{z: 1}\n", '{z: 1, "model": {"model_name": "new"}}\n'),
        (
            "b: &b {x: 1, model_name: o}\nmodel:\n  <<: *b\n  y: 2\n",
            "b: &b {x: 1, model_name: o}\nmodel:\n  <<: *b\n  y: 2\n  model_name: new\n",
        ),
        ("\ufeffmodel:\r\n  model_name: ö\r\n", "\ufeffmodel:\r\n  model_name: new\r\n"),
    ],
)
def test_where_a_value_goes(before: str, after: str) -> None:
    assert set_value(before, PATH, "new") == after
    assert set_value(after, PATH, "new") == after


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        ("model:\n  model_name: &a old\nx: *a\n", "writes model.model_name in a way", 2),
        ("m: &m\n  model_name: o\nmodel: *m\n", "something else than entries under `model:`", 3),
        ("model: &m\n  model_name: o\nx: *m\n", "writes model.model_name in a way", 2),
        ("model:\n  ? model_name\n  : old\n  ? b\n  : c\n", "", 0),
        ("model: [a]\n", "something else than keys and values under model", 1),
        ("model: text\n", "something else than keys and values under model", 1),
        ("model:\n  model_name: &a # why\n    old\n", "a comment between an anchor", 2),
    ],
)
def test_what_cannot_be_edited_alone_is_refused(text: str, reason: str, line: int) -> None:
    if not reason:  # an explicit key has its value on a line of its own, which is fine
        assert mapping(set_value(text, PATH, "new"))["model"]["model_name"] == "new"
        return
    with pytest.raises(NotEditable, match=reason) as caught:
        set_value(text, PATH, "new")
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        ("a: [\n", "is not valid YAML", 2),
        ("a: 1\nb: 2\na: 3\n", "a is there twice", 3),
        ("a: b: c\n", "is not valid YAML", 1),
        ("a: !thing {}\n", "is not valid YAML: could not determine a constructor", 1),
        ("a: 1\n---\nb: 2\n", "expected a single document", 2),
        ("- a\n", "is not a mapping", 1),
        ("a: *b\n", "undefined alias", 1),
        ("a: b\n\tc: d\n", "is not valid YAML", 2),
    ],
)
def test_what_is_no_yaml_for_an_engine_is_told_with_its_line(
    text: str, problem: str, line: int
) -> None:
    with pytest.raises(YamlError, match=problem) as caught:
        mapping(text)
    assert caught.value.line == line


@pytest.mark.parametrize(
    "value",
    [
        *(
            "off",
            "No",
            "y",
            "1e3",
            "0x1F",
            "12:30",
            "2024-01-01",
            "~",
            "",
            "a: b",
            "a #b",
            "- a",
            "é",
        ),
        *("a\nb", "\u2028", "\x85", "\ufeff", "tab\t", "🔄", "'", '"', "\\", "/m/a", "127.0.0.1"),
        *(0, -5, True, False, None, 0.9, 1e-05, 1.5e300, [1, "b", [True]], {"a": {"b": [None]}}),
    ],
)
def test_both_versions_of_yaml_read_back_what_was_written(value: Any) -> None:
    text = set_value("a: 1\n", ("b",), value)
    assert same(load(text)["b"], value)
    assert same(pyyaml.safe_load(text)["b"], value)
    assert same(pyyaml.safe_load(f"x: {scalar(value)}")["x"], value)


def test_a_value_that_is_there_keeps_its_bytes() -> None:
    text = "a: 0x10\nb: 'x'\nc: {d: [1,2]}\n"
    for path, value in ((("a",), 16), (("b",), "x"), (("c", "d"), [1, 2])):
        assert set_value(text, path, value) == text
    assert set_value(text, ("a",), 16.0) != text


def test_a_key_goes_and_an_emptied_mapping_stays() -> None:
    text = "# top\na: 1\n# of b\nb:\n  c: 2  # c\n"
    assert remove(text, ("a",)) == "# top\n# of b\nb:\n  c: 2  # c\n"
    assert remove(text, ("b",)) == "# top\na: 1\n"
    assert remove(text, ("b", "c")) == "# top\na: 1\n# of b\nb: {}\n"
    assert remove("a: 1\n", ("a",)) == ""
    with pytest.raises(KeyError):
        remove(text, ("b", "x"))


def test_the_line_of_the_deepest_part() -> None:
    text = "a:\r\n  b:\r\n    c: 1\r\n"
    assert [line_of(text, path) for path in ((), ("a",), ("a", "b", "c"), ("a", "x"))] == [
        1,
        1,
        3,
        1,
    ]


# Configuration files as people write them, and worse: sections with keys, and comments anywhere.

NAMES = st.from_regex(r"[a-z][a-z_]{0,8}[a-z]", fullmatch=True).filter(
    lambda name: name not in ("no", "on", "off", "yes", "null", "true", "false")
)
COMMENT = st.sampled_from(["# x", "#", "# model_name: commented", "# ü € 🔄", "#a: [b", "# 'q\""])
VALUES = st.sampled_from(
    [
        "",
        " 1",
        " -0.5",
        " true",
        " text on a line",
        " 'it''s # none'",
        ' "tab\\t € # no \\" "',
        " [1, 'b', {c: d}]  ",
        " {x: [1, 2], y: 'z'}",
        " ünïcode €",
        " &ANCHOR 96",
        " &ANCHOR {k: v}",
        " &ANCHOR",
        " *ALIAS",
        " !!str 5",
        "\n{i}- a  # why\n{i}- b",
        "\n{i}  - a\n{i}  - {b: c}",
        "\n{i}  deep: x\n{i}  # inside\n{i}  deeper:\n{i}    - y",
        " |\n{i}  # no comment\n{i}  x: y\n\n{i}  z",
        " >-  # folded\n{i}  one\n{i}  two",
        ' "one\n{i}  two # no comment"',
        " plain text\n{i}  on two lines",
        " ~",
    ]
)


@st.composite
def files(draw: st.DrawFn) -> str:
    anchors: list[str] = []
    made = 0

    def gaps(indent: str) -> Iterator[str]:
        for text in draw(st.lists(st.one_of(st.just(""), COMMENT), max_size=3)):
            deep = draw(st.sampled_from([indent, indent, "", indent + "  "]))
            yield f"{deep}{text}\n" if text else draw(st.sampled_from(["\n", "   \n"]))

    def pair(name: str, indent: str) -> str:
        nonlocal made
        value = draw(VALUES)
        if "ANCHOR" in value:
            made += 1
            anchors.append(f"a{made}")
            value = value.replace("ANCHOR", anchors[-1])
        if "ALIAS" in value:
            value = value.replace("ALIAS", draw(st.sampled_from(anchors))) if anchors else " 0"
        quote = draw(st.sampled_from(["", "", "'", '"']))
        behind = draw(st.sampled_from(["", "", "  # behind", "   "]))
        if "\n" in value or value.startswith(" plain"):
            behind = ""
        return f"{indent}{quote}{name}{quote}:{value.replace('{i}', indent)}{behind}\n"

    sections = draw(st.lists(NAMES, max_size=3, unique=True).filter(lambda n: "model" not in n))
    position = draw(st.integers(0, len(sections)))
    if draw(st.integers(0, 9)):
        sections.insert(position, "model")
    lines = [draw(st.sampled_from(["", "# head\n\n", "---\n", "\ufeff", "%YAML 1.2\n---\n"]))]
    for section in sections:
        indent = draw(st.sampled_from(["  ", "    ", " "]))
        lines += [*gaps(""), f"{section}:{draw(st.sampled_from(['', ' ', '  # section']))}\n"]
        keys = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
        keys = [key for key in keys if key != "model_name"] or ["other"]
        if section == "model" and draw(st.integers(0, 9)):
            keys.insert(draw(st.integers(0, len(keys))), "model_name")
        for key in keys:
            lines += [*gaps(indent), pair(key, indent)]
    lines.append(draw(st.sampled_from(["", "\n\n", "# end\n", "\n  # end\n", "...\n"])))
    text = "".join(lines)
    if draw(st.booleans()) and not text.endswith("\n\n") and "|" not in text:
        text = text.removesuffix("\n")
    return text.replace("\n", draw(st.sampled_from(["\n", "\n", "\r\n"])))


RUNS = 500 if "ROUNDHOUSE_RUNS" in os.environ else 60
"""`make test-properties` makes 500 files, `make check` a few."""


@given(files(), st.sampled_from(["new", "Monstral-123B-v2-exl2-4.0bpw", "A/b c", "1", "ü#: '"]))
@settings(max_examples=RUNS, deadline=None, suppress_health_check=list(HealthCheck))
def test_files_come_back_equal_but_for_the_one_key(text: str, value: str) -> None:
    try:
        before = mapping(text)
    except YamlError:
        event("not YAML")
        with pytest.raises(YamlError):
            set_value(text, PATH, value)
        return
    try:
        after = set_value(text, PATH, value)
    except NotEditable as error:
        event("refused")
        # one text that says two things: an anchor that something else points to, or a comment in
        # the midst of a value
        reason = str(error)
        assert "without changing something else" in reason or "has a comment between" in reason
        assert "&a" in text
        return
    event("edited")
    document = mapping(after)
    assert get(document, PATH) == value
    assert set_value(after, PATH, value) == after
    for other in (before, document):
        if isinstance(other.get("model"), dict):
            other["model"] = {k: v for k, v in other["model"].items() if k != "model_name"}
        if other.get("model") in ({}, None):
            other.pop("model", None)
    assert same(before, document)
    assert_only_its_lines_changed(text, after)


def assert_only_its_lines_changed(text: str, after: str) -> None:
    """By lines, and without a parser: the key's own, and those of its value below it."""
    old, new = text.splitlines(keepends=True), after.splitlines(keepends=True)
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    changed = [
        number
        for what, start, end, _, _ in matcher.get_opcodes()
        if what in ("replace", "delete")
        for number in range(start, end)
    ]
    is_key = re.compile(r"( +)[\"']?model_name[\"']? ?:(?!.*commented)")
    for number in changed:
        line = old[number]
        last_without_end = number + 1 == len(old) and not line.endswith("\n")
        if is_key.match(line) or line.startswith("model:") or last_without_end:
            continue
        above = [other for other in old[:number] if is_key.match(other)]
        assert above, line
        depth = len(is_key.match(above[-1])[1])  # type: ignore[index]
        inside = line[: depth + 1].strip(" ") in ("", "-") or not line.strip()
        assert inside, line
        # of several blank lines, which one is gone is for difflib to say
        before = max(at for at in range(number) if old[at].strip() or at in changed)
        assert before in changed, line


LAYOUT = (Path(__file__).parents[1] / "data/tabby_config.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_file_of_tabbyapis_layout_changes_in_one_line(line_end: str) -> None:
    text = LAYOUT.replace("\n", line_end)
    after = set_value(text, PATH, "Monstral-123B-v2-exl2-4.0bpw")
    changed = [
        line
        for line in difflib.ndiff(text.splitlines(keepends=True), after.splitlines(keepends=True))
        if line[0] in "+-"
    ]
    assert changed == [
        f"-   model_name:{line_end}",
        f"+   model_name: Monstral-123B-v2-exl2-4.0bpw{line_end}",
    ]


def test_a_file_that_was_cut_is_refused_or_kept_whole() -> None:
    refused = 0
    for cut in range(0, len(LAYOUT), 97):
        half = LAYOUT[:cut]
        try:
            after = set_value(half, PATH, "new")
        except (YamlError, NotEditable):
            refused += 1
            continue
        assert get(mapping(after), PATH) == "new"
        gone = [
            line for line in difflib.ndiff(half.splitlines(), after.splitlines()) if line[0] == "-"
        ]
        assert gone in ([], ["-   model_name:"]), gone
    assert refused > 5
