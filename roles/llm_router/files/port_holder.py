"""Say who listens where a program of ours will.

    port_holder.py HOST PORT UNIT     one line for a person, or nothing: the port is free or UNIT's
    port_holder.py PLAN [MODELS_YML]  the same for each port of a plan, one line each

PLAN is JSON: a list of {"what", "host", "port", "units"}; ``what`` is to listen there, as one of
``units``. Units that MODELS_YML names may have the ports too: the router stops or keeps them.
It runs on the host, with the Python that Ansible uses there, before anything is installed; it
changes nothing.
"""

import errno
import json
import os
import re
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

LISTENS = "0A"
CONTAINERS = ("docker.service", "containerd.service", "podman.service")
"""Units whose processes listen for what runs in a container."""


def is_taken(host: str, port: int) -> bool:
    """Whether the router could not listen there. An address that is not there yet is not taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def sockets_on(port: int) -> "set[str]":
    """The inodes of the sockets that listen on ``port``, whatever their address."""
    found = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(f"socket:[{fields[9]}]")
    return found


def holders(port: int) -> "list[int]":
    """The processes that have these sockets open."""
    wanted, found = sockets_on(port), []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with suppress(OSError):
            for each in (process / "fd").iterdir():
                with suppress(OSError):
                    if os.readlink(each) in wanted:  # noqa: PTH115 - Path.readlink is of 3.9
                        found.append(int(process.name))
                        break
    return sorted(found)


def unit_of(pid: int) -> str:
    """The systemd unit that ``pid`` belongs to; empty where it is none's."""
    with suppress(OSError):
        group = Path(f"/proc/{pid}/cgroup").read_text()
        units = re.findall(r"/([^/\n]+\.service)(?:/|$)", group, re.MULTILINE)
        # a login session's own service says nothing of what runs in it
        return "" if not units or units[-1].startswith("user@") else units[-1]
    return ""


def is_container(pid: int) -> bool:
    """Whether ``pid`` runs in a container, or listens for one."""
    with suppress(OSError):
        group = Path(f"/proc/{pid}/cgroup").read_text()
        return unit_of(pid) in CONTAINERS or re.search(r"/(docker|libpod)-", group) is not None
    return False


def is_active(units: "list[str]") -> bool:
    """Whether systemd runs one of them."""
    if not units:
        return False
    command = ["systemctl", "is-active", "--quiet", "--", *units]
    with suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(command, check=False, timeout=10).returncode == 0
    return False


def description(pids: "list[int]", *own: str) -> str:
    """Who has the port and how to stop that; empty where a unit of ``own`` has it."""
    if not pids:
        return "a process that cannot be seen from here has it (a container, for example); stop it"
    units = {unit_of(pid) for pid in pids}
    if units & set(own):
        return ""
    other = next(iter(sorted(units - {""})), "")
    if other:
        return f"{other} has it; stop it with `systemctl disable --now {other}`"
    name = ""
    with suppress(OSError):
        name = Path(f"/proc/{pids[0]}/comm").read_text().strip()
    return f"process {pids[0]} ({name}) has it; stop it"


def known_units(path: str) -> "list[str]":
    """The units that a models.yml names; none where it is missing."""
    with suppress(OSError):
        return re.findall(r"[\w@.:\\-]+\.service", Path(path).read_text(errors="replace"))
    return []


def of_plan(plan: "list[dict[str, object]]", known: "list[str]") -> "list[str]":
    """A line for each port that something else has."""
    lines = []
    for entry in plan:
        host, port, units = str(entry["host"]), int(str(entry["port"])), entry["units"]
        own = [str(unit) for unit in units] if isinstance(units, list) else []
        if not is_taken(host, port):
            continue
        pids = holders(port)
        if any(map(is_container, pids)) and is_active(own):
            continue  # the unit's own container, whose processes are in no unit
        said = description(pids, *own, *known)
        if said:
            lines.append(f"port {port} of {host}, {entry['what']}: {said}")
    return lines


def main() -> None:
    if sys.argv[1].startswith("["):
        known = known_units(sys.argv[2]) if len(sys.argv) > 2 else []
        sys.stdout.writelines(f"{line}\n" for line in of_plan(json.loads(sys.argv[1]), known))
        return
    host, port, unit = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if is_taken(host, port):
        said = description(holders(port), unit)
        if said:
            sys.stdout.write(f"{said}\n")


if __name__ == "__main__":
    main()
