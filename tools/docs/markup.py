"""Ansible's markup as Markdown, and what every generated page has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

NOTICE = "<!-- Written by `make docs` from {source}; what is changed here is written over. -->\n"
_MARKUP = re.compile(r"\b(RV|[BCEILMOPUV])\(((?:\\.|[^\\)])*)\)")
_ESCAPED = re.compile(r"\\(.)")


def page(title: str, source: str, parts: Iterable[str]) -> str:
    """A page of these parts, each a paragraph, a table or a block."""
    return NOTICE.format(source=source) + "\n".join([f"# {title}\n", *parts])


def paragraphs(text: str | Sequence[str]) -> str:
    """Ansible's description: one paragraph, or a list of them."""
    several = [text] if isinstance(text, str) else text
    return "\n".join(f"{markdown(one)}\n" for one in several)


def cell(text: str | Sequence[str]) -> str:
    """The same within a table."""
    several = [text] if isinstance(text, str) else text
    return " ".join(escape(markdown(one)) for one in several)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are Markdown already; what would end a cell is escaped."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text that stays in its cell."""
    return " ".join(text.split()).replace("|", "\\|")


def code(value: object) -> str:
    """A value as YAML says it, in a cell."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"`{escape(str(value))}`"


def markdown(text: str) -> str:
    """Ansible's semantic markup (ansible-docs' "Ansible markup") as Markdown."""
    return _MARKUP.sub(_marked, " ".join(text.split()))


def _marked(match: re.Match[str]) -> str:
    kind, inner = match[1], _ESCAPED.sub(r"\1", match[2])
    if kind == "B":
        return f"**{inner}**"
    if kind == "I":
        return f"*{inner}*"
    if kind == "L":
        text, _, url = inner.rpartition(",")
        return f"[{text.strip()}]({url.strip()})"
    if kind == "M":
        return _link("module", inner)
    if kind == "P":
        name, _, sort = inner.partition("#")
        return _link(sort, name)
    if kind == "U":
        return f"<{inner}>"
    return f"`{inner}`"


def _link(sort: str, name: str) -> str:
    collection, _, short = name.rpartition(".")
    if collection != "roundhouse.llm":
        return f"`{name}`"
    folder = "roles" if sort == "role" else "plugins"
    return f"[`{short}`](../{folder}/{short}.md)"
