"""Say who listens where the router will: ``port_holder.py HOST PORT UNIT``.

Prints one line for a person, or nothing where the port is free or UNIT has it. It runs on the host,
with the Python that Ansible uses there, before anything is installed; it changes nothing.
"""

import errno
import os
import re
import socket
import sys
from contextlib import suppress
from pathlib import Path

LISTENS = "0A"


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


def description(pids: "list[int]", unit: str) -> str:
    """Who has the port and how to stop that; empty where ``unit`` has it."""
    if not pids:
        return "a process that cannot be seen from here has it (a container, for example); stop it"
    units = {unit_of(pid) for pid in pids}
    if unit in units:
        return ""
    other = next(iter(sorted(units - {""})), "")
    if other:
        return f"{other} has it; stop it with `systemctl disable --now {other}`"
    name = ""
    with suppress(OSError):
        name = Path(f"/proc/{pids[0]}/comm").read_text().strip()
    return f"process {pids[0]} ({name}) has it; stop it"


def main() -> None:
    host, port, unit = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if is_taken(host, port):
        said = description(holders(port), unit)
        if said:
            sys.stdout.write(f"{said}\n")


if __name__ == "__main__":
    main()
