"""The plain settings of an engine's YAML file, for reading where no YAML library is installed.

Only ``key: scalar`` at the top and one level below it: that is where TabbyAPI's config.yml has its
port and model, and where ``--config`` files of vLLM and SGLang have theirs. Lists, deeper levels
and everything else are passed over. Nothing is written by what is read here.
"""

from __future__ import annotations

import json
import re

_LINE = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z_][A-Za-z0-9_-]*)[ \t]*:(?:[ \t]+(?P<value>.*))?")


def read_settings(text: str) -> dict[str, str]:
    """``{"port": "8000"}`` or ``{"network.port": "5000"}``: values as text, empty ones left out."""
    found: dict[str, str] = {}
    section, inner = "", 0
    for line in text.lstrip("\ufeff").splitlines():
        match = _LINE.fullmatch(line.rstrip())
        if match is None:
            continue
        indent, value = len(match["indent"]), _scalar(match["value"] or "")
        if indent == 0:
            section, inner = ("", 0) if value else (match["key"], 0)
            if value:
                found[match["key"]] = value
        elif section and value and inner in (0, indent):
            inner = indent
            found[f"{section}.{match['key']}"] = value
        elif section and not inner:
            inner = indent
    return found


def _scalar(text: str) -> str:
    text = text.strip()
    if text.startswith('"'):
        try:
            value = json.JSONDecoder().raw_decode(text)[0]
        except ValueError:
            return ""
        return str(value)
    if text.startswith("'"):
        match = re.match(r"'((?:[^']|'')*)'", text)
        return match[1].replace("''", "'") if match else ""
    if text[:1] in ("[", "{", "&", "*", "!", "|", ">", "#"):
        return ""
    text = re.sub(r"\s+#.*$", "", text)
    return "" if text in ("~", "null", "Null", "NULL") else text
