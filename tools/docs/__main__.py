"""``python -m tools.docs [--check]``: write docs/reference, or say which of its pages are stale."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.docs.ansible_pages import plugin_pages, role_pages
from tools.docs.config_pages import config_pages
from tools.docs.http_page import http_page

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs/reference"


def pages() -> dict[str, str]:
    """Each page by its path under docs/reference."""
    return {
        **config_pages(),
        "http-api.md": http_page(),
        **role_pages(ROOT / "roles"),
        **plugin_pages(ROOT / "plugins", ROOT / "plugins/doc_fragments"),
    }


def stale(wanted: dict[str, str]) -> list[str]:
    """Pages that are missing, are not as they would be written, or should not be there."""
    there = {
        str(path.relative_to(REFERENCE)): path.read_text(encoding="utf-8")
        for path in REFERENCE.rglob("*.md")
    }
    return sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))


def main() -> int:
    """1 with ``--check`` when a page is stale."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    wanted = pages()
    old = stale(wanted)
    if options.check:
        for name in old:
            print(f"docs/reference/{name} is stale; `make docs` writes it anew")
        return 1 if old else 0
    for name in old:
        path = REFERENCE / name
        if name not in wanted:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[name], encoding="utf-8")
        print(f"wrote docs/reference/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
