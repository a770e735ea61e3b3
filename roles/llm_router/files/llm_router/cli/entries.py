"""models.yml as text: where its entries stand, how one is added, how one is taken away. Pure.

Whatever is not the entry itself keeps every byte: comments, order, quotes, line ends. No YAML
library that writes a document anew promises that, so here it only says where things are. Each
result is read again and compared with what was meant, before anyone sees it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

_BREAK = re.compile(r"\r\n|\r|\n")
_PLAIN = re.compile(r"[A-Za-z/](?:[A-Za-z0-9._/+@-]|:(?=[A-Za-z0-9._/+@-]))*")
_WORDS_WITH_A_MEANING = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_INDENT = "  "


class NotEditable(Exception):
    """The text is written in a way that cannot be edited without touching something else.

    The message is the reason, to go behind "models.yml ".
    """


def names(text: str) -> list[str]:
    """The models' names, in the file's order, unchecked. Raises `ruamel.yaml.error.YAMLError`."""
    return [str(name) for name in _models(text)]


def add(text: str, name: str, fields: Mapping[str, Any]) -> str:
    """The text with an entry ``name`` behind the last one. The name must not be there yet.

    ``fields``: text, numbers, booleans and lists of text. Raises `NotEditable`, and
    `ruamel.yaml.error.YAMLError` for a text that is not YAML.
    """
    root, place = _place(text)
    if place is None:
        new = _add_first(text, root, name, fields)
    elif place.value.flow and not _is_for_a_block(text, place):
        new = _add_to_flow(text, place.value, name, fields)
    elif not place.value.pairs:
        new = _add_to_empty(text, place, name, fields)
    else:
        new = _add_to_block(text, place.value, name, fields)
    _compare(text, new, {**_models(text), name: dict(fields)})
    return new


def remove(text: str, name: str) -> str:
    """The text without the entry ``name``, its comments, and the blank lines it was set off by.

    Its comments are those inside it, and those right above it that are indented like it. Raises
    KeyError when it is not there, and what `add` raises.
    """
    left = _models(text)
    del left[name]
    _, place = _place(text)
    pairs = place.value.pairs if place else []
    index = next((i for i, pair in enumerate(pairs) if pair.key.value == name), None)
    if place is None or index is None:
        raise NotEditable(f"does not write {name} as an entry of its own (a merge or an alias)")
    if place.value.flow:
        new = _cut(text, *_flow_span(text, place.value, index))
    elif len(pairs) > 1:
        new = _cut(text, *_block_span(text, place, index))
    else:
        new = _remove_only(text, place)
    _compare(text, new, left)
    return new


@dataclass
class _Node:
    """A piece of the document; ``end`` is behind its last character, comments not counted."""

    start: int
    end: int
    value: str | None = None
    flow: bool = False
    mapping: bool = False
    whole_lines: bool = False
    """A block scalar: it ends where a line begins."""
    pairs: list[_Pair] = field(default_factory=list)


@dataclass
class _Pair:
    key: _Node
    value: _Node


def _place(text: str) -> tuple[_Node | None, _Pair | None]:
    """The document, and of it the key ``models`` with its value."""
    events = iter(_yaml().parse(text))
    for event in events:
        if isinstance(event, DocumentStartEvent):
            root = _node(next(events), events, text)
            found = [pair for pair in root.pairs if pair.key.value == "models"]
            return root, found[0] if found else None
    return None, None


def _node(event: Event, events: Iterator[Event], text: str) -> _Node:
    start, end = event.start_mark.index, event.end_mark.index
    if isinstance(event, ScalarEvent):
        block = event.style in ("|", ">")
        if block and "+" not in text[start : _line_end(text, start)]:
            end = start + len(text[start:end].rstrip())
            block = False
        return _Node(start, end, event.value, whole_lines=block)
    if isinstance(event, AliasEvent):
        return _Node(start, end)
    node = _Node(start, end, flow=bool(getattr(event, "flow_style", False)))
    if isinstance(event, SequenceStartEvent):
        for inner in events:
            if isinstance(inner, SequenceEndEvent):
                _close(node, inner)
                break
            _extend(node, _node(inner, events, text))
    elif isinstance(event, MappingStartEvent):
        node.mapping = True
        for inner in events:
            if isinstance(inner, MappingEndEvent):
                _close(node, inner)
                break
            key = _node(inner, events, text)
            value = _node(next(events), events, text)
            if value.start == value.end:
                # the library puts a value that is not there before whatever comes next
                value = _Node(key.end, key.end, value.value)
            node.pairs.append(_Pair(key, value))
            _extend(node, value)
    return node


def _extend(node: _Node, inner: _Node) -> None:
    node.end, node.whole_lines = inner.end, inner.whole_lines


def _close(node: _Node, event: Event) -> None:
    if node.flow:  # a block's end is told only where the next thing begins
        node.end, node.whole_lines = event.end_mark.index, False


def _is_for_a_block(text: str, place: _Pair) -> bool:
    """Whether it is ``models: {}`` on a line of its own, which becomes a block with an entry."""
    between = text[place.key.end : place.value.start]
    inside = text[place.value.start + 1 : place.value.end - 1]
    before = text[_line_start(text, place.key.start) : place.key.start]
    rest = text[place.value.end : _line_end(text, place.value.end)].strip()
    return (
        not place.value.pairs
        and re.fullmatch(r":[ ]+", between) is not None
        and not inside.strip(" ")
        and not before.strip(" \ufeff")
        and (not rest or rest.startswith("#"))
    )


def _add_first(text: str, root: _Node | None, name: str, fields: Mapping[str, Any]) -> str:
    """Where there is no key ``models`` yet."""
    line_end = _line_break(text)
    if root is None or (root.value == "" and not root.pairs):
        position, indent = len(text), ""
    elif root.mapping and not root.flow:
        position, indent = _own_end(text, root, ""), _indent(text, root.pairs[0].key)
    else:
        raise NotEditable("has no block of models that an entry could be added to")
    lines = [f"{indent}models:", *_entry_lines(name, fields, indent + _INDENT, _INDENT)]
    return _insert_lines(text, position, lines, line_end)


def _add_to_empty(text: str, place: _Pair, name: str, fields: Mapping[str, Any]) -> str:
    """``models:`` or ``models: {}``."""
    if place.value.flow:
        colon = text.index(":", place.key.end) + 1
        text = _cut(text, colon, place.value.end)
    elif place.value.value != "" or place.value.start != place.key.end:
        raise NotEditable("has something else than entries under `models:`")
    position = _line_end(text, place.key.end)
    indent = _indent(text, place.key)
    lines = _entry_lines(name, fields, indent + _INDENT, _INDENT)
    return _insert_lines(text, position, lines, _line_break(text))


def _add_to_block(text: str, models: _Node, name: str, fields: Mapping[str, Any]) -> str:
    last = models.pairs[-1]
    indent = _indent(text, last.key)
    step = _INDENT
    for pair in models.pairs:
        if pair.value.mapping and not pair.value.flow and pair.value.pairs:
            step = _indent(text, pair.value.pairs[0].key)[len(indent) :] or _INDENT
    lines = _entry_lines(name, fields, indent, step)
    if len(models.pairs) > 1 and _is_set_off(text, models, len(models.pairs) - 1):
        lines.insert(0, "")
    position = _own_end(text, last.value, indent)
    return _insert_lines(text, position, lines, _line_break(text))


def _add_to_flow(text: str, models: _Node, name: str, fields: Mapping[str, Any]) -> str:
    # JSON is valid here, and a file that was JSON stays JSON
    entry = f"{json.dumps(name)}: {json.dumps(dict(fields), ensure_ascii=False)}"
    if not models.pairs:
        return text[: models.start + 1] + entry + text[models.start + 1 :]
    position = models.pairs[-1].value.end
    return f"{text[:position]}, {entry}{text[position:]}"


def _entry_lines(name: str, fields: Mapping[str, Any], indent: str, step: str) -> list[str]:
    inner = indent + step
    return [
        f"{indent}{_scalar(name)}:",
        *(f"{inner}{key}: {_value(value)}" for key, value in fields.items()),
    ]


def _value(value: Any) -> str:
    return _scalar(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _scalar(text: str) -> str:
    """Quoted unless YAML 1.1, which is Ansible's, and 1.2 both read it as this text."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS_WITH_A_MEANING:
        return text
    return json.dumps(text, ensure_ascii=False)


