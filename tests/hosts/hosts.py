#!/usr/bin/env python3
"""Boot real systemd hosts in systemd-nspawn and remove them: for Molecule, tests and the demo.

    hosts.py doctor                                  may hosts be booted here? (exit 3: no)
    hosts.py up NAME --suite forky --bind /d:/srv/d  boot one; a running one is left as it is
    hosts.py ssh NAME -- systemctl status            a command on it, as root
    hosts.py list --json                             what there is
    hosts.py inventory [NAME …]                      all are also in .cache/hosts/inventory.yml
    hosts.py down NAME                               remove one
    hosts.py down-all                                remove all of this checkout's

Needs root. Progress goes to stderr, answers to stdout. Exit status: 0 done, 1 failed, 2 wrong
arguments, 3 hosts cannot be booted on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.hosts.hostlib import doctor
from tests.hosts.hostlib.machine import Hosts
from tests.hosts.hostlib.names import HostError, parse_bind
from tests.hosts.hostlib.shell import say
from tests.hosts.hostlib.suites import SUITES

CHECKOUT = Path(__file__).resolve().parents[2]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    described = argparse.ArgumentParser(
        prog="hosts.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = described.add_subparsers(dest="command", required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="boot a host; a running one is left as it is")
    up.add_argument("name")
    up.add_argument("--suite", required=True, choices=SUITES)
    up.add_argument("--bind", action="append", default=[], metavar="HOSTDIR:GUESTDIR[:ro|:rw]")

    down = commands.add_parser("down", help="remove a host")
    down.add_argument("name")

    commands.add_parser("down-all", help="remove every host of this checkout")

    listing = commands.add_parser("list", help="show the hosts")
    listing.add_argument("--json", action="store_true")

    ssh = commands.add_parser("ssh", help="run a command on a host, as root")
    ssh.add_argument("name")
    ssh.add_argument("argv", nargs="*", metavar="-- CMD")

    show = commands.add_parser("inventory", help="print an Ansible inventory of the running hosts")
    show.add_argument("names", nargs="*", metavar="NAME", help="only these hosts")
    show.add_argument("--output", type=Path, help="write it there as well")

    commands.add_parser("doctor", help="say whether hosts can be booted here")
    return described


def run(arguments: argparse.Namespace, hosts: Hosts) -> int:
    """One command; returns the exit status."""
    match arguments.command:
        case "up":
            binds = [parse_bind(text) for text in arguments.bind]
            doctor.require(hosts.state)
            host = hosts.up(arguments.name, arguments.suite, binds)
            print(host.address)
        case "down":
            doctor.require_root()
            if not hosts.down(arguments.name):
                say(f"there was no host {arguments.name}")
        case "down-all":
            doctor.require_root()
            names = hosts.down_all()
            say(f"removed {', '.join(names)}" if names else "there was no host")
        case "list":
            entries = [{**asdict(host), "running": host.running()} for host in hosts.all()]
            if arguments.json:
                print(json.dumps(entries, indent=2))
            for entry in [] if arguments.json else entries:
                state = "running" if entry["running"] else "not running"
                print(f"{entry['name']}\t{entry['suite']}\t{entry['address']}\t{state}")
        case "ssh":
            argv = hosts.ssh_argv(hosts.running(arguments.name), arguments.argv)
            os.execvp(argv[0], argv)
        case "inventory":
            text = hosts.inventory(arguments.names)
            if arguments.output:
                arguments.output.write_text(text)
            print(text, end="")
        case "doctor":
            print(doctor.report(hosts.state))
    return 0


def main(argv: Sequence[str]) -> int:
    """Run the command line; an error is one sentence on stderr."""
    try:
        return run(parser().parse_args(argv), Hosts(CHECKOUT))
    except HostError as error:
        say(f"error: {error}")
        return error.status
    except KeyboardInterrupt:
        say("interrupted; `hosts.py down-all` removes what is half made")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
