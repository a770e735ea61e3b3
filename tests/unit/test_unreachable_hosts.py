"""Hosts that cannot be reached are left out of a run and named; the exit status tells of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PLAYBOOKS = ROOT / "playbooks"
UNREACHABLE = 4
"""Exit status of ansible-playbook: see docs/fleet.md."""


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """Two hosts that are this machine, and one where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    away = {"ansible_host": "127.0.0.1", "ansible_port": port}
    hosts = {"one": here, "two": here, "away": away}
    path = tmp_path / "inventory.yml"
    path.write_text(yaml.safe_dump({"llm_servers": {"hosts": hosts}}))
    return path


def play(playbook: Path, inventory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    ansible = Path(sys.executable).with_name("ansible-playbook")
    return subprocess.run(
        [str(ansible), "--inventory", str(inventory), str(playbook), *arguments],
        cwd=inventory.parent,
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(PLAYBOOKS / "collections"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOCALHOST_WARNING": "false",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """The plays at the ends of site.yml, with one between them that stops at any error."""
    middle = {
        "hosts": "llm_servers",
        "gather_facts": False,
        "any_errors_fatal": True,
        "serial": 1,
        "max_fail_percentage": 0,
        "tasks": [{"ansible.builtin.debug": {"msg": "work on {{ inventory_hostname }}"}}],
    }
    plays = [
        {"import_playbook": str(PLAYBOOKS / "plays/reach.yml")},
        middle,
        {"import_playbook": str(PLAYBOOKS / "plays/left_out.yml")},
    ]
    path = tmp_path / "whole.yml"
    path.write_text(yaml.safe_dump(plays))
    return path


def test_the_others_are_done_and_the_last_play_names_the_host(whole: Path, inventory: Path) -> None:
    done = play(whole, inventory)
    assert done.returncode == UNREACHABLE, done.stdout
    for host in ("one", "two"):
        assert f"work on {host}" in done.stdout
    assert "work on away" not in done.stdout
    end = " ".join(done.stdout.partition("Name the hosts that were left out")[2].split())
    assert "Not reached and left out: away. Repair the connection" in end
    assert "--limit away." in end


def test_nothing_is_done_where_every_host_is_required(whole: Path, inventory: Path) -> None:
    done = play(whole, inventory, "-e", "roundhouse_skip_unreachable=false")
    assert done.returncode != 0, done.stdout
    assert "work on" not in done.stdout
    assert "away cannot be reached, and nothing was changed" in " ".join(done.stdout.split())


def test_a_run_that_reaches_all_says_nothing(whole: Path, inventory: Path) -> None:
    done = play(whole, inventory, "--limit", "one,two")
    assert done.returncode == 0, done.stdout
    assert "left out: " not in done.stdout


def test_a_host_that_is_lost_on_the_way_stops_the_batches_after_it(
    tmp_path: Path, inventory: Path
) -> None:
    """With the check at the end of the play that provisions."""
    site = yaml.safe_load((PLAYBOOKS / "site.yml").read_text())
    provision = next(each for each in site if each["name"] == "Provision the servers")
    check = provision["tasks"][-1]
    lose = {
        "ansible.builtin.raw": ":",
        # its connection is a closed port from here on
        "vars": {"ansible_connection": "ssh", "ansible_port": 1, "ansible_host": "127.0.0.1"},
        "when": "inventory_hostname == 'one'",
    }
    begun = {"ansible.builtin.debug": {"msg": "work on {{ inventory_hostname }}"}}
    middle = {
        **{key: provision[key] for key in ("hosts", "gather_facts", "max_fail_percentage")},
        "serial": 2,
        "tasks": [begun, lose, check],
    }
    hosts = yaml.safe_load(inventory.read_text())["llm_servers"]["hosts"]
    del hosts["away"]
    hosts["three"] = hosts["two"]
    inventory.write_text(yaml.safe_dump({"llm_servers": {"hosts": hosts}}, sort_keys=False))
    whole = tmp_path / "whole.yml"
    whole.write_text(
        yaml.safe_dump([{"import_playbook": str(PLAYBOOKS / "plays/reach.yml")}, middle])
    )
    done = play(whole, inventory)
    assert done.returncode != 0, done.stdout
    assert "work on three" not in done.stdout
    assert "The connection to one broke while it was provisioned" in " ".join(done.stdout.split())


@pytest.mark.parametrize("playbook", ["site.yml", "upgrade.yml", "rollback.yml", "uninstall.yml"])
def test_every_playbook_begins_and_ends_with_them(playbook: str) -> None:
    def first(name: str) -> str:
        plays = yaml.safe_load((PLAYBOOKS / name).read_text())
        return str(plays[0].get("ansible.builtin.import_playbook", ""))

    def last(name: str) -> str:
        plays = yaml.safe_load((PLAYBOOKS / name).read_text())
        return str(plays[-1].get("ansible.builtin.import_playbook", ""))

    begin, end = first(playbook), last(playbook)
    while begin.count("/") == 0:
        begin = first(begin)
    while end.count("/") == 0:
        end = last(end)
    assert (begin, end) == ("plays/reach.yml", "plays/left_out.yml")
