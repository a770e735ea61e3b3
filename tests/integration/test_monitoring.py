"""What the role monitoring gives a Prometheus, with a real one that scrapes real routers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

from tests.monitoring.dashboard import Asked, see_that_all_have_data, variables

from .conftest import ROOT, Router, free_port, wait_until

sys.path.append(str(ROOT / ".cache/collections"))

pytestmark = pytest.mark.promtool

CACHE = Path(os.environ.get("ROUNDHOUSE_CACHE", ""))
RULES_TEST = ROOT / "tests/monitoring/rules_test.yml"
KEY, SCRAPE_KEY = "a key for those who chat", "a key that reads metrics"


def promtool(*arguments: object) -> str:
    said = subprocess.run(
        [CACHE / "promtool", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


def render(into: Path, servers: dict[str, Any], **variables: Any) -> None:
    """Have Ansible write what the role would, for these servers."""
    into.mkdir()
    inventory = into / "inventory.yml"
    inventory.write_text(yaml.safe_dump({"llm_servers": {"hosts": servers}}))
    command = [str(Path(sys.executable).with_name("ansible-playbook")), f"--inventory={inventory}"]
    command += [str(ROOT / "tests/monitoring/render.yml"), "--extra-vars"]
    command += [json.dumps({"rendered": str(into), **variables})]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules with the figures of the role."""
    directory = tmp_path_factory.mktemp("rules") / "rendered"
    render(directory, {"gpu1": {}})
    return directory / "rules.yml"


def test_promtool_takes_the_rules_and_they_do_what_they_should(rules: Path) -> None:
    promtool("check", "rules", rules)
    shutil.copy(RULES_TEST, rules.parent)
    promtool("test", "rules", rules.parent / RULES_TEST.name)


