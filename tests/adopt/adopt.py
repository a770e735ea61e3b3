#!/usr/bin/env python3
"""Adopts a host that was set up by hand, and shows what of it was touched.

    tests/adopt/adopt.py [SUITE]

Boots a throwaway host (which needs root) and has `prepare.sh` make it what somebody has who ran an
older kind of router: SGLang with a start script for each model, vLLM and TabbyAPI, and a model that
is loaded. Then it does what docs/adopt.md says.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOSTS = [sys.executable, str(ROOT / "tests/hosts/hosts.py")]
NAME = "adopt"
UNITS = ("sglang.service", "vllm.service", "tabbyapi.service")
LOADED, SIBLING = "mistral-large-2411-awq", "qwen2.5-72b-awq"
TABBY, VLLM = "Behemoth-123B-exl3-3.5bpw", "llama-3.3-70b"

# What the page tells people to type.
PAGE = (ROOT / "docs/adopt.md").read_text()
DRY, REAL = re.findall(
    r"^ansible-playbook -i my-server/inventory.yml playbooks/site.yml (.*)$", PAGE, re.MULTILINE
)
BACK = PAGE.rpartition("```sh\n")[2].partition("```")[0]

# What the operator has made. Of it a switch may change these two, and nothing else.
OPERATORS = "/etc/systemd/system /etc/default /opt/llm /opt/vllm /opt/tabbyAPI /srv/models"
TABBY_CONFIG = "/opt/tabbyAPI/config.yml"
MARK = "/dev/shm/mark"

# What provisioning may touch: its own, the packages that it brings, the accounts.
ALLOWED = re.compile(
    r"""(?x) /etc/llm-router(/(config|models|keys)\.yml)? | /etc/tabbyapi(/api_key)?
    | /etc/systemd/system/(multi-user|sockets)\.target\.wants(/llm-router(-helper)?\.\w+)?
    | /etc/systemd/system(/llm-router(-helper)?\.(service|socket))?
    | /etc/(passwd|group|shadow|gshadow|subuid|subgid)-?
    | /usr/local/bin(/llm-router)? | /opt | /opt/llm-router(/.*)?
    | /var/lib | /var/lib/llm-router(/.*)?
    | /usr/(bin|share|lib)(/(doc|lintian|man|python).*)?
    | /var/cache/apt(/.*)? | /var/lib/(apt|dpkg)(/.*)? | /var/cache/(ldconfig|man|debconf)(/.*)?
    | /etc """
)

OLDER_MODELS = """\
# The older router's list.
models:
  mistral-large-2411-awq:
    backend: sglang
    script: /opt/llm/start_mistral.sh
    service: sglang.service
  monstral-123b-exl3-4bpw:
    backend: tabby
    service: tabbyapi.service
    model_name: Monstral-123B-v2-exl3-4.0bpw
"""


def say(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def host(command: str, stdin: str | None = None) -> str:
    """A shell command on the host, as root; its output. Fails with it."""
    run = subprocess.run(
        [*HOSTS, "ssh", NAME, "--", command],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, f"{command}: {run.stdout}{run.stderr}"
    return run.stdout


class Operator:
    """Runs the playbook on the host from here."""

    def __init__(self, directory: str) -> None:
        self.inventory = Path(directory, "inventory.yml")
        asked = [*HOSTS, "inventory", NAME]
        shown = subprocess.run(asked, capture_output=True, text=True, check=True)
        self.inventory.write_text(shown.stdout)

    def play(self, *arguments: str) -> tuple[int, str]:
        began = time.monotonic()
        run = subprocess.run(
            ["ansible-playbook", "--inventory", str(self.inventory), "playbooks/site.yml",
             *arguments],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "false", "ANSIBLE_NOCOLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=600,
        )  # fmt: skip
        print(f"ansible-playbook {' '.join(arguments)}: {time.monotonic() - began:.0f} s, "
              f"{run.stdout.strip().splitlines()[-1]}")  # fmt: skip
        return run.returncode, run.stdout

    def provision(self, *arguments: str) -> str:
        status, output = self.play(*arguments)
        assert status == 0, output
        return output

    def refused(self, *needed: str) -> None:
        """Preflight fails, and its sentence has these words."""
        status, output = self.play(*REAL.split(), "--tags", "preflight")
        flat = " ".join(output.split())
        assert status != 0, output
        for words in needed:
            assert words in flat, f"{words!r} is not in {output}"
        assert re.search(r"changed=0 ", output), output


def processes() -> dict[str, str]:
    """Each engine's main process and how often systemd started it by itself."""
    properties = "MainPID,NRestarts,ActiveEnterTimestamp"
    shown = host(f"systemctl show --property={properties} {' '.join(UNITS)}")
    return dict(zip(UNITS, shown.strip().split("\n\n"), strict=True))


def newer(mark: str) -> list[str]:
    """Without the checkout, what every login writes, and the index that apt makes."""
    passed = r"/(tmp|var/(tmp|log|lib/systemd)|root/(\.ansible|before)|opt/llm-router/releases)"
    nothing = r"/(root|run|src|var/cache/apt(/(src)?pkgcache\.bin)?)"
    found = host(
        f"find / -xdev -regextype posix-extended -regex '{passed}' -prune"
        f" -o -newer {mark} -not -regex '{nothing}' -print"
    )
    return sorted(found.split("\n")[:-1])


def difference() -> str:
    """What became of the operator's files since they were set aside."""
    return host(f"for place in {OPERATORS}; do diff -ruN /root/before$place $place; done; true")


