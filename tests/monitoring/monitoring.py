"""A server and the Prometheus that watches it, on a host: `make test-monitoring`. Needs root.

Debian's own package of Prometheus is there, with its own configuration, before the playbook comes.
What is done stands in `main`; the first thing that is not so ends it. --keep leaves the host.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.monitoring.dashboard import Asked, see_that_all_have_data

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache/monitoring"
NAME = "monitoring"
CONFIG = "/etc/prometheus/prometheus.yml"
OURS = "/etc/prometheus/roundhouse"
GRAFANA = "/etc/grafana"
KEY, SCRAPE_KEY = secrets.token_hex(16), secrets.token_hex(16)
MODEL = {
    "backend": "llamacpp",
    "model_path": "/srv/models/tiny-a.gguf",
    "args": ["--ctx-size", "512"],
    "timeout": 60,
}
ALERTS = {
    "RoundhouseRouterDown",
    "RoundhouseSwitchFailing",
    "RoundhouseModelFailed",
    "RoundhouseQueueWaiting",
    "RoundhouseEngineCrashLoop",
    "RoundhouseGpuMemoryNotReleased",
}


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--keep", action="store_true", help="leave the host")
    given.add_argument("--suite", default="bookworm", help="the host's Debian")
    options = given.parse_args()
    began = time.monotonic()
    try:
        boot(options.suite)
        a_host_without_prometheus_is_refused()
        before = prometheus_is_there()
        a_dry_run_changes_nothing(before)
        pid = it_is_provisioned(before)
        since = time.time()
        requests_are_answered_and_things_go_wrong()
        alerts_fire(since)
        the_dashboard_has_data(since)
        a_second_run_changes_nothing(pid)
        a_change_is_taken_over_without_a_restart(pid)
        it_is_taken_away(before, pid)
    finally:
        if not options.keep:
            tool("down", NAME)
    print(f"monitoring: all of it is so ({time.monotonic() - began:.0f} s)")


# What is shown


def boot(suite: str) -> None:
    models = CACHE / "models"
    models.mkdir(parents=True, exist_ok=True)
    run(sys.executable, "tests/hosts/tiny_gguf.py", str(models / "tiny-a.gguf"), "--seed=1")
    (models / "broken.gguf").write_bytes(b"this is no model")
    run(sys.executable, "tests/hosts/llamacpp_archive.py", str(CACHE / "llama-server.tar.gz"))
    tool("up", NAME, f"--suite={suite}", f"--bind={models}:/srv/models:ro")
    booted = yaml.safe_load(tool("inventory", NAME))
    groups = booted["all"]["children"]
    groups["llm_servers"]["hosts"][NAME] |= variables()
    groups["llm_monitoring"] = {"hosts": {NAME: None}}
    (CACHE / "inventory.yml").write_text(yaml.safe_dump(booted))
    step("the host has booted")


def variables() -> dict[str, Any]:
    """What an operator would have in the inventory, but in seconds instead of minutes."""
    keys = [{"name": "chat", "key": KEY}, {"name": "prometheus", "key": SCRAPE_KEY, "scopes": []}]
    broken = {**MODEL, "model_path": "/srv/models/broken.gguf"}
    models = {"tiny-a": MODEL, "tiny-b": MODEL, "broken": broken}
    return {
        "llm_router_models": {
            name: {**model, "service": f"llamacpp@{name}.service"} for name, model in models.items()
        },
        "llm_router_host": "0.0.0.0",
        "llm_router_api_keys": keys,
        "llm_router_max_failures": 2,
        "llamacpp_archive": str(CACHE / "llama-server.tar.gz"),
        "llamacpp_library_packages": ["libgomp1"],
        "monitoring_key": SCRAPE_KEY,
        "monitoring_scrape_interval": "1s",
        "monitoring_labels": {"site": "test"},
        "monitoring_alerts": {
            "router_down": {"for": "1s"},
            "model_failed": {"for": "1s"},
            "crash_loop": {"at": 1},
        },
        "monitoring_grafana": True,
    }


def a_host_without_prometheus_is_refused() -> None:
    told = play("site.yml", "--tags=monitoring", fails=True)
    assert f"has no {CONFIG}: this role configures a Prometheus that is there" in flat(told), told
    assert changed(told) == 0, told
    step("a host without Prometheus is refused")


def prometheus_is_there() -> str:
    """Its configuration as the package, and the operator, have it."""
    ssh("apt-get -qq update; apt-get -qqy --no-install-recommends install prometheus")
    ssh(f"sed -i 's/_interval:     15s/_interval: 1s/; s/_interval: 15s/_interval: 1s/' {CONFIG}")
    ssh(f"mkdir -p {GRAFANA}/provisioning/dashboards; systemctl reload prometheus")
    text = ssh(f"cat {CONFIG}")
    assert "evaluation_interval: 1s" in text, text
    step("Debian's Prometheus is there")
    return text


def a_dry_run_changes_nothing(before: str) -> None:
    told = play("site.yml", "--check", "--diff", "--tags=monitoring")
    assert changed(told) > 0, told
    assert "+  - job_name: roundhouse" in told, told
    no_key_in(told)
    assert ssh(f"cat {CONFIG}") == before
    left = ssh(f"ls -d {OURS} {GRAFANA}/roundhouse 2>/dev/null || true")
    assert left == "", left
    step("a dry run says what it would do, and changes nothing")


def it_is_provisioned(before: str) -> str:
    pid = prometheus_pid()
    told = play("site.yml", "--diff")
    assert changed(told) > 0, told
    no_key_in(told)
    after = ssh(f"cat {CONFIG}")
    # all that was there is there still, in its order
    rest = iter(after.splitlines())
    assert all(line in rest for line in before.splitlines()), after
    modes = ssh(f"stat -c '%U:%G %a' {OURS} {OURS}/key {OURS}/rules.yml {OURS}/targets.yml")
    assert modes.split("\n")[:4] == [
        "root:root 755",
        "root:prometheus 640",
        "root:root 644",
        "root:root 644",
    ], modes
    assert "root:root 644" in ssh(f"stat -c '%U:%G %a' {GRAFANA}/roundhouse/roundhouse.json")
    assert ssh(f"grep -rlF {SCRAPE_KEY} /etc /var/lib/prometheus /var/log || true").split() == [
        f"{OURS}/key"
    ]
    assert prometheus_pid() == pid
    loaded = rules()
    assert {rule["name"] for rule in loaded} == ALERTS, loaded
    assert {rule["health"] for rule in loaded} <= {"ok", "unknown"}, loaded
    wait_until(lambda: up() == [{"instance": NAME, "site": "test", "value": "1"}], "it is scraped")
    step("provisioned: all alerts are loaded, and the router is scraped with its key")
    return pid


def requests_are_answered_and_things_go_wrong() -> None:
    for model in ("tiny-a", "tiny-b", "tiny-a", "tiny-a"):
        assert chat(model).status_code == 200
    for _ in range(3):
        assert chat("broken", stream=False).status_code == 503
    for _ in range(4):
        assert chat("tiny-a").status_code == 200
        time.sleep(0.5)
    ssh("systemctl kill --signal=KILL llamacpp@tiny-a.service")
    step("two models have answered, one cannot be loaded, an engine was killed")


def alerts_fire(since: float) -> None:
    asked = Asked(url(9090), since)
    expected = {
        ("RoundhouseSwitchFailing", NAME, "broken"),
        ("RoundhouseModelFailed", NAME, "broken"),
        ("RoundhouseEngineCrashLoop", NAME, "tiny-a"),
    }
    wait_until(lambda: asked.firing() >= expected, "the alerts fire")
    assert asked.firing() == expected, asked.firing()
    ssh("systemctl stop llm-router")
    wait_until(lambda: ("RoundhouseRouterDown", NAME, "") in asked.firing(), "a stopped router")
    ssh("systemctl start llm-router")
    wait_until(lambda: bool(up()) and up()[0]["value"] == "1", "it is scraped again")
    step("the alerts fire: a model that fails, a killed engine, a stopped router")


def the_dashboard_has_data(since: float) -> None:
    chosen = {"job": "roundhouse", "instance": NAME, "model": ".*"}
    see_that_all_have_data(Asked(url(9090), since), chosen)
    step("every query of the dashboard has data")


def a_second_run_changes_nothing(pid: str) -> None:
    # all of it a second time is what Molecule does
    for argument in ("--tags=monitoring", "--check"):
        told = play("site.yml", argument)
        assert changed(told) == 0, told
    assert prometheus_pid() == pid
    step("a second run changes nothing, nor would one of everything")


def a_change_is_taken_over_without_a_restart(pid: str) -> None:
    # as if a run had been broken off before the reload
    ssh(f"touch {OURS}/rules.yml")
    told = play("site.yml", "--tags=monitoring")
    assert changed(told) == 1, told
    # what it names is lost: directory, key, targets, rules are made anew, and are read
    ssh(f"rm -r {OURS}")
    told = play("site.yml", "--tags=monitoring")
    assert changed(told) == 5, told
    other = "--extra-vars=" + json.dumps({"monitoring_alerts": {"router_down": {"for": "7m"}}})
    told = play("site.yml", "--tags=monitoring", other)
    assert changed(told) == 2, told
    (down,) = [rule for rule in rules() if rule["name"] == "RoundhouseRouterDown"]
    assert down["duration"] == 420, down
    assert prometheus_pid() == pid
    step("a change is taken over by a reload, one that was broken off too; lost files come back")


def it_is_taken_away(before: str, pid: str) -> None:
    sure = "--extra-vars=roundhouse_uninstall=true roundhouse_uninstall_engines=true"
    ssh(f"echo '{{}}' >{GRAFANA}/roundhouse/another.json")
    play("uninstall.yml", "--check", sure)
    assert {rule["name"] for rule in rules()} == ALERTS
    play("uninstall.yml", sure)
    assert ssh(f"cat {CONFIG}") == before
    assert rules() == []
    left = ssh(f"find {OURS} {GRAFANA} -type f 2>/dev/null || true").split()
    assert left == [f"{GRAFANA}/roundhouse/another.json"], left
    assert prometheus_pid() == pid
    told = play("uninstall.yml", sure)
    assert changed(told) == 0, told
    # as if a run had been broken off before the reload
    ssh(f"touch {CONFIG}")
    for argument in ("--check", "--diff"):
        told = play("uninstall.yml", sure, argument)
        assert changed(told) == 1, told
    step("it is taken away: Prometheus runs as before, and another dashboard is still there")


# How


def step(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def run(*argv: str, fails: bool = False, **options: Any) -> str:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        argv,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=900,
        **options,
    )
    if bool(done.returncode) != fails:
        raise SystemExit(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


def tool(*arguments: str) -> str:
    return run(sys.executable, "tests/hosts/hosts.py", *arguments)


def ssh(command: str) -> str:
    return tool("ssh", NAME, "--", command)


def play(playbook: str, *arguments: str, fails: bool = False) -> str:
    """A playbook of the collection; what it printed."""
    began = time.monotonic()
    told = run(
        "ansible-playbook",
        f"playbooks/{playbook}",
        f"--inventory={CACHE / 'inventory.yml'}",
        *arguments,
        fails=fails,
        env={
            **os.environ,
            "ANSIBLE_HOST_KEY_CHECKING": "false",
            "ANSIBLE_INJECT_FACT_VARS": "false",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "true",
        },
    )
    took = time.monotonic() - began
    print(f"         {playbook} {' '.join(arguments)}: {took:.0f} s", flush=True)
    return told


def flat(told: str) -> str:
    return " ".join(told.split())


def changed(told: str) -> int:
    found = re.search(rf"^{NAME} +: ok=\d+ +changed=(\d+)", told, re.MULTILINE)
    return int(found[1]) if found else 0


def no_key_in(told: str) -> None:
    assert SCRAPE_KEY not in told, "the key is in what Ansible prints"
    assert KEY not in told, "a client's key is in what Ansible prints"


def url(port: int) -> str:
    booted = yaml.safe_load((CACHE / "inventory.yml").read_text())["all"]["children"]
    return f"http://{booted['llm_servers']['hosts'][NAME]['ansible_host']}:{port}"


def chat(model: str, *, stream: bool = True) -> httpx.Response:
    """An answer, whole; one that is streamed has a time to its first token."""
    messages = [{"role": "user", "content": "Hello"}]
    body = {"model": model, "max_tokens": 16, "messages": messages, "stream": stream}
    headers = {"authorization": f"Bearer {KEY}"}
    at = url(8002) + "/v1/chat/completions"
    return httpx.post(at, json=body, headers=headers, timeout=120)


def prometheus_pid() -> str:
    pid = ssh("systemctl show --property=MainPID --value prometheus").strip()
    assert pid != "0", "Prometheus does not run"
    return pid


def rules() -> list[dict[str, Any]]:
    groups = Asked(url(9090), 0).get("rules")["groups"]
    return [rule for group in groups for rule in group["rules"]]


def up() -> list[dict[str, str]]:
    """Of each router: what it is called, and whether it is scraped."""
    found = Asked(url(9090), 0).get("query", query='up{job="roundhouse"}')["result"]
    return [
        {
            "instance": one["metric"]["instance"],
            "site": one["metric"]["site"],
            "value": one["value"][1],
        }
        for one in found
    ]


def wait_until(fact: Callable[[], bool], what: str, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < until, f"{what}: not within {seconds} s"
        time.sleep(0.3)


if __name__ == "__main__":
    main()
