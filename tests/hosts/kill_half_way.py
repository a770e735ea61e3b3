"""Run site.yml, and kill it with SIGKILL when every host is in the middle of an installation.

kill_half_way.py TAGS EXTRA_VARS INVENTORY...
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

DEADLINE = 400.0
"""Seconds."""

# the release that is being made has its environment and is not whole
IN_THE_MIDDLE = "pgrep --full '/opt/uv/[0-9.]*/uv pip install' >/dev/null"


def main(tags: str, extra: str, *inventories: str) -> int:
    """The command line."""
    where = [f"--inventory={inventory}" for inventory in inventories]
    log = Path(inventories[-1]).with_name("killed.log")
    site = ["ansible-playbook", *where, f"--tags={tags}", f"--extra-vars={extra}"]
    site.append("roundhouse.llm.site")
    look = ["ansible", *where, "llm_servers", "--module-name=raw", f"--args={IN_THE_MIDDLE}"]
    with log.open("w") as output:
        run = subprocess.Popen(
            site, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            end = time.monotonic() + DEADLINE
            while subprocess.run(look, stdout=subprocess.DEVNULL, check=False).returncode:
                if run.poll() is not None or time.monotonic() > end:
                    sys.stderr.write(f"no host was ever in the middle of an installation: {log}\n")
                    return 1
                time.sleep(0.5)
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
