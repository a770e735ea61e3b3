"""``python -m tools.docs [--check]``: write the generated pages, or say which are stale.

They are docs/reference, and README.md's table of versions.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.docs.ansible_pages import plugin_pages, role_pages
from tools.docs.config_pages import config_pages
from tools.docs.http_page import http_page
from tools.docs.support import with_table

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs/reference"
README = ROOT / "README.md"


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
    readme = README.read_text(encoding="utf-8")
    table_is_old = with_table(readme) != readme
    if options.check:
        if table_is_old:
            print("README.md: its table of versions is stale; `make docs` writes it again")
        for name in old:
            print(f"docs/reference/{name} is stale; `make docs` writes it anew")
        return 1 if old or table_is_old else 0
    if table_is_old:
        README.write_text(with_table(readme), encoding="utf-8")
        print("wrote README.md")
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
