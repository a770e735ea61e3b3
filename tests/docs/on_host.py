"""Runs the documentation's commands on a host that has a router and two models.

    python -m tests.docs.on_host --port 8765 --key KEY >docs.sh      (as tests/install/run does)

The script that it prints runs on the host, with bash, as root: prepare.sh, then each command, which
must succeed. Names, ids, port and key in the pages become the host's.
"""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

from tests.docs.pages import Command, on_host

SECONDS = 60
WATCHED = re.compile(r"^journalctl .*-f\b")
"""It goes on until it is ended."""
PREPARE = Path(__file__).with_name("prepare.sh")


def script(port: int, key: str) -> str:
    """What to run on the host."""
    lines = [f"key={shlex.quote(key)} port={port}", PREPARE.read_text(encoding="utf-8")]
    page = ""
    for command in on_host():
        if command.page != page:
            page = command.page
            lines.append(f"echo '=== {page}'")
        seconds = 3 if WATCHED.match(command.text) else SECONDS
        lines.append(f'run {seconds} {shlex.quote(page)} "{_hosts(command, port)}"')
    lines.append("exit $failed")
    return "\n".join(lines) + "\n"


def _hosts(command: Command, port: int) -> str:
    """The command with the host's names, to stand in double quotes of the script."""
    text = re.sub(r'([\\"`$])', r"\\\1", command.text)
    text = text.replace("gemma-3-27b", "tiny-a").replace(":8002", f":{port}")
    if command.page == "docs/operations.md":
        text = text.replace("qwen3-32b", "broken")
    text = text.replace("c513a3-2", "$id").replace("c513a3-s2", "$switch")
    return text.replace(
        "curl ", r"curl --fail-with-body --max-time 50 -H \"Authorization: Bearer $key\" ", 1
    )


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    options = parser.parse_args()
    print(script(options.port, options.key))


if __name__ == "__main__":
    main()
