#!/usr/bin/env python3
"""The server that the project began with gets this router, by the steps of its owner.

    tests/seed/seed.py [SUITE]

Boots a throwaway host (which needs root), has `prepare.sh` make it that server, and does there what
its owner would type: `install.sh`, the import of his router's models, the check, `install.sh`
again, and a first chat with each model.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
HOSTS = [sys.executable, str(ROOT / "tests/hosts/hosts.py")]
NAME = "seed"
OLD_ROUTER = "/home/ivan/sglang/model_router_blackwell.py"
MODELS_YML = "/etc/roundhouse/models.yml"
FIRST = "mistral-large-2411-awq"
SGLANG = (FIRST, "qwen2.5-72b-awq", "llama-3.3-70b-awq", "command-r-plus-awq", "nemotron-70b-awq")
TABBY = "monstral-123b-exl2-4bpw"
INSTALL = (
    "cd / && </dev/null 2>&1 /src/install.sh --models-dir /home/ivan/models --listen 127.0.0.1 "
    "--port 8002 --key none"
)


def say(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def host(command: str, stdin: str | None = None, status: int = 0) -> str:
    """A shell command on the host, as root; its output. Fails with another exit status."""
    began = time.monotonic()
    run = subprocess.run(
        [*HOSTS, "ssh", NAME, "--", command],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert run.returncode == status, f"{command}: {run.returncode}\n{run.stdout}{run.stderr}"
    if time.monotonic() - began > 5:
        print(f"{command[:60]}…: {time.monotonic() - began:.0f} s", flush=True)
    return run.stdout


def main_pid(unit: str) -> str:
    return host(f"systemctl show --property=MainPID --value {unit}").strip()


def active() -> set[str]:
    units = ("sglang.service", "tabbyapi.service")
    states = host(f"systemctl is-active {' '.join(units)} || true").split()
    return {unit for unit, state in zip(units, states, strict=True) if state == "active"}


def chat(model: str) -> list[str]:
    """The texts that a person reads in a streamed answer."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 16,
        "stream": True,
    }
    said = host(
        "curl --silent --show-error --no-buffer --max-time 60 "
        "http://localhost:8002/v1/chat/completions --header 'Content-Type: application/json' "
        f"--header 'X-LLM-Router-Status: content' --data {shlex.quote(json.dumps(body))}"
    )
    events = [line.removeprefix("data: ") for line in said.splitlines() if line.startswith("data")]
    assert events, said
    assert events[-1] == "[DONE]", said
    chunks = [json.loads(event) for event in events[:-1]]
    assert not any("error" in chunk for chunk in chunks), said
    return [c["choices"][0]["delta"].get("content") or "" for c in chunks if c.get("choices")]


def health() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host("curl --silent http://localhost:8002/health"))
    return found


def configured() -> dict[str, dict[str, Any]]:
    models: dict[str, dict[str, Any]] = yaml.safe_load(host(f"cat {MODELS_YML}"))["models"]
    return models


def main() -> None:
    host("/src/tests/seed/prepare.sh")
    the_old_routers_port_is_named()
    one_run_adopts_what_is_there()
    each_model_is_loaded_by_its_first_chat()
    the_example_of_his_documentation_serves_too()


def the_old_routers_port_is_named() -> None:
    say("his router's models are imported; preflight names the unit that has port 8002")
    said = " ".join(host(f"{INSTALL} --import {OLD_ROUTER}", status=2).split())
    print(said[said.index("this machine has units") :][:400])
    script = "/home/ivan/sglang/start_mistral.sh"
    assert f"sglang.service (active) starts sglang by {script}" in said, said
    assert "tabbyapi.service (inactive) starts tabby" in said, said
    assert "model-router.service has it; stop it with" in said, said
    assert "`systemctl disable --now model-router.service`" in said, said
    assert host("systemctl is-active model-router.service") == "active\n"
    host("! systemctl cat llm-router.service 2>/dev/null")
    print(host(f"cat {MODELS_YML}"))
    models = configured()
    assert set(models) == {*SGLANG, TABBY}, models
    assert all(str(models[name]["model_name"]).startswith("/home/ivan/models/") for name in SGLANG)
    assert models[TABBY]["config_file"] == "/home/ivan/tabbyAPI/config.yml"


def one_run_adopts_what_is_there() -> None:
    say("with that stopped, one run adopts his units; the loaded model stays loaded")
    host("systemctl disable --quiet --now model-router.service")
    pid = main_pid("sglang.service")
    said = host(INSTALL)
    assert re.search(r"changed=[1-9]\d* .*failed=0", said), said
    host("llm-router check")
    found = health()
    print(json.dumps(found))
    assert (found["status"], found["current_model"]) == ("healthy", FIRST)
    assert found["backends"] == {"sglang": True, "tabbyapi": False}
    assert set(found["models"]) == {*SGLANG, TABBY}
    assert main_pid("sglang.service") == pid


def each_model_is_loaded_by_its_first_chat() -> None:
    say("the first chat is answered by the loaded model; each other one is loaded at its first try")
    pid = main_pid("sglang.service")
    assert not any("Switching" in text for text in chat(FIRST))
    assert main_pid("sglang.service") == pid
    for name in (*SGLANG[1:], TABBY, FIRST):
        began = time.monotonic()
        texts = chat(name)
        print(f"{name}: {time.monotonic() - began:.1f} s, {''.join(texts)!r}")
        for words in (f"🔄 Switching to {name}", "✅ Model ready!", "⚡ "):
            assert any(words in text for text in texts), (words, texts)
        assert active() == {"tabbyapi.service" if name == TABBY else "sglang.service"}
    host("! llm-router status --once --json | grep -q '\"failures\": [1-9]'")


def the_example_of_his_documentation_serves_too() -> None:
    say("his documentation's own entries, without model_name: the engine's name is taken")
    chat(TABBY)
    # as models.yml has it: of Python only None is another word there
    example = """\
models: {
    "mistral-large-2411-awq": {"backend": "sglang",
        "script": "/home/ivan/sglang/start_mistral.sh", "service": "sglang.service"},
    "monstral-123b-exl2-4bpw": {"backend": "tabby", "script": null,
        "service": "tabbyapi.service", "model_name": "Monstral-123B-v2-exl2-4.0bpw"},
}
"""
    host(f"cat >{MODELS_YML}", example)
    said = " ".join(host(f"{INSTALL} -- --tags preflight", status=2).split())
    assert "say `config_file: /home/ivan/tabbyAPI/config.yml`" in said, said
    models = yaml.safe_load(example)["models"]
    models[TABBY]["config_file"] = "/home/ivan/tabbyAPI/config.yml"
    # as he edits it, on the host
    host("cat >/etc/llm-router/models.yml", yaml.safe_dump({"models": models}))
    host("llm-router check && llm-router reload")
    pid = main_pid("sglang.service")
    assert any(f"🔄 Switching to {FIRST}" in text for text in chat(FIRST))
    assert active() == {"sglang.service"}
    assert main_pid("sglang.service") != pid
    loaded = main_pid("sglang.service")
    # the name is remembered: a router that starts again takes the engine for what it is
    host("systemctl restart llm-router.service")
    assert not any("Switching" in text for text in chat(FIRST))
    assert main_pid("sglang.service") == loaded


if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else "noble"
    began = time.monotonic()
    subprocess.run([*HOSTS, "up", NAME, "--suite", wanted, "--bind", f"{ROOT}:/src:ro"], check=True)
    try:
        main()
        say(f"done ({time.monotonic() - began:.0f} s)")
    finally:
        subprocess.run([*HOSTS, "down", NAME], check=True)
