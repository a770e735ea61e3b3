"""Checks a configuration before it replaces anything. The role runs this; the router never does.

On the control machine it runs with the sources on PYTHONPATH, on the target (``python -I``)
inside the release that is about to serve. stdin is JSON:

    files     {"config.yml": text, ...}: what would be written
    models    null, or the path of a models.yml to check as it lies there, in its owner's words
    activate  true: also say what `llm-router activate` would change

The checker's lines go to stderr. Exit: 0 valid, 1 not valid, 3 the checker cannot run here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

NEEDED = {"pydantic": "pydantic", "ruamel.yaml": "ruamel.yaml"}


def missing() -> list[str]:
    """The checker's libraries that this Python has not got."""
    names = []
    for module, package in NEEDED.items():
        try:
            __import__(module)
        except ImportError:
            names.append(package)
    return names


def router(*arguments: str) -> subprocess.CompletedProcess[str]:
    isolated = ["-I"] if sys.flags.isolated else []
    return subprocess.run(
        [sys.executable, *isolated, "-m", "llm_router", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def main() -> int:
    if lacking := " ".join(missing()):
        sys.stderr.write(
            f"{sys.executable}, which runs Ansible here, cannot check the configuration without "
            f"{lacking}; run `{sys.executable} -m pip install {lacking}` "
            f"(Ansible from pipx: `pipx inject ansible-core {lacking}`)\n"
        )
        return 3
    candidate = json.load(sys.stdin)
    with tempfile.TemporaryDirectory(prefix="llm-router-") as directory:
        for name, text in candidate["files"].items():
            (Path(directory) / name).write_text(text, encoding="utf-8")
        config = ["--config", f"{directory}/config.yml"]
        models = ["--models", candidate["models"]] if candidate.get("models") else []
        result = router("check", *config, *models)
        if result.returncode == 0 and candidate.get("activate"):
            result = router("activate", "--all", "--check", "--json", *config)
    sys.stdout.write(result.stdout)
    sys.stderr.write(result.stderr.replace(f"{directory}/", ""))
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
