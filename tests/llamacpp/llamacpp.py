"""The role llamacpp by `auto`, or by another source, on throwaway hosts: it ends in an answer.

    python tests/llamacpp/llamacpp.py [SUITE ...] [SOURCE]

SUITE is a release (bookworm and trixie by default). SOURCE is `cpu` or `vulkan` for a build from
source in place of `auto`, which takes two cores for a quarter of an hour; or `small` for the builds
of a source in small alone, which otherwise follow on the last host. Needs root. Hosts whose Python
is older than 3.10 get the one that tests/suites/python builds. KEEP=yes leaves hosts up.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".cache/llamacpp"
BUILDS = ("cpu", "vulkan")
EXPECTED = {"forky": "package"}
"""By `auto`: no other release has a package of llama.cpp."""
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


def run(*command: str, shown: bool = False, fails: bool = False) -> str:
    """What it printed; with `shown` also as it comes. SystemExit if it ends otherwise than told."""
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
    if (process.returncode != 0) != fails:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}\n{said}")
    return said


def hosts(*words: str) -> str:
    return run("tests/hosts/hosts.py", *words)


def name_of(suite: str) -> str:
    return f"llama{suite}"


@contextmanager
def host(suite: str) -> Iterator[None]:
    """A host of the release with two models, for as long as the block runs."""
    binds = ["--bind", f"{WORK}/models:/srv/models:ro"]
    if suite in WITHOUT_PYTHON:
        pythons = run("tests/suites/python").split()[-1]
        binds += ["--bind", f"{pythons}:/srv/pythons:ro"]
    hosts("up", name_of(suite), "--suite", suite, *binds)
    try:
        yield
    finally:
        if not os.environ.get("KEEP"):
            hosts("down", name_of(suite))


def inventory(suites: list[str], build: str) -> str:
    """The running hosts with what the roles are told, as a file."""
    shared = dict(VARIABLES)
    if build:
        shared.update(llamacpp_source="build", llamacpp_backend=build)
    python = "/srv/pythons/python/bin/python3"
    older = {"llm_router_python": python, "llamacpp_python": python}
    given = {
        "llm_servers": {
            "hosts": {name_of(suite): older if suite in WITHOUT_PYTHON else {} for suite in suites},
            "vars": shared,
        }
    }
    path = WORK / "given.json"
    path.write_text(json.dumps(given), encoding="utf-8")
    return str(path)


def site(suites: list[str], given: str, *arguments: str, fails: bool = False) -> str:
    """The playbook on all of them at once."""
    said = run(
        *("ansible-playbook", "playbooks/site.yml"),
        *("--inventory=.cache/hosts/inventory.yml", f"--inventory={given}"),
        *(f"--limit={','.join(map(name_of, suites))}", *arguments),
        shown=True,
        fails=fails,
    )
    return " ".join(said.split())


def answer(name: str, model: str) -> dict[str, Any]:
    """To a real request over the router."""
    asked = json.dumps(
        {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]}
    )
    said = hosts(
        *("ssh", name, "--", "curl -sS --max-time 120 -H 'Content-Type: application/json'"),
        f"http://127.0.0.1:8002/v1/chat/completions -d '{asked}'",
    )
    found: dict[str, Any] = json.loads(said)
    return found


SMALL = {
    "CMakeLists.txt": """\
cmake_minimum_required(VERSION 3.14)
project(small C)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
add_executable(llama-server tools/server.c src/a.c ggml/b.c)
""",
    "tools/server.c": '#include <stdio.h>\nint main(void) { return puts("version: small") < 0; }\n',
    "src/a.c": "int a;\n",
    "ggml/b.c": "int b;\n",
}
"""A source in small, of which a build takes seconds."""


def sources(name: str, files: dict[str, str]) -> str:
    """An archive as of llama.cpp's sources."""
    path = WORK / name
    with tarfile.open(path, "w:gz") as packed:
        for file, text in files.items():
            member = tarfile.TarInfo(f"llama.cpp-1/{file}")
            member.size = len(text.encode())
            packed.addfile(member, io.BytesIO(text.encode()))
    return str(path)


