"""A fleet of three servers and its gateways on throwaway hosts: `make test-fleet`. Needs root.

What it does stands in `main`; the first thing that is not so ends it. --keep leaves the hosts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.fleet.load import Load

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache/fleet"
MOLECULE = ROOT / ".cache/molecule"
INVENTORY = ROOT / "tests/fleet/inventory"
SUITES = {"fleet1": "trixie", "fleet2": "trixie", "fleet3": "trixie", "fleetgw": "bookworm"}
SERVERS = ("fleet1", "fleet2", "fleet3")
MODELS = ("tiny-a", "tiny-b", "tiny-c", "alone")
KEY = secrets.token_hex(16)
AWAY, UNREACHABLE = "fleet4", 4
"""A host that cannot be reached, and ansible-playbook's exit status for a run without it."""
WITH_AWAY = f"--inventory={CACHE / 'away.yml'}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--keep", action="store_true", help="leave the hosts")
    given = options.parse_args()
    began = time.monotonic()
    try:
        boot()
        provision()
        chat_reaches_the_right_host()
        errors_are_openais()
        a_second_run_changes_nothing()
        with under_load("one host is switched by hand and stopped, another is killed") as load:
            one_host_alone_is_switched()
            a_host_is_stopped_and_another_killed(load)
        with under_load("the whole fleet is upgraded, and the gateways"):
            the_fleet_is_upgraded()
        with under_load("a host is rolled back"):
            a_host_is_rolled_back()
        it_is_taken_away()
    finally:
        if not given.keep:
            hosts_do("down")
    print(f"fleet: all of it is so ({time.monotonic() - began:.0f} s)")


# What is shown


def boot() -> None:
    (MOLECULE / "models").mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("tiny-a", "tiny-b")):
        path = MOLECULE / f"models/{name}.gguf"
        if not path.exists():
            run(sys.executable, "tests/hosts/tiny_gguf.py", str(path), f"--seed={seed}")
    run(sys.executable, "tests/hosts/llamacpp_archive.py", str(MOLECULE / "llama-server.tar.gz"))
    hosts_do("up")
    CACHE.mkdir(parents=True, exist_ok=True)
    # all are servers there, and here one is none
    booted = yaml.safe_load(hosts("inventory", *SUITES))["all"]
    booted["hosts"] = booted.pop("children")["llm_servers"]["hosts"]
    (CACHE / "inventory.yml").write_text(yaml.safe_dump({"all": booted}))
    # a server at an address of the same network that no host has
    network = booted["hosts"]["fleet1"]["ansible_host"].rpartition(".")[0]
    away = {AWAY: {"ansible_host": f"{network}.250", "test_models": ["tiny-a"]}}
    (CACHE / "away.yml").write_text(yaml.safe_dump({"llm_servers": {"hosts": away}}))
    step("the hosts have booted")


def provision() -> None:
    told = play("site.yml")
    assert all(changed(told, host) > 0 for host in SUITES), told
    step("the fleet is provisioned")


def chat_reaches_the_right_host() -> None:
    for gateway in ("fleetgw", "fleet3"):
        listed = ask(gateway, "GET", "/v1/models").json()["data"]
        assert sorted(entry["id"] for entry in listed) == sorted(MODELS), listed
    for model, asked, gateway in (
        ("tiny-a", "first", "fleetgw"),
        ("tiny-b", "tiny-b", "fleetgw"),
        ("tiny-c", "tiny-c", "fleet3"),
        ("alone", "alone", "fleetgw"),
    ):
        answer = chat(gateway, asked)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-llm-router-model"] == model
    homes = {model: where(model) for model in MODELS}
    assert homes["alone"] == ["fleet2"], homes
    # each of the others was loaded once, on a host of its own
    assert sorted(home for model in MODELS[:3] for home in homes[model]) == list(SERVERS), homes
    # and stays there
    for model in MODELS * 2:
        assert chat("fleetgw", model).status_code == 200
    assert {model: where(model) for model in MODELS} == homes
    wait_until(
        lambda: all(e["loaded"] for e in ask("fleetgw", "GET", "/v1/models").json()["data"]),
        "the list says what is loaded",
    )
    step(f"chat reaches the right host: {homes}")


def errors_are_openais() -> None:
    for status, code, answer in (
        (404, "model_not_found", chat("fleetgw", "nobody")),
        (400, "invalid_request", ask("fleetgw", "POST", "/v1/chat/completions", content=b"[")),
        (404, "not_found", ask("fleetgw", "GET", "/admin/status")),
        (401, "invalid_api_key", chat("fleetgw", "tiny-a", key="wrong")),
        (401, "invalid_api_key", ask("fleetgw", "GET", "/v1/models", key="wrong")),
        (413, "request_too_large", chat("fleetgw", "tiny-a", "x" * 9_000_000)),
    ):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (status, code), answer.text
    # the model comes last, as OpenAI's client has it, behind a megabyte
    large = chat("fleetgw", "tiny-a", "x " * 600_000)
    assert large.headers["x-llm-router-model"] == "tiny-a", large.text[:300]
    step("errors are OpenAI's, and a large request finds its model")


