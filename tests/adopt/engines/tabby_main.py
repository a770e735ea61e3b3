"""TabbyAPI's ``main.py``: serves what ./config.yml names, by the last part of its path."""

from __future__ import annotations

import re
from pathlib import Path

from standin import become

text = Path("config.yml").read_text(encoding="utf-8")


def setting(key: str) -> str:
    match = re.search(rf"^  {key}: *(\S+)", text, re.MULTILINE)
    if match is None:
        raise SystemExit(f"config.yml has no {key}")
    return match[1]


folder = Path(setting("model_dir")) / setting("model_name")
if not (folder / "config.json").is_file():
    raise SystemExit(f"{folder} has no config.json")
tokens = dict(
    line.split(": ") for line in Path("api_tokens.yml").read_text(encoding="utf-8").splitlines()
)
become("tabby", name=folder.name, port=int(setting("port")), key=tokens["api_key"])