def _insert_lines(text: str, position: int, lines: list[str], line_end: str) -> str:
    """A file whose last line has no end keeps it so."""
    before, after = text[:position], text[position:]
    added = line_end.join(lines)
    if before.strip("\ufeff") and not before.endswith(("\r", "\n")):
        return f"{before}{line_end}{added}{after}"
    return f"{before}{added}{line_end}{after}"


def _cut(text: str, start: int, end: int) -> str:
    return text[:start] + text[end:]


def _block_span(text: str, place: _Pair, index: int) -> tuple[int, int]:
    """What goes when one of several entries goes, blank lines included."""
    floor = _floor(text, place, index)
    start, end = _own_span(text, place, index)
    if index + 1 < len(place.value.pairs):
        # its neighbours stay as far apart as they were from it
        if start == floor or not _line_before(text, start).strip():
            end = _behind_blank_lines(text, end)
        return start, end
    while start > floor and not _line_before(text, start).strip():
        start -= len(_line_before(text, start))
    if end == len(text) and not text.endswith(("\r", "\n")):
        start -= len(_line_before(text, start)) - len(_line_before(text, start).rstrip("\r\n"))
    return start, end


def _remove_only(text: str, place: _Pair) -> str:
    """``models:`` without entries is ``models: {}``."""
    start, end = _own_span(text, place, 0)
    head_end = _line_end(text, place.key.end)
    head = re.fullmatch(r":\s*(#.*\s*)?", text[place.key.end : head_end])
    if head is None:
        raise NotEditable("has more than a comment behind `models:`")
    colon = place.key.end + 1
    if end == len(text) and not text.endswith(("\r", "\n")):
        start -= len(_line_before(text, start)) - len(_line_before(text, start).rstrip("\r\n"))
    return text[:colon] + " {}" + text[colon:start] + text[end:]


