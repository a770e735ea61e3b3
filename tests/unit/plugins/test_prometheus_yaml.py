"""Entries go into somebody's prometheus.yml, and out again, and nothing else of it changes."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.roundhouse.llm.plugins.module_utils.prometheus_yaml import (
    NotEditable,
    our_entries,
    with_entries,
    without_entries,
)

JOB = {
    "job_name": "roundhouse",
    "scrape_interval": "15s",
    "authorization": {"credentials_file": "roundhouse/key"},
    "file_sd_configs": [{"files": ["roundhouse/targets.yml"]}],
}
ENTRIES: dict[str, Any] = {"rule_files": ["roundhouse/rules.yml"], "scrape_configs": [JOB]}

DEBIANS = """\
# Sample config for Prometheus.

global:
  scrape_interval:     15s # Set the scrape interval to every 15 seconds. Default is every 1 minute.
  external_labels:
      monitor: 'example'

# Load rules once and periodically evaluate them.
rule_files:
  # - "first_rules.yml"
  # - "second_rules.yml"

scrape_configs:
  # The job name is added as a label `job=<job_name>`.
  - job_name: 'prometheus'

    static_configs:
      - targets: ['localhost:9090']
"""

FORMS = {
    "Debian's": DEBIANS,
    "not indented": "rule_files:\n- mine.yml\nscrape_configs:\n- job_name: mine\n",
    "far indented": "scrape_configs:  # all\n\n      - job_name: mine\nrule_files:\n    - mine.yml",
    "nothing of both": "global:\n  scrape_interval: 5s",
    "empty": "",
    "lists without items": "scrape_configs:\nrule_files:\nglobal: {}\n",
    "Windows' ends of lines": DEBIANS.replace("\n", "\r\n"),
    "a dash alone": "scrape_configs:\n -\n  job_name: mine\n",
}


def meant(text: str) -> dict[str, Any]:
    """What it shall be: ours first in each list."""
    document = yaml.safe_load(text) or {}
    for key, items in ENTRIES.items():
        document[key] = [*items, *(document.get(key) or [])]
    return document


@pytest.mark.parametrize("form", FORMS)
def test_entries_go_in_and_out_again(form: str) -> None:
    text = FORMS[form]
    new = with_entries(text, ENTRIES)
    assert yaml.safe_load(new) == meant(text)
    assert with_entries(new, ENTRIES) == new
    before = text if text.endswith("\n") or not text else text + "\n"
    back = without_entries(new)
    assert back in (text, before)
    assert without_entries(back) == back
    assert our_entries(text) == ""
    lines = new.splitlines(keepends=True)
    assert sum(map(len, lines)) == len(back) + len(our_entries(new))


def test_what_is_there_is_replaced_wherever_it_stands() -> None:
    old = with_entries("global: {}\n", {**ENTRIES, "scrape_configs": [{"job_name": "old"}]})
    moved = old + "storage: {}\n"
    new = with_entries(moved, ENTRIES)
    assert "old" not in new
    assert yaml.safe_load(new) == meant("global: {}\nstorage: {}\n")
    # the operator has made a list of their own meanwhile
    theirs = with_entries(old + "scrape_configs:\n  - job_name: mine\n", ENTRIES)
    assert yaml.safe_load(theirs) == meant("global: {}\nscrape_configs:\n  - job_name: mine\n")


def test_an_empty_list_of_entries_is_none() -> None:
    assert with_entries(DEBIANS, {"rule_files": [], "scrape_configs": []}) == DEBIANS


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("global: {}\nscrape_configs: [{job_name: mine}]\n", 2, "scrape_configs as a list"),
        ("scrape_configs: &all\n  - job_name: mine\n", 1, "scrape_configs as a list"),
        ("rule_files: []\n", 1, "rule_files as a list"),
        ("global: {}\n  # BEGIN roundhouse\nscrape_configs:\n", 2, "does not end it"),
    ],
)
def test_what_cannot_be_edited_is_said_with_its_line(text: str, line: int, why: str) -> None:
    with pytest.raises(NotEditable, match=why) as refused:
        with_entries(text, ENTRIES)
    assert refused.value.line == line