def a_second_run_changes_nothing() -> None:
    told = play("site.yml", "--check")
    assert not any(changed(told, host) for host in SUITES), told
    told = play("site.yml", "--limit=fleetgw", "--tags=gateway")
    assert recap(told) == ["fleetgw"], told
    assert changed(told, "fleetgw") == 0, told
    step("a dry run over the whole fleet, and a second run of a gateway, change nothing")


def one_host_alone_is_switched() -> None:
    before = {host: state(host) for host in SERVERS}
    loaded = before["fleet1"]["groups"]["default"]["loaded"]
    other = "tiny-b" if loaded == "tiny-a" else "tiny-a"
    model = f"--extra-vars=llm_model={other}"
    limit = f"--limit=fleet1,{AWAY}"
    told = play("site.yml", WITH_AWAY, limit, "--tags=switch", model, exits=UNREACHABLE)
    assert recap(told) == ["fleet1", AWAY], told
    assert f"left out: {AWAY}" in told, told
    assert changed(told, "fleet1") == 1, told
    assert all(state(host)["pid"] == before[host]["pid"] for host in SERVERS)
    told = play("site.yml", "--limit=fleet2", "--tags=llamacpp")
    assert recap(told) == ["fleet2"], told
    step(f"one host alone is switched, to {other}, and another one has its llama.cpp looked at")


def a_host_is_stopped_and_another_killed(load: Load) -> None:
    ssh("fleet1", "systemctl stop llm-router")
    time.sleep(3)
    ssh("fleet1", "systemctl start llm-router")
    up("fleet1")
    began = time.monotonic()
    ssh("fleet2", "systemctl kill --signal=KILL llm-router")
    load.killed(began, time.monotonic())
    up("fleet2")
    step("a router was stopped, and one killed")


def the_fleet_is_upgraded() -> None:
    before = {host: state(host) for host in SERVERS}
    new = CACHE / "new/ansible_collections/roundhouse/llm"
    run("tools/export-tree", str(new))
    with (new / "roles/llm_router/files/llm_router/__init__.py").open("a") as source:
        source.write("# the next version\n")
    told = play(
        *("upgrade.yml", WITH_AWAY, "--extra-vars=gateway_wait=151"),
        collections=CACHE / "new",
        exits=UNREACHABLE,
    )
    assert f"left out: {AWAY}" in told, told
    for host in SERVERS:
        now = state(host)
        assert now["release"] != before[host]["release"], told
        assert now["pid"] != before[host]["pid"], told
    assert changed(told, "fleetgw") > 0, told
    step(f"every router is of the new release but {AWAY}'s, and the gateways were reloaded")


def a_host_is_rolled_back() -> None:
    new = {host: state(host) for host in SERVERS}
    limit = f"--limit=fleet1,{AWAY}"
    told = play("rollback.yml", WITH_AWAY, limit, "--tags=llm_router", exits=UNREACHABLE)
    assert recap(told) == ["fleet1", AWAY], told
    assert state("fleet1")["release"] != new["fleet1"]["release"], told
    for host in SERVERS[1:]:
        now = state(host)
        assert (now["release"], now["pid"]) == (new[host]["release"], new[host]["pid"]), host
    step("one router is of the release of before, the others are as they were")


def it_is_taken_away() -> None:
    told = play("uninstall.yml", fails=True)
    assert "roundhouse_uninstall=true" in " ".join(told.split()), told
    sure = "--extra-vars=roundhouse_uninstall=true roundhouse_uninstall_engines=true"
    assert play("uninstall.yml", "--check", "--limit=fleet1", sure)
    assert ask("fleet1", "GET", "/health", port=8002).status_code == 200
    play("uninstall.yml", sure)
    left = (
        "ls -d /opt/llm* /etc/llm* /etc/systemd/system/llm* /etc/haproxy/roundhouse 2>/dev/null; "
    )
    left += "pgrep -x llama-server; pgrep -x haproxy; "
    left += "getent passwd llm-router llamacpp; ls /srv/models"
    for host in SUITES:
        found = ssh(host, left, fails=True)
        assert found.split() == ["tiny-a.gguf", "tiny-b.gguf"], (host, found)
    told = play("uninstall.yml", "--limit=fleet1,fleetgw", sure)
    assert not any(changed(told, host) for host in SUITES), told
    step("it is taken away, the models are there")


# How


