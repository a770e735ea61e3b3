"""One key of a YAML file, changed as text: every other byte stays. Pure.

No YAML library that writes a document anew keeps comments, order, quotes and line ends as they
were, so here the parser only says where things are. Each result is read again and compared with
what was meant, before anyone sees it.

For the target's Python (>= 3.9), since Ansible modules import this file; only ruamel.yaml is
needed, and only when something is read.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

try:
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    from . import yaml_events
    from .yaml_bounds import YamlBoundError, bound

    HAS_RUAMEL = True
except ImportError:  # said by `load`; a module looks first, and starts again where it is
    HAS_RUAMEL = False

NO_RUAMEL = "the Python library ruamel.yaml is missing; install the package python3-ruamel.yaml"

_BREAK = re.compile(r"\r\n|\r|\n")
_PLAIN = re.compile(r"[A-Za-z/](?:[A-Za-z0-9._/+@-]|:(?=[A-Za-z0-9._/+@-]))*")
_WORDS_WITH_A_MEANING = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_NOT_PRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_PROPERTIES = re.compile(r"(?:[&!][^\s,\[\]{}]*(?:[ \t]+|$))*")
_BLOCK_HEADER = re.compile(r"[|>][-+0-9]*[ \t]*(#[^\r\n]*)?")
_INDENT = "  "

Path = typing.Sequence[str]  # Python 3.8 subscripts no other
"""The keys that lead to a value, from the top."""


class YamlError(Exception):
    """The text is not YAML, or not of the kind that an engine reads. ``line`` is 1-based, or 0."""

    def __init__(self, problem: str, line: int = 0) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line


class NotEditable(Exception):
    """The text is written in a way that cannot be edited without touching something else.

    The message is the reason, to go behind the file's name. ``line`` is 1-based, or 0.
    """

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(reason)
        self.line = line


def load(text: str) -> Any:
    """The one document, as plain values; None for an empty one. Raises `YamlError`."""
    if not HAS_RUAMEL:
        raise YamlError(NO_RUAMEL)
    try:
        found = yaml_events.events(text)
        if found is not None:
            with contextlib.suppress(yaml_events.Unusual):
                return yaml_events.values(found)
        return _yaml().load(text)
    except DuplicateKeyError as error:
        name = str(error.problem).split('"')[1] if '"' in str(error.problem) else "a key"
        raise YamlError(f"{name} is there twice", _line_of(error)) from error
    except YamlBoundError as error:
        raise YamlError(f"has {error.problem}", _line_of(error)) from error
    except MarkedYAMLError as error:
        parts = (error.context, error.problem)
        what = ", ".join(part for part in parts if part) or "its syntax is wrong"
        raise YamlError(f"is not valid YAML: {what}", _line_of(error)) from error
    except YAMLError as error:
        raise YamlError(f"is not valid YAML: {str(error).splitlines()[0]}") from error
    except (ValueError, RecursionError) as error:  # a date that is none, nesting without end
        raise YamlError(f"is not valid YAML: {error}") from error


def mapping(text: str) -> dict[str, Any]:
    """The document, which must be a mapping or empty. Raises `YamlError`."""
    document = load(text)
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise YamlError("is not a mapping of keys to values", 1)
    return document


def get(document: Any, path: Path) -> Any:
    """The value at ``path``. Raises KeyError where there is none."""
    for key in path:
        if not isinstance(document, dict):
            raise KeyError(key)
        document = document[key]
    return document


def set_value(text: str, path: Path, value: Any) -> str:
    """The text with ``value`` at ``path``: where it is there, it alone is replaced; where not, it
    comes behind the last key of its mapping, and a mapping on the way that is not there is made.

    ``value`` is text, a number, a boolean, None, or lists and dicts of these. A value that is equal
    already keeps its bytes. Raises `YamlError` and `NotEditable`.
    """
    before = mapping(text)
    try:
        if same(get(before, path), value):
            return text
    except KeyError:
        _see_that_it_can_have_keys(text, before, path[:-1])
    new = _put(text, path, value)
    _compare(new, _with(before, path, value), path)
    return new


def remove(text: str, path: Path) -> str:
    """The text without the key at ``path``, its comments, and the blank lines it was set off by.

    Its comments are those inside it, and those right above it that are indented like it. Raises
    KeyError where it is not, `YamlError` and `NotEditable`.
    """
    before = mapping(text)
    get(before, path)
    parent, key = path[:-1], path[-1]
    place = _find(text, parent)
    pairs = place.value.pairs if place else []
    index = next((i for i, pair in enumerate(pairs) if pair.key.value == key), None)
    if place is None or index is None:
        raise NotEditable(f"does not write {key} as an entry of its own (a merge or an alias)")
    if place.value.flow:
        new = _cut(text, *_flow_span(text, place.value, index))
    elif len(pairs) > 1:
        new = _cut(text, *_block_span(text, place, index))
    else:
        new = _remove_only(text, place)
    _compare(new, _with(before, path, _GONE), path)
    return new


def line_of(text: str, path: Path) -> int:
    """The 1-based line of the deepest part of ``path`` that the text has."""
    position = 0
    for length in range(1, len(path) + 1):
        place = _find(text, path[:length])
        if place is None:
            break
        position = place.key.start
    return len(_BREAK.findall(text, 0, position)) + 1


def same(one: Any, other: Any) -> bool:
    """Equal, and of one type: YAML tells 1, 1.0 and true apart, and Python does not."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (one != one and other != other)  # the last: not a number


