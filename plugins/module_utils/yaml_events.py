"""YAML of the usual kind, read by libyaml: twenty times as fast as ruamel.yaml's own parser.

libyaml and ruamel.yaml agree on ordinary files and differ at the edges of the language (tabs, tags,
several documents). So libyaml only reads texts for which the two give the same: everything
else, and every text with a mistake, is left to ruamel.yaml. Where PyYAML is missing, or was built
without libyaml, ruamel.yaml reads everything.

For the target's Python (>= 3.9), since Ansible modules import this file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .yaml_bounds import MAX_DEPTH, MAX_NODES, too_deep, too_many

try:
    import yaml
    from ruamel.yaml.nodes import ScalarNode
    from ruamel.yaml.resolver import VersionedResolver

    # older ones differ in more than what `_UNUSUAL` names
    HAS_LIBYAML = bool(yaml.__with_libyaml__) and yaml._yaml.get_version() >= (0, 2, 5)
    _OPENING = frozenset((yaml.MappingStartEvent, yaml.SequenceStartEvent))
    _CLOSING = frozenset((yaml.MappingEndEvent, yaml.SequenceEndEvent))
except (ImportError, AttributeError):
    HAS_LIBYAML = False

_UNUSUAL = re.compile(
    "[^\n\r -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd]"  # tabs, marks, breaks of 1.1
    r"|\r(?!\n)"
    r"|^(?:\.\.\.|%)"  # the end of a document, a directive
    r"|[|>][^\n]*\n *\r?\n",  # a block of text that begins with blank lines
    re.MULTILINE,
)
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_FRACTION = re.compile(r"-?(?:0|[1-9][0-9]{0,14})\.[0-9]{1,15}")
_TAG = "tag:yaml.org,2002:"


class Unusual(Exception):
    """The text is for ruamel.yaml to read."""


def events(text: str) -> list[Any] | None:
    """The events of the text's one document, as PyYAML's; empty where there is none.

    None for a text that is not of the usual kind, or wrong. Raises `YamlBoundError` for a document
    beyond the limits.
    """
    if not HAS_LIBYAML or _UNUSUAL.search(text):
        return None
    try:
        return list(_bounded(yaml.parse(text, yaml.CSafeLoader)))
    except (Unusual, yaml.YAMLError):
        return None


def _bounded(found: Iterator[Any]) -> Iterator[Any]:
    depth = nodes = documents = 0
    for event in found:
        kind = type(event)
        if kind is yaml.ScalarEvent or kind in _OPENING:
            nodes += 1
            if nodes > MAX_NODES:
                raise too_many(event)
            # what an anchor stands for is counted where documents are composed
            if event.anchor is not None or event.tag is not None:
                raise Unusual
            if kind in _OPENING:
                depth += 1
                if depth > MAX_DEPTH:
                    raise too_deep(event)
            elif not depth and event.style in ("|", ">"):
                raise Unusual
        elif kind in _CLOSING:
            depth -= 1
        elif kind is yaml.DocumentStartEvent:
            documents += 1
            if documents > 1:
                raise Unusual
            continue
        elif kind is yaml.AliasEvent:
            raise Unusual
        else:
            continue
        yield event


class Lines:
    """Where the keys and items of a document's mappings and lists begin: 1-based lines."""

    def __init__(self) -> None:
        self._of: dict[int, Any] = {}

    def note(self, collection: Any, key: Any, line: int) -> None:
        """``key``: of a mapping, or the index in a list. ``collection`` must be kept alive."""
        self._of.setdefault(id(collection), {})[key] = line

    def line(self, collection: Any, key: Any) -> int | None:
        """None where the collection has no such key."""
        line: int | None = self._of.get(id(collection), {}).get(key)
        return line


def values(found: list[Any], lines: Lines | None = None) -> Any:
    """The document as plain values, and its ``lines``. Raises `Unusual`."""
    if not found:
        return None
    scalars = _Scalars()
    root: Any = None
    above: list[Any] = []
    """The open collections; each mapping with the key whose value comes next."""
    keys: list[Any] = []
    for event in found:
        kind = type(event)
        if kind in _CLOSING:
            above.pop()
            keys.pop()
            continue
        value: Any
        if kind is yaml.ScalarEvent:
            value = scalars.value(event)
        else:
            value = {} if kind is yaml.MappingStartEvent else []
        if not above:
            root = value
        elif isinstance(above[-1], list):
            if lines is not None:
                lines.note(above[-1], len(above[-1]), event.start_mark.line + 1)
            above[-1].append(value)
        elif keys[-1] is _NO_KEY:
            if kind is not yaml.ScalarEvent or value in above[-1]:
                raise Unusual
            if lines is not None:
                lines.note(above[-1], value, event.start_mark.line + 1)
            keys[-1] = value
            continue
        else:
            above[-1][keys[-1]] = value
            keys[-1] = _NO_KEY
        if kind in _OPENING:
            above.append(value)
            keys.append(_NO_KEY)
    return root


class _Scalars:
    """Values of scalars, by the rules of ruamel.yaml (YAML 1.2)."""

    def __init__(self) -> None:
        self._resolver = VersionedResolver()
        # asking the resolver for each text takes a third of the whole time
        table = self._resolver.versioned_resolver
        self._first = None if None in table else frozenset(table)
        """First characters of texts that may be something else than text."""
        self._known: dict[str, Any] = {}

    def value(self, event: Any) -> Any:
        text: str = event.value
        if not event.implicit[0]:
            return text
        if self._first is not None and text[:1] not in self._first:
            return text
        try:
            return self._known[text]
        except KeyError:
            value = self._known[text] = self._resolved(text)
            return value

    def _resolved(self, text: str) -> Any:
        tag = str(self._resolver.resolve(ScalarNode, text, (True, False)))[len(_TAG) :]
        if tag == "str":
            return text
        if tag == "null":
            return None
        if tag == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if tag == "int" and _INTEGER.fullmatch(text):
            return int(text)
        if tag == "float" and _FRACTION.fullmatch(text):
            return float(text)
        raise Unusual  # a date, a merge key, another base


class _NoKey:
    """Stands for the key that a mapping does not have yet."""


_NO_KEY = _NoKey()