def test_each_alert_is_tested_when_it_fires_and_when_it_does_not(rules: Path) -> None:
    groups = yaml.safe_load(rules.read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    cases = [
        case
        for one in yaml.safe_load(RULES_TEST.read_text())["tests"]
        for case in one["alert_rule_test"]
    ]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts


OTHER_FIGURES = {
    "router_down": {"for": "10m"},
    "switch_failing": {"at": 3},
    "model_failed": {"for": "5m"},
    "queue_waiting": {"at": 3000},
    "crash_loop": {"window": "1m"},
    "memory_not_released": {"severity": "info"},
}


def test_the_tests_of_the_alerts_notice_another_figure(rules: Path, tmp_path: Path) -> None:
    """Each by itself, so that none of them hides behind another."""
    render(tmp_path / "other", {"gpu1": {}}, monitoring_alerts=OTHER_FIGURES)
    others = yaml.safe_load((tmp_path / "other/rules.yml").read_text())["groups"][0]["rules"]
    assert len(others) == len(OTHER_FIGURES)
    for index, other in enumerate(others):
        changed = yaml.safe_load(rules.read_text())
        assert changed["groups"][0]["rules"][index] != other
        changed["groups"][0]["rules"][index] = other
        (tmp_path / "rules.yml").write_text(yaml.safe_dump(changed))
        promtool("check", "rules", tmp_path / "rules.yml")
        shutil.copy(RULES_TEST, tmp_path)
        with pytest.raises(AssertionError, match=f"(?s)FAILED.*{other['alert']}"):
            promtool("test", "rules", tmp_path / RULES_TEST.name)


def test_an_alert_can_be_left_out(tmp_path: Path) -> None:
    off = {name: {"enabled": False} for name in list(OTHER_FIGURES)[1:]}
    render(tmp_path / "less", {"gpu1": {}}, monitoring_alerts=off)
    (group,) = yaml.safe_load((tmp_path / "less/rules.yml").read_text())["groups"]
    assert [rule["alert"] for rule in group["rules"]] == ["RoundhouseRouterDown"]


class Prometheus:
    """A Prometheus that is there already, with the role's entries in its configuration."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = f"http://127.0.0.1:{free_port()}"
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self) -> None:
        """From what was rendered into the directory's `roundhouse`."""
        from ansible_collections.roundhouse.llm.plugins.module_utils.prometheus_yaml import (
            with_entries,
        )

        theirs = "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
        theirs += "rule_files:\n  # - first_rules.yml\n\nscrape_configs:\n- job_name: prometheus\n"
        theirs += f"  static_configs: [{{targets: ['{self.url[7:]}']}}]\n"
        entries = json.loads((self.directory / "roundhouse/entries.json").read_text())
        path = self.directory / "prometheus.yml"
        path.write_text(with_entries(theirs, entries))
        promtool("check", "config", path)

    def start(self) -> None:
        with (self.directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    CACHE / "prometheus",
                    f"--config.file={self.directory}/prometheus.yml",
                    f"--storage.tsdb.path={self.directory}/data",
                    f"--web.listen-address={self.url[7:]}",
                ],
                stdout=log,
                stderr=log,
            )
        wait_until(self.is_ready, f"Prometheus is ready; its log: {self.directory}/log")

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    (tmp_path / "prometheus").mkdir()
    made = Prometheus(tmp_path / "prometheus")
    yield made
    made.stop()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[dict[str, Router]]:
    """Two routers with keys: one of them has a model that cannot be loaded, and a slow one."""
    made: dict[str, Router] = {}
    for name in ("gpu1", "gpu2"):
        (tmp_path / name).mkdir()
        made[name] = Router(tmp_path / name)
    first, second = made.values()
    first.write(
        {
            "a": first.standin("a", interval=0.02),
            "b": first.standin("b", interval=0.02),
            "slow": first.standin("slow", load=3),
            "broken": first.standin("broken", fault="exit-while-loading"),
        }
    )
    second.write({"a": second.standin("a", interval=0.02)})
    keys = [
        {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": scopes}
        for name, key, scopes in (
            ("chat", KEY, ["use", "switch", "admin"]),
            ("prometheus", SCRAPE_KEY, []),
        )
    ]
    for router in made.values():
        (router.dir / "keys.yml").write_text(yaml.safe_dump({"keys": keys}))
        router.start()
    yield made
    for router in made.values():
        router.end()


def chat(router: Router, model: str) -> None:
    messages: Any = [{"role": "user", "content": "Hello"}]
    with router.client(api_key=KEY).chat.completions.create(
        model=model, messages=messages, stream=True
    ) as chunks:
        for _ in chunks:
            pass


def fails(call: Callable[[], object]) -> None:
    with pytest.raises((openai.APIStatusError, openai.APIError)):
        call()


def everything_happens(first: Router, second: Router) -> None:
    """Requests, switches, failed ones, a wait, engines that are killed."""
    for _ in range(3):
        for router in (first, second):
            chat(router, "a")
        fails(lambda: chat(first, "broken"))
        chat(first, "b")
        chat(first, "a")
        time.sleep(1.1)  # a scrape has to see the engine before it is gone
        os.killpg(first.engine_pids()["child_a"], signal.SIGKILL)
        wait_until(lambda: not first.engine_pids().get("child_a"), "the engine is gone")
    chat(first, "slow")
    for _ in range(10):
        chat(first, "slow")
        chat(second, "a")


def test_alerts_fire_and_each_query_of_the_dashboard_has_data(
    fleet: dict[str, Router], prometheus: Prometheus
) -> None:
    ours = prometheus.directory / "roundhouse"
    key = {"key": SCRAPE_KEY, "name": "prometheus", "scopes": []}
    render(
        ours,
        {
            name: {"monitoring_target": router.url[7:], "llm_router_api_keys": [key]}
            for name, router in fleet.items()
        },
        monitoring_scrape_interval="1s",
        monitoring_alerts={
            "router_down": {"for": "1s"},
            "model_failed": {"for": "1s"},
            "queue_waiting": {"for": "0s", "at": 1},
        },
    )
    (ours / "key").write_text(SCRAPE_KEY)
    prometheus.configure()
    prometheus.start()
    asked = Asked(prometheus.url, time.time())
    first, second = fleet.values()

    def all_are_scraped() -> bool:
        return len(asked.series('up{job="roundhouse"} == 1', {})) == 2

    wait_until(all_are_scraped, "both routers are scraped, with the key")
    everything_happens(first, second)
    expected = {
        ("RoundhouseSwitchFailing", "gpu1", "broken"),
        ("RoundhouseModelFailed", "gpu1", "broken"),
        ("RoundhouseQueueWaiting", "gpu1", "slow"),
        ("RoundhouseEngineCrashLoop", "gpu1", "a"),
    }
    wait_until(lambda: asked.firing() >= expected, "they fire", 15)
    assert asked.firing() == expected
    second.stop()
    down = ("RoundhouseRouterDown", "gpu2", "")
    wait_until(lambda: down in asked.firing(), "a router that is gone is told", 15)

    job = {"job": "roundhouse"}
    offered = {
        name: asked.values_of(query, {**job, "instance": ".*"})
        for name, query in variables().items()
    }
    assert offered == {
        "job": {"roundhouse"},
        "instance": {"gpu1", "gpu2"},
        "model": {"a", "b", "slow", "broken"},
    }
    see_that_all_have_data(asked, {**job, "instance": "(gpu1|gpu2)", "model": ".*"})
    see_that_all_have_data(asked, {**job, "instance": "gpu1", "model": ".*"})