def scalar(value: Any) -> str:
    """A value on one line, such that YAML 1.1 (PyYAML's) and 1.2 both read it as this value."""
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value.lower() not in _WORDS_WITH_A_MEANING:
            return value
        return _quoted(value)
    return _flow(value)


def block(key: str, value: Any, indent: str, step: str = _INDENT) -> list[str]:
    """``key: value`` as lines without ends; a mapping goes over several lines."""
    if isinstance(value, Mapping) and value:
        lines = [f"{indent}{scalar(key)}:"]
        for inner, each in value.items():
            lines += block(str(inner), each, indent + step, step)
        return lines
    return [f"{indent}{scalar(key)}: {scalar(value)}"]


def _quoted(text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    return _NOT_PRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def _flow(value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Mapping):
        inner = (f"{_quoted(str(key))}: {_flow(each)}" for key, each in value.items())
        return "{" + ", ".join(inner) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    text = json.dumps(value, allow_nan=False)
    if isinstance(value, float) and "." not in text:
        text = text.replace("e", ".0e")  # YAML 1.1 reads 1e-05 as text
    return text


# --- where things are --------------------------------------------------------------------------


@dataclass
class _Node:
    """A piece of the document; ``end`` is behind its last character, comments not counted."""

    start: int
    end: int
    value: Optional[str] = None
    flow: bool = False
    mapping: bool = False
    style: Optional[str] = None
    """A scalar's: a quote, ``|`` or ``>``; None is plain."""
    alias: bool = False
    whole_lines: bool = False
    """A block scalar: it ends where a line begins."""
    pairs: list[_Pair] = field(default_factory=list)


@dataclass
class _Pair:
    key: _Node
    value: _Node


@functools.lru_cache(maxsize=2)  # an edit looks for several places in one text
def _root(text: str) -> Optional[_Node]:
    found = yaml_events.events(text)
    if found is not None:
        events = iter(found)
        return _node(next(events), events, text) if found else None
    events = iter(_yaml().parse(text))
    for event in events:
        if _kind(event) == "DocumentStartEvent":
            return _node(next(events), events, text)
    return None


def _kind(event: Any) -> str:
    """Two libraries have the same events, in classes of the same names."""
    return type(event).__name__


def _find(text: str, path: Path) -> Optional[_Pair]:
    """The key at ``path`` with its value; for an empty path, the document with an empty key."""
    root = _root(text)
    if root is None:
        return None
    place = _Pair(_Node(root.start, root.start), root)
    for name in path:
        found = [pair for pair in place.value.pairs if pair.key.value == name]
        if not found:
            return None
        place = found[0]
    return place


def _node(event: Any, events: Iterator[Any], text: str) -> _Node:
    start, end = event.start_mark.index, event.end_mark.index
    kind = _kind(event)
    if kind == "ScalarEvent":
        is_block = event.style in ("|", ">")
        if is_block and "+" not in text[start : _line_end(text, start)]:
            end = start + len(text[start:end].rstrip())
            is_block = False
        style = event.style or None
        return _Node(start, end, event.value, style=style, whole_lines=is_block)
    if kind == "AliasEvent":
        return _Node(start, end, alias=True)
    node = _Node(start, end, flow=bool(getattr(event, "flow_style", False)))
    if kind == "SequenceStartEvent":
        for inner in events:
            if _kind(inner) == "SequenceEndEvent":
                _close(node, inner)
                break
            _extend(node, _node(inner, events, text))
    elif kind == "MappingStartEvent":
        node.mapping = True
        for inner in events:
            if _kind(inner) == "MappingEndEvent":
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


def _close(node: _Node, event: Any) -> None:
    if node.flow:  # a block's end is told only where the next thing begins
        node.end, node.whole_lines = event.end_mark.index, False


# --- a value is put somewhere ------------------------------------------------------------------


def _see_that_it_can_have_keys(text: str, document: Any, path: Path) -> None:
    for length in range(1, len(path) + 1):
        try:
            value = get(document, path[:length])
        except KeyError:
            return
        if value is not None and not isinstance(value, dict):
            name = ".".join(path[:length])
            line = line_of(text, path[:length])
            raise NotEditable(f"has something else than keys and values under {name}", line)


def _put(text: str, path: Path, value: Any) -> str:
    place = _find(text, path)
    if place is not None:
        return _replace(text, place, value)
    key, parent = path[-1], path[:-1]
    above = _find(text, parent)
    if above is None and parent:
        return _put(text, parent, {key: value})
    if not parent:
        return _add_first(text, above.value if above else None, key, value)
    if above is None:
        raise NotEditable("has nothing that could be edited")
    if above.value.flow and not _is_for_a_block(text, above):
        return _add_to_flow(text, above.value, key, value)
    if not above.value.pairs:
        return _add_to_empty(text, above, key, value)
    return _add_to_block(text, above.value, key, value)


def _replace(text: str, place: _Pair, value: Any) -> str:
    """Another value for a key that is there."""
    node = place.value
    if node.start == node.end:
        colon = _colon(text, place.key)
        return f"{text[:colon]} {scalar(value)}{text[colon:]}"
    if not node.flow and not node.alias and node.value is None:
        return _replace_block(text, place, value)
    old = text[node.start : node.end]
    properties = "" if node.alias else _PROPERTIES.match(old)[0]  # type: ignore[index]
    anchor = re.search(r"&[^\s,\[\]{}]+", properties)
    old = old[len(properties) :]
    if old.startswith("#"):
        line = _line_number(text, node.start)
        raise NotEditable("has a comment between an anchor and its value", line)
    new = _in_style(value, node.style)
    if node.style in ("|", ">"):
        header = _BLOCK_HEADER.match(old)
        comment = header[1] if header else None
        new += f"  {comment}" if comment else ""
        new += _line_break(text) if node.whole_lines else ""
    if anchor is not None:  # its alias may be elsewhere; the comparison sees to what that means
        new = f"{anchor[0]} {new}"
    return text[: node.start] + new + text[node.end :]


def _in_style(value: Any, style: Optional[str]) -> str:
    """A text keeps the kind of quotes that the one before had."""
    if isinstance(value, str) and style == '"':
        return _quoted(value)
    if isinstance(value, str) and style == "'" and value.isprintable():
        return "'" + value.replace("'", "''") + "'"
    return scalar(value)


def _replace_block(text: str, place: _Pair, value: Any) -> str:
    """A list or mapping over several lines; its own comments go with it."""
    node = place.value
    colon = _colon(text, place.key)
    first = _line_start(text, node.start)
    if text[node.start] in "&!" or first < colon:
        line = _line_number(text, node.start)
        raise NotEditable("has a list or mapping here that cannot be replaced", line)
    end = _own_end(text, node, _indent(text, place.key))
    head = text[colon:first]
    if text[first:end].endswith(("\r", "\n")) or not end < len(text):
        end_of_text = end == len(text) and not text.endswith(("\r", "\n"))
        head = head[: len(head) - len(_line_before(head, len(head)))] if end_of_text else head
    return f"{text[:colon]} {scalar(value)}{head}{text[end:]}"


def _is_for_a_block(text: str, place: _Pair) -> bool:
    """Whether it is ``key: {}`` on a line of its own, which becomes a block with an entry."""
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


def _add_first(text: str, root: Optional[_Node], key: str, value: Any) -> str:
    """A key at the top."""
    if root is None or (root.value == "" and not root.pairs):
        # nothing is in it that a line of dots could be a part of
        ended = re.search(r"^\.\.\.", text, re.MULTILINE)
        position, indent = ended.start() if ended else len(text), ""
        if root is not None and root.start != root.end:
            raise NotEditable("has an anchor or a tag and nothing else")
    elif root.mapping and root.flow:
        return _add_to_flow(text, root, key, value)
    elif root.mapping:
        position, indent = _own_end(text, root, ""), _indent(text, root.pairs[0].key)
    else:
        raise NotEditable(f"has no mapping that {key} could be added to")
    return _insert_lines(text, position, block(key, value, indent), _line_break(text))


def _add_to_empty(text: str, place: _Pair, key: str, value: Any) -> str:
    """``above:`` or ``above: {}``."""
    if place.value.flow:
        colon = _colon(text, place.key)
        text = _cut(text, colon, place.value.end)
    elif place.value.value != "" or place.value.start != place.key.end:
        line = _line_number(text, place.key.start)
        name = place.key.value
        raise NotEditable(f"has something else than entries under `{name}:`", line)
    position = _line_end(text, place.key.end)
    indent = _indent(text, place.key) + _INDENT
    return _insert_lines(text, position, block(key, value, indent), _line_break(text))


def _add_to_block(text: str, above: _Node, key: str, value: Any) -> str:
    last = above.pairs[-1]
    indent = _indent(text, last.key)
    step = _INDENT
    for pair in above.pairs:
        if pair.value.mapping and not pair.value.flow and pair.value.pairs:
            step = _indent(text, pair.value.pairs[0].key)[len(indent) :] or _INDENT
    lines = block(key, value, indent, step)
    if len(lines) > 1 and len(above.pairs) > 1 and _is_set_off(text, above, len(above.pairs) - 1):
        lines.insert(0, "")
    position = _own_end(text, last.value, indent)
    return _insert_lines(text, position, lines, _line_break(text))


def _add_to_flow(text: str, above: _Node, key: str, value: Any) -> str:
    # JSON is valid here, and a file that was JSON stays JSON
    entry = f"{_quoted(key)}: {_flow(value)}"
    if not above.pairs:
        opened = text.index("{", above.start) + 1
        return text[:opened] + entry + text[opened:]
    position = above.pairs[-1].value.end
    return f"{text[:position]}, {entry}{text[position:]}"


def _insert_lines(text: str, position: int, lines: list[str], line_end: str) -> str:
    """A file whose last line has no end keeps it so."""
    before, after = text[:position], text[position:]
    added = line_end.join(lines)
    if before.strip("\ufeff") and not before.endswith(("\r", "\n")):
        return f"{before}{line_end}{added}{after}"
    return f"{before}{added}{line_end}{after}"


# --- a key is taken away -----------------------------------------------------------------------


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
    """``above:`` without entries is ``above: {}``; a document without any is empty."""
    start, end = _own_span(text, place, 0)
    if place.key.start == place.key.end:
        return text[:start] + text[end:]
    head_end = _line_end(text, place.key.end)
    head = re.fullmatch(r":\s*(#.*\s*)?", text[place.key.end : head_end])
    if head is None:
        line = _line_number(text, place.key.start)
        raise NotEditable(f"has more than a comment behind `{place.key.value}:`", line)
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
    """Where the lines begin that are neither the entry before nor the line of the key above."""
    if index == 0:
        if place.key.start == place.key.end:  # the document itself
            return _line_start(text, place.value.pairs[0].key.start)
        return _line_end(text, place.key.end)
    before = place.value.pairs[index - 1]
    return _own_end(text, before.value, _indent(text, before.key))


def _is_set_off(text: str, above: _Node, index: int) -> bool:
    """Whether there is a blank line between an entry and the one before it."""
    between = text[above.pairs[index - 1].value.end : above.pairs[index].key.start]
    lines = _BREAK.split(between)
    return any(not line.strip() for line in lines[1:-1])


def _flow_span(text: str, above: _Node, index: int) -> tuple[int, int]:
    pairs = above.pairs
    key, value = pairs[index].key, pairs[index].value
    if len(pairs) == 1:
        return above.start + 1, above.end - 1
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


# --- lines -------------------------------------------------------------------------------------


def _colon(text: str, key: _Node) -> int:
    """Behind the colon of a key. Raises `NotEditable` where it is not right behind it."""
    found = re.compile(r"[ \t]*:").match(text, key.end)
    if found is None:
        raise NotEditable(f"has no colon behind {key.value}", _line_number(text, key.start))
    return found.end()


def _indent(text: str, key: _Node) -> str:
    """The blanks in front of a block's key. Raises `NotEditable` where there is anything else."""
    before = text[_line_start(text, key.start) : key.start].lstrip("\ufeff")
    if before.strip(" "):
        line = _line_number(text, key.start)
        raise NotEditable(f"has {before.strip()!r} in front of a key", line)
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


def _line_number(text: str, position: int) -> int:
    return len(_BREAK.findall(text, 0, position)) + 1


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


# --- reading -----------------------------------------------------------------------------------


class _Gone:
    """Stands for a key that shall not be there."""


_GONE = _Gone()


def _yaml() -> YAML:
    yaml = bound(YAML(typ="safe", pure=True))
    yaml.composer.warn_double_anchors = False  # a warning of the library's is no use to an operator
    return yaml


def _line_of(error: MarkedYAMLError) -> int:
    mark = error.problem_mark or error.context_mark
    return mark.line + 1 if mark else 0


def _with(document: Any, path: Path, value: Any) -> Any:
    """The document as it is meant to be; what is not on the path is shared with ``document``."""
    made = dict(document) if isinstance(document, dict) else {}
    key = path[0]
    if len(path) > 1:
        made[key] = _with(made.get(key), path[1:], value)
    elif value is _GONE:
        del made[key]
    else:
        made[key] = value
    return made


def _compare(new: str, wanted: Any, path: Path) -> None:
    """Whether ``new`` says what was meant. Raises `NotEditable`."""
    name = ".".join(path)
    try:
        document = mapping(new)
    except YamlError as error:
        reason = f"would not be valid YAML with another {name}: {error.problem}"
        raise NotEditable(reason, error.line) from error
    try:
        equal = same(document, wanted)
    except RecursionError:
        equal = False
    if not equal:
        raise NotEditable(
            f"writes {name} in a way that cannot be edited without changing something else",
            line_of(new, path),
        )
