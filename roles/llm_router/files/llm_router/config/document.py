"""One YAML text as nodes that know their lines. Whatever is wrong with it has a line."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq, TaggedScalar
from ruamel.yaml.constructor import RoundTripConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.scanner import RoundTripScanner, ScannerError

from llm_router import yaml_events
from llm_router.yaml_bounds import bound
from llm_router.yaml_events import Lines

MAX_BITS = 1024
"""Of a whole number: more than any setting has, and far from what Python refuses to print."""

_TAG = "tag:yaml.org,2002:"
_KINDS = {
    "int": "whole number",
    "float": "number",
    "bool": "value: use true or false",
    "timestamp": "date",
}
_TAGS = frozenset(
    _TAG + name
    for name in ("map", "seq", "str", "int", "float", "bool", "null", "merge", "timestamp")
)


class ValueProblem(MarkedYAMLError):
    """A value that YAML allows and no key can have; ``problem_mark`` is the place."""


class _Scanner(RoundTripScanner):
    def fetch_more_tokens(self) -> Any:
        try:
            return super().fetch_more_tokens()
        except YAMLError:
            raise
        except Exception as error:  # an escape beyond Unicode, for one
            problem = f"found text that cannot be read ({error})"
            mark = self.reader.get_mark()
            raise ScannerError(problem=problem, problem_mark=mark) from error


class _Constructor(RoundTripConstructor):
    def construct_object(self, node: Any, deep: bool = False) -> Any:
        tag = str(node.tag)
        if tag not in _TAGS:
            shown = tag.replace(_TAG, "!!")
            raise _problem(node, f"has the tag {shown!a}, which is not supported; remove it")
        text = node.value if isinstance(node, ScalarNode) else ""
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise _problem(node, "has half of a surrogate pair, which is not a character")
        try:
            value = super().construct_object(node, deep=deep)
        except YAMLError:
            raise
        except Exception as error:
            kind = _KINDS.get(tag.replace(_TAG, ""), "value")
            shown = text if len(text) <= 40 else f"{text[:40]}…"
            raise _problem(
                node, f"{shown!r} is not a valid {kind}; put it in quotes if it is text"
            ) from error
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise _problem(node, "is a number with too many digits; put it in quotes if it is text")
        return value


def _problem(node: Node, problem: str) -> ValueProblem:
    return ValueProblem(problem=problem, problem_mark=node.start_mark)


@dataclass(frozen=True)
class Document:
    """Plain values, and the lines that they are on."""

    root: Any
    lines: Lines

    def line(self, loc: Sequence[Any]) -> int:
        """The 1-based line of the deepest part of ``loc`` that the document has."""
        node, line = self.root, 1
        for part in loc:
            found = self.lines.line(node, part)
            if found is None:
                break
            line = found
            node = node[part]
        return line


def load_document(text: str) -> Document:
    """The document. Raises `YAMLError`, where it can a `MarkedYAMLError`."""
    lines = Lines()
    events = yaml_events.events(text)
    if events is not None:
        with contextlib.suppress(yaml_events.Unusual):
            return Document(yaml_events.values(events, lines), lines)
        lines = Lines()
    yaml = bound(YAML(typ="rt"))
    yaml.Constructor = _Constructor
    yaml.Scanner = _Scanner
    return Document(_plain(yaml.load(text), lines), lines)


def _plain(node: Any, lines: Lines) -> Any:
    """Round-trip nodes as the plain values that strict validation wants."""
    if isinstance(node, CommentedMap):
        mapping: dict[Any, Any] = {}
        for key, value in node.items():
            plain_key = _plain(key, lines)
            mapping[plain_key] = _plain(value, lines)
            with contextlib.suppress(AttributeError, KeyError, TypeError):  # one that was merged
                lines.note(mapping, plain_key, node.lc.key(key)[0] + 1)
        return mapping
    if isinstance(node, CommentedSeq):
        items: list[Any] = []
        for index, item in enumerate(node):
            items.append(_plain(item, lines))
            with contextlib.suppress(AttributeError, KeyError, TypeError):
                lines.note(items, index, node.lc.item(index)[0] + 1)
        return items
    if isinstance(node, dict):
        return {_plain(key, lines): _plain(value, lines) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(item, lines) for item in node]
    if isinstance(node, TaggedScalar):  # `!!str 5`
        return node.value
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def key_at(text: str, line: int, column: int) -> str:
    """The dotted key of the value at a place, both from 0; empty where there is none."""
    with contextlib.suppress(Exception):  # it only adds to a problem that is known already
        yaml = bound(YAML(typ="rt"))
        yaml.Scanner = _Scanner
        return ".".join(_path(yaml.compose(text), (line, column)) or ())
    return ""


def _path(node: Any, place: tuple[int, int]) -> tuple[str, ...] | None:
    if (node.start_mark.line, node.start_mark.column) == place and isinstance(node, ScalarNode):
        return ()
    children: list[tuple[str, Any]] = []
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if (key.start_mark.line, key.start_mark.column) == place:
                return (_shown(key),)
            children.append((_shown(key), value))
    elif isinstance(node, SequenceNode):
        children = [(str(index), value) for index, value in enumerate(node.value)]
    for name, child in children:
        found = _path(child, place)
        if found is not None:
            return (name, *found)
    return () if (node.start_mark.line, node.start_mark.column) == place else None


def _shown(key: Any) -> str:
    text = str(key.value) if isinstance(key, ScalarNode) else "?"
    return text.encode("utf-8", "backslashreplace").decode()[:100]
