"""docs/monitoring.md has every metric and alert as they are; the dashboard asks for no other."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_router.api.metrics import Metrics
from llm_router.events import EventStream
from llm_router.scheduler.core import Core, Limits
from llm_router.scheduler.service import RunningSwitch, Scheduler

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "roles/monitoring"
PAGE = (ROOT / "docs/monitoring.md").read_text()
TEMPLATE = (ROLE / "templates/rules.yml.j2").read_text()
DASHBOARD = json.loads((ROLE / "files/dashboard.json").read_text())
GIVEN = yaml.safe_load((ROLE / "vars/main.yml").read_text())["__monitoring_alerts_given"]


async def _never(_: RunningSwitch) -> None:
    raise AssertionError("nothing is switched")


def metrics() -> set[str]:
    """The names of all, as /metrics has them; of a histogram, without what it is made of."""
    scheduler = Scheduler(Core({"a": "g"}, Limits()), _never)
    text = Metrics(scheduler, EventStream(), set).text().decode()
    types = re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE)
    return {name for name, _ in types if not name.endswith("_created")}


def rows(heading: str) -> list[list[str]]:
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_metric_is_listed() -> None:
    listed = [name for row in rows("Metrics") for name in re.findall(r"`(\w+)`", row[0])]
    assert len(listed) == len(set(listed))
    assert set(listed) == metrics()


def test_every_alert_is_listed_with_its_figures() -> None:
    named = re.findall(r"alerts\.(\w+)\.enabled %}\n      - alert: (\w+)", TEMPLATE)
    listed = {row[0].strip("`"): row[1:] for row in rows("Alerts")}
    assert {alert: variable for variable, alert in named} == {
        alert: cells[-1].strip("`") for alert, cells in listed.items()
    }
    assert {variable for variable, _ in named} == set(GIVEN)
    for when, held, severity, variable in listed.values():
        given = GIVEN[variable.strip("`")]
        assert (held, severity) == (given["for"], given["severity"])
        number = {1: "once"}.get(given.get("at", 0), str(given.get("at", "")))
        assert number in when, when
        assert given.get("window", "") in when, when


def test_every_figure_of_an_alert_can_be_set() -> None:
    spec = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())
    options = spec["argument_specs"]["main"]["options"]["monitoring_alerts"]["options"]
    assert {name: set(one["options"]) for name, one in options.items()} == {
        name: set(given) for name, given in GIVEN.items()
    }


def test_every_variable_that_is_named_is_one_of_the_role() -> None:
    known = set(yaml.safe_load((ROLE / "defaults/main.yml").read_text())) | {"monitoring_target"}
    assert set(re.findall(r"`(monitoring_\w+)", PAGE)) <= known


def test_the_lines_to_enter_by_hand_are_those_that_are_entered() -> None:
    (block,) = [
        one for one in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "job_name" in one
    ]
    said = yaml.safe_load(block)
    vars_text = (ROLE / "vars/main.yml").read_text()
    assert said["rule_files"] == ["roundhouse/rules.yml"]
    (job,) = said["scrape_configs"]
    assert f"'file_sd_configs': {job['file_sd_configs']}" in vars_text
    assert f"'authorization': {job['authorization']}" in vars_text


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_are_there() -> None:
    text = TEMPLATE + json.dumps(DASHBOARD)
    known = metrics()
    for name in set(re.findall(r"\bllm_router_\w+", text)):
        bare = re.sub(r"_(bucket|sum|count)$", "", name)
        assert name in known or bare in known, name


def test_no_metric_is_left_out_of_the_dashboard() -> None:
    text = json.dumps(DASHBOARD)
    assert {name for name in metrics() if name not in text} == set()


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_every_panel_is_of_the_hosts_and_the_data_source_that_are_chosen(
    panel: dict[str, Any],
) -> None:
    assert panel["datasource"]["uid"] == "${datasource}"
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        selectors = re.findall(r"(?:llm_router_\w+|up|ALERTS){([^}]*)}", target["expr"])
        assert selectors
        assert all('instance=~"$instance"' in one for one in selectors)


def test_panels_have_names_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