@contextmanager
def under_load(what: str) -> Iterator[Load]:
    """Nothing that a client asks of the gateway fails while the block runs."""
    with Load(url("fleetgw"), KEY, MODELS) as load:
        wait_until(lambda: all(load.served.values()) or bool(load.failed), "all models answer", 150)
        yield load
        time.sleep(2)
    if load.failed:
        print(ssh("fleetgw", "journalctl -u haproxy -o cat | tail -200", fails=True))
        raise AssertionError("\n".join([f"requests failed while {what}:", *load.failed[:20]]))
    step(
        f"while {what}: {sum(load.served.values())} requests, none failed, "
        f"the slowest took {load.slowest:.1f} s ({load.served})"
    )


def step(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def run(*argv: str, fails: bool = False, exits: int = 0, **options: Any) -> str:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        argv,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=1800,
        **options,
    )
    if not fails and done.returncode != exits:
        raise SystemExit(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


def hosts(*arguments: str) -> str:
    return run(sys.executable, "tests/hosts/hosts.py", *arguments)


def hosts_do(what: str) -> None:
    """Boot all hosts side by side, or take them down."""
    tool = [sys.executable, "tests/hosts/hosts.py", what]
    models = f"--bind={MOLECULE}/models:/srv/models:ro"
    with_models = {name: [f"--suite={suite}", models] for name, suite in SUITES.items()}
    begun = [
        subprocess.Popen([*tool, name, *(more if what == "up" else [])], cwd=ROOT)
        for name, more in with_models.items()
    ]
    for name, one in zip(SUITES, begun, strict=True):
        if one.wait(900):
            raise SystemExit(f"hosts.py {what} {name} failed")


def ssh(host: str, command: str, fails: bool = False) -> str:
    return run(sys.executable, "tests/hosts/hosts.py", "ssh", host, "--", command, fails=fails)


def play(
    playbook: str,
    *arguments: str,
    collections: Path = ROOT / ".cache/collections",
    fails: bool = False,
    exits: int = 0,
) -> str:
    """A playbook of the collection, with the test's inventory; what it printed."""
    began = time.monotonic()
    at = collections / "ansible_collections/roundhouse/llm/playbooks" / playbook
    told = run(
        "ansible-playbook",
        str(at),
        f"--inventory={INVENTORY}",
        f"--inventory={CACHE / 'inventory.yml'}",
        *arguments,
        fails=fails,
        exits=exits,
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(collections),
            "ANSIBLE_HOST_KEY_CHECKING": "false",
            "ANSIBLE_INJECT_FACT_VARS": "false",
            "ANSIBLE_PIPELINING": "true",
            "ROUNDHOUSE_CHECKOUT": str(ROOT),
            "ROUNDHOUSE_TEST_KEY": KEY,
        },
    )
    print(
        f"         {playbook} {' '.join(arguments)}: {time.monotonic() - began:.0f} s", flush=True
    )
    return told


def recap(told: str) -> list[str]:
    """The hosts that a play has touched or looked at."""
    return re.findall(r"^(\w+) +: ok=", told, re.MULTILINE)


def changed(told: str, host: str) -> int:
    found = re.search(rf"^{host} +: ok=\d+ +changed=(\d+)", told, re.MULTILINE)
    return int(found[1]) if found else 0


def url(host: str, port: int = 8000) -> str:
    booted = yaml.safe_load((CACHE / "inventory.yml").read_text())["all"]["hosts"]
    return f"http://{booted[host]['ansible_host']}:{port}"


def ask(
    host: str, method: str, path: str, *, port: int = 8000, key: str = KEY, **options: Any
) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.request(method, url(host, port) + path, headers=headers, timeout=120, **options)


def chat(host: str, model: str, text: str = "Hello", **options: Any) -> httpx.Response:
    messages = [{"role": "user", "content": text}]
    body = {"messages": messages, "max_tokens": 4, "model": model}
    return ask(host, "POST", "/v1/chat/completions", json=body, **options)


def where(model: str) -> list[str]:
    """The servers that have it loaded."""
    path = f"/health?model={model}"
    return [host for host in SERVERS if ask(host, "GET", path, port=8002).status_code == 200]


def state(host: str) -> dict[str, Any]:
    status = json.loads(ssh(host, "llm-router status --once --json"))
    pid = ssh(host, "systemctl show --property MainPID --value llm-router").strip()
    release = ssh(host, "readlink /opt/llm-router/current").strip()
    return {"groups": status["groups"], "pid": pid, "release": release}


def up(host: str) -> None:
    wait_until(lambda: ask(host, "GET", "/health", port=8002).status_code == 200, f"{host} is up")


def wait_until(fact: Callable[[], bool], what: str, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            if fact():
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < until, f"{what}: not within {seconds} s"
        time.sleep(0.2)


if __name__ == "__main__":
    main()
