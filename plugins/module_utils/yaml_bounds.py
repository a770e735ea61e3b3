"""Limits on the YAML that is read from files of other people.

A file of 700 bytes can hold lists of aliases that multiply to billions of values ("billion
laughs"), and merge keys do the same. A few kilobytes of brackets exhaust the stack. `bound` makes
a `YAML` object refuse such a document while it is composed, before a value is built from it.

For the target's Python (>= 3.9), since Ansible modules import this file; only ruamel.yaml is
needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from ruamel.yaml.composer import Composer
    from ruamel.yaml.error import MarkedYAMLError
    from ruamel.yaml.events import AliasEvent
except ImportError:  # said by `yaml_edit`
    Composer, MarkedYAMLError = object, Exception  # type: ignore[assignment,misc]

if TYPE_CHECKING:
    from ruamel.yaml import YAML

MAX_DEPTH = 64
"""Levels of lists and mappings inside each other."""
MAX_NODES = 150_000
"""Keys, values, lists and mappings of a document: 7,000 models have so many. An alias counts as all
that it stands for."""


class YamlBoundError(MarkedYAMLError):
    """The document exceeds a limit; ``problem_mark`` is the place."""


class _BoundedComposer(Composer):
    """Counts nodes and levels while the document is composed."""

    most = MAX_NODES

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader=loader)
        self._depth = 0
        self._nodes = 0
        self._sizes: dict[str, int] = {}
        """Of each anchored node that is complete, how many nodes it stands for."""
        self._open: set[str] = set()

    def compose_document(self) -> Any:
        self._depth = self._nodes = 0
        self._sizes.clear()
        self._open.clear()
        return super().compose_document()

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.parser.peek_event()
        anchor = event.anchor
        if isinstance(event, AliasEvent):
            if anchor in self._open:
                raise _refused(event, f"the alias *{anchor}, which refers to itself")
            self._count(event, self._sizes.get(anchor, 1))
            return super().compose_node(parent, index)
        before = self._nodes
        self._count(event, 1)
        if anchor is not None:
            self._sizes.pop(anchor, None)
            self._open.add(anchor)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise too_deep(event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if anchor is not None:
            self._open.discard(anchor)
            self._sizes[anchor] = self._nodes - before
        return node

    def _count(self, event: Any, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > self.most:
            raise too_many(event, self.most)


def too_deep(event: Any) -> YamlBoundError:
    """The document nests deeper than `MAX_DEPTH` at ``event``."""
    return _refused(event, f"more than {MAX_DEPTH} levels of lists and mappings")


def too_many(event: Any, most: int = MAX_NODES) -> YamlBoundError:
    """The document has more than ``most`` values at ``event``."""
    return _refused(event, f"more than {most} values, aliases resolved")


def _refused(event: Any, problem: str) -> YamlBoundError:
    return YamlBoundError(problem=problem, problem_mark=event.start_mark)


def bound(yaml: YAML, most: int = MAX_NODES) -> YAML:
    """The same object; from now on `load` raises `YamlBoundError` beyond the limits, ``most`` of
    them for values: this parser takes some 40 µs for each.

    Only for the pure parser (``typ="rt"``, or ``typ="safe", pure=True``).
    """

    class Bounded(_BoundedComposer):
        pass

    Bounded.most = most
    yaml.Composer = Bounded
    return yaml