def check_building(suite: str) -> None:
    """A failed build names the error and leaves the release in use; a good one replaces it."""
    name = name_of(suite)
    before = hosts("ssh", name, "--", "readlink /opt/llamacpp/current || true")
    given = inventory([suite], "cpu")
    broken = sources("broken.tar.gz", {**SMALL, "src/a.c": "int a = no_such_thing;\n"})
    only = ("--tags", "llamacpp", "--extra-vars")
    told = site([suite], given, *only, f"llamacpp_build_archive={broken}", fails=True)
    assert re.search(r"src/a\.c:1:9: error: .{,3}no_such_thing.{,3} undeclared", told), told[-2000:]
    assert hosts("ssh", name, "--", "readlink /opt/llamacpp/current || true") == before
    good = sources("good.tar.gz", SMALL)
    told = site([suite], given, *only, f"llamacpp_build_archive={good}")
    assert re.search(r"good\.tar\.gz for cpu: [0-9]+ of [0-9]+ steps, 100 %", told), told[-2000:]
    again = site([suite], given, *only, f"llamacpp_build_archive={good}")
    assert re.search(rf"{name} : ok=[0-9]+ changed=0 .*? failed=0 ", again), again[-500:]
    said = hosts(
        *("ssh", name, "--"),
        "setpriv --reuid=llamacpp --regid=llamacpp --clear-groups /opt/llamacpp/current/server;"
        "find /opt/llamacpp ! -user root; systemctl list-units --all --no-legend 'llm-builder*';"
        "ls /opt/llamacpp/current/ /opt/llamacpp/.build 2>&1 || true",
    )
    assert said.startswith("version: small\n"), said
    assert "llm-builder" not in said, said
    print(f"llamacpp: {suite}: a build from source: {' '.join(said.split())}")


def check(suites: list[str], build: str) -> None:
    """Dry run, first run, an answer of each model, a second run that changes nothing."""
    given = inventory(suites, build)
    site(suites, given, "--check")
    for suite in suites:
        left = hosts("ssh", name_of(suite), "--", "ls /opt /etc")
        assert "llamacpp" not in left, f"{suite}: the dry run made it"
    told = site(suites, given)
    assert not build or re.search(r"[0-9]+ of [0-9]+ steps, [1-9][0-9]* %", told), "no progress"
    for suite in suites:
        name = name_of(suite)
        reason = re.search(rf"llama\.cpp on {name} comes from (\w+).*?(?=\" }})", told)
        assert reason is not None, f"{suite}: the role does not say where llama.cpp comes from"
        assert reason[1] == ("build" if build else EXPECTED.get(suite, "wheel")), reason[0]
        for model in (MODEL, "tiny-b", MODEL):
            found = answer(name, model)
            assert found.get("model") == model, found
            assert found["usage"]["completion_tokens"] > 0, found
        size = hosts("ssh", name, "--", "du -shL /opt/llamacpp/current 2>/dev/null || true")
        print(f"llamacpp: {reason[0]} {' '.join(size.split())}")
    again = site(suites, given)
    for suite in suites:
        assert re.search(rf"{name_of(suite)} : ok=[0-9]+ changed=0 .*? failed=0 ", again), suite


def main(words: list[str]) -> None:
    started = time.monotonic()
    suites = [word for word in words if word not in (*BUILDS, "small")] or ["bookworm", "trixie"]
    build = next((word for word in words if word in BUILDS), "")
    (WORK / "models").mkdir(parents=True, exist_ok=True)
    for seed, model in enumerate(VARIABLES["llm_router_models"]):
        made = str(WORK / f"models/{model}.gguf")
        run(sys.executable, "tests/hosts/tiny_gguf.py", made, "--seed", str(seed))
    with ExitStack() as stack:
        for suite in suites:
            stack.enter_context(host(suite))
        if "small" not in words:
            check(suites, build)
        if not build:
            check_building(suites[-1])
    seconds = time.monotonic() - started
    print(f"llamacpp: {', '.join(suites)}: as it should be, after {seconds:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