def chat(model: str) -> str:
    """Who answered."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    answer = host(
        "curl --silent --show-error --max-time 60 http://127.0.0.1:8002/v1/chat/completions "
        f"--header 'Content-Type: application/json' --data {shlex.quote(json.dumps(body))}"
    )
    said = json.loads(answer)
    assert said.get("choices"), answer
    return str(said["model"])


def active() -> list[str]:
    return [u for u in UNITS if host(f"systemctl is-active {u} || true").strip() == "active"]


def main() -> None:
    host("/src/tests/adopt/prepare.sh")
    host(f"mkdir /root/before && for p in {OPERATORS}; do mkdir -p /root/before$(dirname $p) && "
         f"cp -a $p /root/before$p; done; sleep 0.1; touch {MARK}; sleep 0.1")  # fmt: skip
    before = processes()
    assert active() == ["sglang.service"]
    with tempfile.TemporaryDirectory() as directory:
        adopt(Operator(directory), before)


def adopt(operator: Operator, before: dict[str, str]) -> None:
    say("a dry run shows the models.yml that would be used, and changes nothing")
    output = operator.provision(*DRY.split())
    message = r'^ok: \[adopt\] => \{\n    "msg": \[\n((?:        .*\n)+)'
    shown = re.search(message, output, re.MULTILINE)
    assert shown, output
    text = "\n".join(json.loads(f"[{shown[1]}]"))
    print(text)
    lines = {f"  {name}:" for name in (LOADED, SIBLING, TABBY, VLLM)}
    lines |= {"    script: /opt/llm/start_mistral.sh", f"    config_file: {TABBY_CONFIG}"}
    assert lines <= set(text.splitlines()), text
    assert not newer(MARK), newer(MARK)

    say("another router's unit of the same name is not written over")
    theirs = "/etc/systemd/system/llm-router.service"
    host(f"cat >{theirs}", "[Service]\nExecStart=/opt/older/router.py\n")
    operator.refused(theirs, "did not write")
    host(f"rm {theirs}")

    say("one run puts the router in front; nothing that runs is restarted")
    output = operator.provision(*REAL.split(), "--diff")
    assert processes() == before, (before, processes())
    touched = newer(MARK)
    own = [path for path in touched if not re.match(r"/(usr/(share|lib)|var)/", path)]
    print("touched (packages and the router's releases left out):", *own, sep="\n  ")
    strange = [path for path in touched if not ALLOWED.fullmatch(path)]
    assert not strange, strange
    made = [line for line in difference().splitlines() if line.startswith("diff ")]
    assert all("llm-router" in line for line in made), made
    assert host("stat -c '%U:%G %a' /etc/tabbyapi/api_key") == "root:llm-router 640\n"
    key = host("sed -n 's/^api_key: //p' /opt/tabbyAPI/api_tokens.yml").strip()
    assert host("cat /etc/tabbyapi/api_key").strip() == key
    assert key not in output
    health = json.loads(host("curl --silent http://127.0.0.1:8002/health"))
    print(json.dumps(health))
    assert (health["status"], health["current_model"]) == ("healthy", LOADED)

    say("the first chat is answered by the loaded model, in the process of before")
    assert chat(LOADED) == LOADED
    assert processes() == before

    say("switches: by script, by config.yml, and to a unit that serves one model")
    served = {SIBLING: "sglang", TABBY: "tabbyapi", VLLM: "vllm", LOADED: "sglang"}
    for model, unit in served.items():
        began = time.monotonic()
        assert chat(model) == model
        assert active() == [f"{unit}.service"], active()
        print(f"{model}: answered after {time.monotonic() - began:.1f} s")
    units = r"(?m)^diff .*llm-router(-helper)?\.(service|socket)\n(?:(?!^diff ).*\n)*"
    text = re.sub(units, "", difference())  # the router's own
    print(text)
    changed = [line for line in text.splitlines() if re.match(r"[-+](?!--|\+\+)", line)]
    assert changed == [
        f"+# Written by llm-router: sglang.service serves {LOADED}. Changes here will be lost.",
        "+[Service]",
        "+ExecStart=",
        "+ExecStart=/opt/llm/start_mistral.sh",
        "-  model_name: Monstral-123B-v2-exl3-4.0bpw  # the good one",
        f"+  model_name: {TABBY}  # the good one",
    ], changed

    say("a second run changes nothing")
    before = processes()
    assert re.search(r"changed=0 ", operator.provision(*REAL.split()))
    assert processes() == before

    say("the older router's list of models is kept as it is, once it says what the units say")
    host("cat >/etc/llm-router/models.yml", OLDER_MODELS)
    operator.refused(f"`config_file: {TABBY_CONFIG}`")
    models = OLDER_MODELS + f"    config_file: {TABBY_CONFIG}\n"
    host("cat >/etc/llm-router/models.yml", models)
    operator.provision(*REAL.split(), "--tags", "preflight")
    assert chat(LOADED) == LOADED
    assert processes() == before
    assert chat("monstral-123b-exl3-4bpw") == "Monstral-123B-v2-exl3-4.0bpw"
    assert host("cat /etc/llm-router/models.yml") == models

    say("and back")
    before = processes()
    host(BACK)
    assert processes() == before
    assert "/opt/llm/start_mistral.sh" in host("systemctl show --property=ExecStart sglang.service")
    assert host("systemctl is-active llm-router.service || true").strip() == "inactive"


if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else "trixie"
    subprocess.run([*HOSTS, "up", NAME, "--suite", wanted, "--bind", f"{ROOT}:/src:ro"], check=True)
    try:
        main()
        say("done")
    finally:
        subprocess.run([*HOSTS, "down", NAME], check=True)
