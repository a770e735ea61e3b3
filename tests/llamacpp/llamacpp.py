"""The role llamacpp by `auto`, or by another source, on throwaway hosts: it ends in an answer.

    python tests/llamacpp/llamacpp.py [SUITE ...] [SOURCE ...]

SUITE is a release (bookworm and trixie by default), SOURCE `cpu` or `vulkan` for a build from
source in place of `auto`, which takes a quarter of an hour of two cores. Needs root. Hosts whose
Python is older than 3.10 get the one that tests/suites/python builds. KEEP=yes leaves a host up.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".cache/llamacpp"
BUILDS = ("cpu", "vulkan")
EXPECTED = {"forky": "package"}
"""Every other release has no package of llama.cpp."""
WITHOUT_PYTHON = ("bullseye", "focal")
MODEL = "tiny-a"
VARIABLES: dict[str, Any] = {
    "llm_router_models": {
        name: {
            "backend": "llamacpp",
            "service": f"llamacpp@{name}.service",
            "model_path": f"/srv/models/{name}.gguf",
            "args": ["--metrics", "-fa", "off"],
            "settings": {"ctx-size": 512, "n-gpu-layers": 0, "temp": 0.5, "jinja": True},
            "timeout": 60,
        }
        for name in (MODEL, "tiny-b")
    },
}


def run(*command: str, shown: bool = False) -> str:
    """What it printed; with `shown` also as it comes. Raises SystemExit if it fails."""
    environment = {
        **os.environ,
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PIPELINING": "true",
        "ANSIBLE_HOST_KEY_CHECKING": "false",
        "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "false",
        "ANSIBLE_INJECT_FACT_VARS": "false",
    }
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        lines = []
        for line in process.stdout or ():
            lines.append(line)
            if shown:
                print(line, end="", flush=True)
    said = "".join(lines)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}\n{said}")
    return said


def hosts(*words: str) -> str:
    return run("tests/hosts/hosts.py", *words)


@contextmanager
def host(suite: str) -> Iterator[str]:
    """A host of the release with two models, for as long as the block runs."""
    name, models = f"llama{suite}", WORK / "models"
    models.mkdir(parents=True, exist_ok=True)
    for seed, model in enumerate(VARIABLES["llm_router_models"]):
        made = str(models / f"{model}.gguf")
        run(sys.executable, "tests/hosts/tiny_gguf.py", made, "--seed", str(seed))
    binds = ["--bind", f"{models}:/srv/models:ro"]
    if suite in WITHOUT_PYTHON:
        pythons = run("tests/suites/python").split()[-1]
        binds += ["--bind", f"{pythons}:/srv/pythons:ro"]
    hosts("up", name, "--suite", suite, *binds)
    try:
        yield name
    finally:
        if not os.environ.get("KEEP"):
            hosts("down", name)


def site(name: str, variables: dict[str, Any], *arguments: str) -> str:
    given = WORK / f"{name}.json"
    given.write_text(json.dumps(variables), encoding="utf-8")
    return run(
        *("ansible-playbook", "playbooks/site.yml", "--inventory=.cache/hosts/inventory.yml"),
        *(f"--limit={name}", f"--extra-vars=@{given}", *arguments),
        shown=True,
    )


def answer(name: str, model: str) -> dict[str, Any]:
    """A real request over the router."""
    asked = json.dumps(
        {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]}
    )
    said = hosts(
        *("ssh", name, "--", "curl -sS --max-time 120 -H 'Content-Type: application/json'"),
        f"http://127.0.0.1:8002/v1/chat/completions -d '{asked}'",
    )
    found: dict[str, Any] = json.loads(said)
    return found


def in_words(text: str) -> str:
    return " ".join(text.split())


def check(suite: str, build: str) -> None:
    """Dry run, first run, an answer of each model, a second run that changes nothing."""
    started = time.monotonic()
    variables = dict(VARIABLES)
    if build:
        variables.update(llamacpp_source="build", llamacpp_backend=build)
    if suite in WITHOUT_PYTHON:
        variables["llm_router_python"] = "/srv/pythons/python/bin/python3"
        variables["llamacpp_python"] = "/srv/pythons/python/bin/python3"
    expected = "build" if build else EXPECTED.get(suite, "wheel")
    with host(suite) as name:
        site(name, variables, "--check")
        assert "llamacpp" not in hosts("ssh", name, "--", "ls /opt /etc"), "the dry run made it"
        told = in_words(site(name, variables))
        reason = re.search(rf"llama\.cpp on {name} comes from (\w+).*?(?= TASK)", told)
        assert reason is not None, "the role does not say where llama.cpp comes from"
        assert reason[1] == expected, reason[0]
        if build:
            assert re.search(r"[0-9]+ of [0-9]+ steps, [1-9][0-9]* %", told), "no progress"
        for model in (MODEL, "tiny-b", MODEL):
            found = answer(name, model)
            assert found.get("model") == model, found
            assert found["usage"]["completion_tokens"] > 0, found
        again = in_words(site(name, variables))
        assert re.search(rf"{name} : ok=[0-9]+ changed=0 .* failed=0 ", again), again[-300:]
        size = hosts("ssh", name, "--", "du -shL /opt/llamacpp/current 2>/dev/null || true")
        print(f"llamacpp: {suite}: {reason[0]}; {size.strip()}")
    print(f"llamacpp: {suite}: as it should be, after {time.monotonic() - started:.0f} s")


def main(words: list[str]) -> None:
    suites = [word for word in words if word not in BUILDS] or ["bookworm", "trixie"]
    builds = [word for word in words if word in BUILDS] or [""]
    for suite in suites:
        for build in builds:
            check(suite, build)


if __name__ == "__main__":
    main(sys.argv[1:])
