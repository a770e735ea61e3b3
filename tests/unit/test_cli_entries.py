"""Editing models.yml as text: nothing but the entry changes, whatever the file looks like."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from llm_router.cli import entries

FIELDS = {"backend": "llamacpp", "model_path": "/m.gguf", "args": ["--ctx-size", "4096"]}
ADDED = '  new:\n    backend: llamacpp\n    model_path: /m.gguf\n    args: ["--ctx-size", "4096"]\n'

COMMENTED = """\
# The models of this host.
schema: 1   # the file's version
models:

  # --- the big one ---

  # German
  a:
    backend: "sglang"    # a comment
    args: [--x,   'y z']
    # args: []

  "b":
      backend: vllm

  # about c
  # in two lines
  c: {backend: vllm}
  # d:
  #   backend: vllm

# the end
"""


def load(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("models:\n  a:\n    backend: x\n", "models:\n  a:\n    backend: x\n" + ADDED),
        ("models: {}\n", "models:\n" + ADDED),
        ("models: {}   # none yet\n", "models:   # none yet\n" + ADDED),
        ("models:\n", "models:\n" + ADDED),
        ("models:\n  # none yet\n", "models:\n" + ADDED + "  # none yet\n"),
        ("models: {}\nschema: 1\n", "models:\n" + ADDED + "schema: 1\n"),
        ("schema: 1\n", "schema: 1\nmodels:\n" + ADDED),
        ("", "models:\n" + ADDED),
        ("# nothing\n", "# nothing\nmodels:\n" + ADDED),
        ("models:\n  a: {b: c}", "models:\n  a: {b: c}\n" + ADDED.rstrip("\n")),
        ("\ufeffmodels: {}\n", "\ufeffmodels:\n" + ADDED),
        (
            "models:\r\n  a: {b: c}\r\n# end\r\n",
            "models:\r\n  a: {b: c}\r\n" + ADDED.replace("\n", "\r\n") + "# end\r\n",
        ),
        (
            "models:\n  a:\n    b: |\n      text\n\n\n  c: {b: d}\n",
            "models:\n  a:\n    b: |\n      text\n\n\n  c: {b: d}\n\n" + ADDED,
        ),
        (
            "models:\n  a:\n    b: |+\n      text\n\nschema: 1\n",
            "models:\n  a:\n    b: |+\n      text\n\n" + ADDED + "schema: 1\n",
        ),
        ("models:\n  a: {b: c}\n...\n", "models:\n  a: {b: c}\n" + ADDED + "...\n"),
        (
            "models:\n    a:\n        b: c\n",
            "models:\n    a:\n        b: c\n" + ADDED.replace("  ", "    "),
        ),
    ],
)
def test_where_an_entry_goes(before: str, after: str) -> None:
    assert entries.add(before, "new", FIELDS) == after


FLOW = '"new": {"backend": "llamacpp", "model_path": "/m.gguf", "args": ["--ctx-size", "4096"]}'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("models: {a: {b: c}}  # one\n", f"models: {{a: {{b: c}}, {FLOW}}}  # one\n"),
        ("{models: {}}", f"{{models: {{{FLOW}}}}}"),
        ("models: {\n  # none\n}\n", f"models: {{{FLOW}\n  # none\n}}\n"),
        ('{"models": {"a": {"b": "c"}}}\n', f'{{"models": {{"a": {{"b": "c"}}, {FLOW}}}}}\n'),
        ("models: {a: {b: c}, # x\n}\n", f"models: {{a: {{b: c}}, {FLOW}, # x\n}}\n"),
    ],
)
def test_flow_style_stays_flow_style(before: str, after: str) -> None:
    assert entries.add(before, "new", FIELDS) == after


def test_json_stays_json() -> None:
    import json

    text = entries.add('{"schema": 1, "models": {"a": {"backend": "vllm"}}}\n', "ü", FIELDS)
    assert list(json.loads(text)["models"]) == ["a", "ü"]
    assert json.loads(entries.remove(text, "a"))["models"] == {"ü": FIELDS}


def test_an_entry_goes_with_its_comments_and_no_others() -> None:
    assert entries.remove(COMMENTED, "a") == COMMENTED.replace(
        "  # German\n"
        "  a:\n"
        '    backend: "sglang"    # a comment\n'
        "    args: [--x,   'y z']\n"
        "    # args: []\n"
        "\n",
        "",
    )
    assert entries.remove(COMMENTED, "b") == COMMENTED.replace(
        '  "b":\n      backend: vllm\n\n', ""
    )
    assert entries.remove(COMMENTED, "c") == COMMENTED.replace(
        "\n  # about c\n  # in two lines\n  c: {backend: vllm}\n", ""
    )


def test_what_is_added_can_be_taken_away_without_a_trace() -> None:
    added = entries.add(COMMENTED, "new", FIELDS)
    assert "  c: {backend: vllm}\n\n  new:\n      backend" in added
    assert entries.remove(added, "new") == COMMENTED


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("models:\n  a: {b: c}\n", "models: {}\n"),
        ("models:  # all\n  # one\n  a: {b: c}\n# end\n", "models: {}  # all\n# end\n"),
        ("models:\n  a: {b: c}", "models: {}"),
        ("models: {a: {b: c}, }\n", "models: {}\n"),
        ("models: {a: {b: c}, d: {}}\n", "models: {d: {}}\n"),
        ("models: {a: {b: c}, d: {}, a2: {}}\n", "models: {d: {}, a2: {}}\n"),
        ("models: {d: {}, a: {b: c}}\n", "models: {d: {}}\n"),
        (
            "models: {\n  d: {},  # d\n  a: {},  # a\n  e: {},  # e\n}\n",
            "models: {\n  d: {},  # d\n  e: {},  # e\n}\n",
        ),
        ("models: {\n  d: {},  # d\n  a: {}  # a\n}\n", "models: {\n  d: {},  # d\n}\n"),
        ("models:\n  x: {}\n  a:\n  y: {}\n", "models:\n  x: {}\n  y: {}\n"),
        ("models:\n  x: &x {}\n  a: *x\n  y: *x\n", "models:\n  x: &x {}\n  y: *x\n"),
        ("models:\n  x: {}\n\n  a: {}\n\n\n", "models:\n  x: {}\n\n\n"),
        ("models:\n  x: {}\n\n  a: {}\n\nschema: 1\n", "models:\n  x: {}\n\nschema: 1\n"),
        ("models:\n  x: {}\n  a: {}", "models:\n  x: {}"),
    ],
)
def test_what_is_left(before: str, after: str) -> None:
    assert entries.remove(before, "a") == after


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("models:\n  a: &a {b: c}\n  d: *a\n", "undefined alias"),
        ("x: &a {b: c}\nmodels:\n  a: &a {b: 1}\n  d: *a\n", "without changing something else"),
        ("models:\n  <<: {a: {b: c}}\n  d: {}\n", "a merge or an alias"),
        ("models:\n  ? a\n  : {b: c}\n  ? d\n  : {}\n", "in front of a key"),
        ("x: &m {a: {}}\nmodels: *m\n", "an alias"),
        ("models: &m\n  a: {}\nx: *m\n", "more than a comment behind"),
    ],
)
def test_what_cannot_be_taken_away_faithfully_is_refused(text: str, reason: str) -> None:
    with pytest.raises(entries.NotEditable, match=reason):
        entries.remove(text, "a")


@pytest.mark.parametrize(
    "text",
    [
        "models: [a]\n",
        "models: text\n",
        "- models\n",
        "x: &m {a: {}}\nmodels: *m\n",
        "models:\n  ? a\n  : {b: c}\n",
    ],
)
def test_what_cannot_be_added_to_faithfully_is_refused(text: str) -> None:
    with pytest.raises((entries.NotEditable, entries.YamlError)):
        entries.add(text, "new", FIELDS)


@pytest.mark.parametrize("cut", range(20, len(COMMENTED), 17))
def test_half_a_file_is_refused_or_edited_right(cut: int) -> None:
    text = COMMENTED[:cut]
    try:
        added = entries.add(text, "new", FIELDS)
    except (entries.YamlError, entries.NotEditable):
        return
    assert load(added)["models"].pop("new") == FIELDS


@pytest.mark.parametrize(
    "text", ["off", "No", "y", "1e3", "0x1F", "12:30", "2024-01-01", "~", "", "a: b", "a #b", "- a"]
)
def test_text_stays_text_for_both_versions_of_yaml(text: str) -> None:
    import yaml

    added = entries.add("models: {}\n", "a", {"model_name": text})
    assert load(added)["models"]["a"] == {"model_name": text}
    assert yaml.safe_load(added)["models"]["a"] == {"model_name": text}


# Files as people write them, and worse. An entry is (comments above, lines, what follows it).

comment = st.sampled_from(["# x", "#", "#  models: {a: b}", "# ü € 🔄", "#a: b"])
names_ = st.lists(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/+@-]{0,8}[a-z0-9]", fullmatch=True),
    min_size=1,
    max_size=5,
    unique=True,
)
values = st.sampled_from(
    [
        " {backend: vllm, args: [a, 'b # c']}",
        ' {"backend": "x}",\n      "y": 2}',
        "\n{i}  backend: vllm",
        "\n{i}  backend: 'vllm'   # why\n{i}  args:\n{i}  - a\n{i}  - b # c",
        "\n{i}    command: |\n{i}      # no comment\n{i}      x: y\n\n{i}      z",
        "\n{i}    command: >-\n{i}      one\n{i}      two\n{i}    # inside",
        '\n{i}  a: "# no\n{i}   # comment"\n\n{i}  # inside, after a blank line',
        "\n{i}  note: plain text\n{i}    on two lines\n{i}  port: 1",
        "",
        " # nothing",
    ]
)


@st.composite
def files(draw: st.DrawFn) -> tuple[str, list[str]]:
    indent = draw(st.sampled_from(["  ", "    ", " "]))
    names = draw(names_)
    lines = [draw(st.sampled_from(["schema: 1\n", "# head\n\nschema: 1\n", "", "---\n", "\ufeff"]))]
    lines.append(draw(st.sampled_from(["models:\n", "models:  # all\n", "'models':\n\n"])))
    for name in names:
        for text in draw(st.lists(st.one_of(comment, st.just("")), max_size=3)):
            deep = draw(st.sampled_from([indent, indent, ""]))
            lines.append(f"{deep}{text}\n" if text else draw(st.sampled_from(["\n", "  \n"])))
        quote = draw(st.sampled_from(["", '"', "'"]))
        if ":" in name or name[0].isdigit():
            quote = '"'
        lines.append(f"{indent}{quote}{name}{quote}:{draw(values).replace('{i}', indent)}\n")
    end = ["", "\n", "\n\n", "# end\n", f"{indent}# end\n", "other:\n  - x\n", "\n# x\nz: 1\n"]
    lines.append(draw(st.sampled_from(end)))
    text = "".join(lines)
    # (a literal block without a line end behind it would mean something else with one)
    if draw(st.booleans()) and not text.endswith("\n\n") and "|" not in text:
        text = text.removesuffix("\n")
    return text.replace("\n", draw(st.sampled_from(["\n", "\r\n"]))), names


relaxed = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(files())
@relaxed
def test_adding_inserts_and_touches_nothing(file: tuple[str, list[str]]) -> None:
    text, names = file
    added = entries.add(text, "the-new", FIELDS)
    # what was there is all there, before and behind one piece that is new
    assert any(is_cut(added, text, at) for at in range(len(text) + 1))
    assert entries.names(added) == [*names, "the-new"]
    assert load(added)["models"]["the-new"] == FIELDS
    assert entries.remove(added, "the-new") == text


@given(files(), st.data())
@relaxed
def test_removing_cuts_and_touches_nothing(
    file: tuple[str, list[str]], data: st.DataObject
) -> None:
    text, names = file
    name = data.draw(st.sampled_from(names))
    left = entries.remove(text, name)
    assert entries.names(left) == [other for other in names if other != name]
    before = {key: value for key, value in load(text)["models"].items() if key != name}
    assert load(left)["models"] == before
    if len(names) > 1:
        # one piece is cut out, with its key in it and no line of another entry
        start = next((i for i in range(len(left)) if left[i] != text[i]), len(left))
        length = len(text) - len(left)
        cuts = [text[at : at + length] for at in range(start + 1) if is_cut(text, left, at)]
        assert any(name in cut for cut in cuts)


def is_cut(text: str, left: str, at: int) -> bool:
    return text[:at] + text[at + len(text) - len(left) :] == left