def _own_span(text: str, place: _Pair, index: int) -> tuple[int, int]:
    """An entry's lines, with the comments right above it and those inside it."""
    pair = place.value.pairs[index]
    indent = _indent(text, pair.key)
    start, floor = _line_start(text, pair.key.start), _floor(text, place, index)
    while start > floor:
        above = _line_before(text, start)
        if not above.lstrip(" ").startswith("#") or _indent_of(above) != indent:
            break
        start -= len(above)
    return start, _own_end(text, pair.value, indent)


def _own_end(text: str, node: _Node, indent: str) -> int:
    """Behind a node's last line, and behind comments below it that are indented deeper."""
    end = node.end if node.whole_lines else _line_end(text, node.end)
    position = end
    while position < len(text):
        line = text[position : _line_end(text, position)]
        if line.lstrip(" ").startswith("#") and len(_indent_of(line)) > len(indent) > 0:
            end = position + len(line)
        elif line.strip():
            break
        position += len(line)
    return end


def _floor(text: str, place: _Pair, index: int) -> int:
    """Where the lines begin that are neither the entry before nor the line ``models:``."""
    if index == 0:
        return _line_end(text, place.key.end)
    before = place.value.pairs[index - 1]
    return _own_end(text, before.value, _indent(text, before.key))


def _is_set_off(text: str, models: _Node, index: int) -> bool:
    """Whether there is a blank line between an entry and the one before it."""
    between = text[models.pairs[index - 1].value.end : models.pairs[index].key.start]
    lines = _BREAK.split(between)
    return any(not line.strip() for line in lines[1:-1])


def _flow_span(text: str, models: _Node, index: int) -> tuple[int, int]:
    pairs = models.pairs
    key, value = pairs[index].key, pairs[index].value
    if len(pairs) == 1:
        return models.start + 1, models.end - 1
    last = index + 1 == len(pairs)
    gap = (
        text[pairs[index - 1].value.end : key.start]
        if last
        else text[value.end : pairs[index + 1].key.start]
    )
    if "#" not in gap:
        return (
            (pairs[index - 1].value.end, value.end)
            if last
            else (key.start, pairs[index + 1].key.start)
        )
    # comments of the neighbours stay, and so does a comma, which may stand behind the last entry
    end = value.end
    comma = re.compile(r"\s*,").match(text, end)
    if comma is not None:
        end = comma.end()
    line_start, line_end = _line_start(text, key.start), _line_end(text, end)
    rest = text[end:line_end].strip()
    if not text[line_start : key.start].strip() and (not rest or rest.startswith("#")):
        return line_start, line_end
    return key.start, end


def _indent(text: str, key: _Node) -> str:
    """The blanks in front of a block's key. Raises `NotEditable` where there is anything else."""
    before = text[_line_start(text, key.start) : key.start].lstrip("\ufeff")
    if before.strip(" "):
        raise NotEditable(f"has {before.strip()!r} in front of a key")
    return before


def _indent_of(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" "))]


def _behind_blank_lines(text: str, position: int) -> int:
    while position < len(text):
        line = text[position : _line_end(text, position)]
        if line.strip():
            break
        position += len(line)
    return position


def _line_break(text: str) -> str:
    found = _BREAK.search(text)
    return found[0] if found else "\n"


def _line_start(text: str, position: int) -> int:
    return max(text.rfind("\n", 0, position), text.rfind("\r", 0, position)) + 1


def _line_end(text: str, position: int) -> int:
    """Behind the line break that ends the line of ``position``."""
    found = _BREAK.search(text, position)
    return found.end() if found else len(text)


def _line_before(text: str, position: int) -> str:
    """The line, its break included, that ends where the line of ``position`` begins."""
    end = position
    if text.startswith("\r\n", position - 2) and position >= 2:
        end = position - 2
    elif position >= 1:
        end = position - 1
    return text[_line_start(text, end) : position]


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.composer.warn_double_anchors = False  # a warning of the library's is no use to an operator
    return yaml


def _models(text: str) -> dict[str, Any]:
    root = _yaml().load(text)
    models = root.get("models") if isinstance(root, dict) else None
    return dict(models) if isinstance(models, dict) else {}


def _rest(text: str) -> Any:
    root = _yaml().load(text)
    return {key: value for key, value in (root or {}).items() if key != "models"}


def _compare(old: str, new: str, wanted: dict[str, Any]) -> None:
    """Whether ``new`` says what was meant. Raises `NotEditable`."""
    try:
        models, rest = _models(new), _rest(new)
    except YAMLError as error:
        problem = error.problem if isinstance(error, MarkedYAMLError) else None
        raise NotEditable(f"would not be valid YAML afterwards: {problem or 'syntax'}") from error
    if list(models) != list(wanted) or models != wanted or rest != _rest(old):
        raise NotEditable("is written in a way that this command cannot edit faithfully")
