"""Draws recorded terminal text as an SVG: the pictures in docs/img.

    make demo 2>&1 | tee demo.txt
    python tools/terminal_svg.py --title 'make demo' <demo.txt >docs/img/demo.svg

Bold and the moving line of a terminal are understood; other escape sequences are dropped.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from html import escape

COLUMNS = 92
CHARACTER, LINE, MARGIN, BAR = 8.4, 19, 16, 34
BOLD = "\033[1m"
ESCAPE = re.compile(r"\033\[[0-9;?]*[A-Za-z]")
STYLE = """
  .window { fill: #1b1f27; } .bar { fill: #2a303c; }
  text { font: 14px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; fill: #d8dee9;
         white-space: pre; }
  .bold { font-weight: bold; fill: #ffffff; } .status { fill: #88c0d0; } .meter { fill: #a3be8c; }
  .title { fill: #9aa5b8; text-anchor: middle; }
"""


def lines(recorded: str) -> list[tuple[str, str]]:
    """(class, text) for each line as it stood at last, folded to the picture's width."""
    found: list[tuple[str, str]] = []
    for raw in recorded.replace("\r\n", "\n").split("\n"):
        last = raw.split("\r")[-1]
        kind = "bold" if BOLD in last else ""
        text = ESCAPE.sub("", last).rstrip()
        if text.startswith(("🔄", "⏳", "✅")):
            kind = "status"
        elif text.startswith("⚡"):
            kind = "meter"
        folded = textwrap.wrap(text, COLUMNS, replace_whitespace=False, drop_whitespace=True)
        found += [(kind, part) for part in folded or [""]]
    while found and not found[-1][1]:
        found.pop()
    return found


def svg(title: str, shown: list[tuple[str, str]]) -> str:
    wide = int(COLUMNS * CHARACTER + 2 * MARGIN)
    high = BAR + MARGIN + len(shown) * LINE + MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="window" width="{wide}" height="{high}" rx="8"/>',
        f'<path class="bar" d="M0 {BAR}V8a8 8 0 0 1 8-8h{wide - 16}a8 8 0 0 1 8 8v{BAR - 8}z"/>',
        *(
            f'<circle cx="{18 + 18 * i}" cy="17" r="5.5" fill="{colour}"/>'
            for i, colour in enumerate(("#bf616a", "#ebcb8b", "#a3be8c"))
        ),
        f'<text class="title" x="{wide // 2}" y="22">{escape(title)}</text>',
    ]
    for row, (kind, text) in enumerate(shown):
        y = BAR + MARGIN + LINE * row + 14
        known = f' class="{kind}"' if kind else ""
        out.append(f'<text x="{MARGIN}" y="{y}"{known}>{escape(text)}</text>')
    return "\n".join([*out, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--title", required=True)
    options = parser.parse_args()
    sys.stdout.write(svg(options.title, lines(sys.stdin.read())))


if __name__ == "__main__":
    main()
