"""The options of a role or a plugin as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tools.docs.markup import cell, code, table

Options = Mapping[str, Mapping[str, Any]]


def options_table(options: Options, head: str) -> str:
    """A row for each option, and for each option of an option."""
    return table([head, "type", "default", "what"], _rows(options, ""))


def _rows(options: Options, prefix: str) -> Iterator[list[str]]:
    for name, option in options.items():
        elements = f" of {option['elements']}" if "elements" in option else ""
        default = code(option.get("default"))
        if option.get("required"):
            default = "required"
        what = cell(option["description"])
        if "choices" in option:
            choices = ", ".join(code(choice) for choice in option["choices"])
            what = f"One of {choices}. {what}"
        yield [f"`{prefix}{name}`", f"{option.get('type', 'str')}{elements}", default, what]
        if "options" in option:
            several = "[]" if option.get("type") == "list" else ""
            yield from _rows(option["options"], f"{prefix}{name}{several}.")


def returned_table(returned: Options) -> str:
    """A row for each value that a plugin returns."""
    return table(["value", "type", "returned", "what"], _returned(returned, ""))


def _returned(returned: Options, prefix: str) -> Iterator[list[str]]:
    for name, value in returned.items():
        shown = [f"`{prefix}{name}`", value.get("type", ""), cell(value.get("returned", ""))]
        yield [*shown, cell(value["description"])]
        if "contains" in value:
            several = "[]" if value.get("type") == "list" else ""
            yield from _returned(value["contains"], f"{prefix}{name}{several}.")
