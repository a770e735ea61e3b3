"""The checkout's network: one bridge, one masquerade rule, a namespace and a veth pair per host.

Forwarding is switched on per interface, never for the whole machine, and what was switched on at
the uplink is switched off again when the last host goes.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import signal
import time
from pathlib import Path

from .names import Names, choose_subnet, usable_nameservers
from .shell import output, succeeds

BRIDGE_PREFIX = "rh-"


def nameservers() -> list[str]:
    """Resolvers that hosts can use; those behind systemd-resolved where it is in between."""
    for path in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        with contextlib.suppress(OSError):
            servers = usable_nameservers(Path(path).read_text())
            if servers:
                return servers
    return []


def bridge_subnet(names: Names) -> ipaddress.IPv4Network | None:
    """The subnet that the checkout's bridge has now, or None while there is no bridge."""
    if not _exists(names.bridge):
        return None
    for link in json.loads(output(["ip", "-j", "-4", "addr", "show", "dev", names.bridge])):
        for address in link.get("addr_info", []):
            return ipaddress.IPv4Interface(f"{address['local']}/{address['prefixlen']}").network
    return None


def ensure_bridge(names: Names, state: Path) -> ipaddress.IPv4Network:
    """Bridge, masquerading and forwarding, whatever of it was there before; returns the subnet."""
    uplink, mtu = _uplink()
    subnet = bridge_subnet(names)
    if subnet is None:
        subnet = choose_subnet(names.tag, _routes(), map(ipaddress.IPv4Address, nameservers()))
        if not _exists(names.bridge):
            output(["ip", "link", "add", names.bridge, "type", "bridge"])
        output(["ip", "addr", "replace", f"{subnet[1]}/{subnet.prefixlen}", "dev", names.bridge])
    output(["ip", "link", "set", names.bridge, "mtu", str(mtu), "up"])
    _forwarding(names.bridge).write_text("1\n")
    if uplink and _forwarding(uplink).read_text().strip() == "0":
        (state / "uplink").write_text(uplink)
        _forwarding(uplink).write_text("1\n")
    rules = f"""
        table ip {names.table}
        delete table ip {names.table}
        table ip {names.table} {{
          chain postrouting {{
            type nat hook postrouting priority srcnat; policy accept;
            ip saddr {subnet} ip daddr != {subnet} masquerade
          }}
        }}
    """
    output(["nft", "-f", "-"], stdin=rules)
    _firewall(names, admit=True)
    return subnet


def remove_bridge(names: Names, state: Path) -> None:
    """Undo `ensure_bridge`; what is gone already is fine."""
    _firewall(names, admit=False)
    if shutil.which("nft"):
        succeeds(["nft", "delete", "table", "ip", names.table])
    if _exists(names.bridge):
        output(["ip", "link", "del", names.bridge])
    record = state / "uplink"
    if record.exists():
        uplink = record.read_text().strip()
        # Another checkout's hosts may need it still; then it stays on with theirs.
        if not _other_bridges(names) and _forwarding(uplink).exists():
            _forwarding(uplink).write_text("0\n")
        record.unlink()
    # `ip netns add` has bound this directory onto itself; where it is empty, nobody misses that.
    run = Path("/run/netns")
    if run.is_dir() and not any(run.iterdir()) and succeeds(["umount", str(run)]):
        with contextlib.suppress(OSError):
            run.rmdir()


def connect(names: Names, host: str, index: int, subnet: ipaddress.IPv4Network) -> None:
    """Give a host its namespace with an eth0 in it; a left-over of the same host goes first."""
    namespace, veth = names.namespace(host), names.veth(index)
    disconnect(names, host, index)
    mtu = str(_uplink()[1])
    output(["ip", "netns", "add", namespace])
    output(
        ["ip", "link", "add", veth, "mtu", mtu, "type", "veth",
         "peer", "name", "eth0", "mtu", mtu, "address", names.mac(index), "netns", namespace]
    )  # fmt: skip
    output(["ip", "link", "set", veth, "master", names.bridge, "up"])
    inside = ["ip", "-n", namespace]
    output([*inside, "link", "set", "lo", "up"])
    output([*inside, "link", "set", "eth0", "up"])
    output([*inside, "addr", "add", f"{subnet[index]}/{subnet.prefixlen}", "dev", "eth0"])
    output([*inside, "route", "add", "default", "via", str(subnet[1])])


def disconnect(names: Names, host: str, index: int | None) -> None:
    """Remove a host's namespace and veth; processes that are still in there end first."""
    namespace = names.namespace(host)
    if namespace in namespaces():
        _kill_inside(namespace)
        output(["ip", "netns", "del", namespace])
    if index is not None and _exists(names.veth(index)):
        # It goes with the namespace, but a moment later.
        succeeds(["ip", "link", "del", names.veth(index)])


def used_indexes(names: Names) -> list[int]:
    """The indexes whose veth is there, also those of hosts that have lost their record."""
    prefix = names.veth_prefix
    found = [path.name for path in Path("/sys/class/net").glob(f"{prefix}*")]
    return [int(name.removeprefix(prefix)) for name in found]


def namespaces() -> list[str]:
    """The network namespaces that `ip netns` knows."""
    text = output(["ip", "-j", "netns", "list"]).strip()
    return [entry["name"] for entry in json.loads(text or "[]")]


def _kill_inside(namespace: str) -> None:
    """By namespace, not by pid file: this also finds what a crashed run left behind."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        pids = [int(word) for word in output(["ip", "netns", "pids", namespace]).split()]
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _exists(interface: str) -> bool:
    return Path("/sys/class/net", interface).exists()


def _forwarding(interface: str) -> Path:
    return Path("/proc/sys/net/ipv4/conf", interface, "forwarding")


def _routes() -> list[ipaddress.IPv4Network]:
    found = []
    for route in json.loads(output(["ip", "-j", "-4", "route", "show", "table", "all"]) or "[]"):
        with contextlib.suppress(ValueError):
            found.append(ipaddress.IPv4Network(route.get("dst", "")))
    return found


def _uplink() -> tuple[str | None, int]:
    """The interface of the default route and its MTU: larger packets would not get through."""
    for route in json.loads(output(["ip", "-j", "-4", "route", "show", "default"]) or "[]"):
        device = str(route["dev"])
        return device, int(Path("/sys/class/net", device, "mtu").read_text())
    return None, 1500


def _other_bridges(names: Names) -> list[str]:
    found = [path.parent.name for path in Path("/sys/class/net").glob(f"{BRIDGE_PREFIX}*/bridge")]
    return [name for name in found if name != names.bridge]


def _firewall(names: Names, *, admit: bool) -> None:
    """Let the bridge through a FORWARD chain that drops by default, as Docker sets it up.

    An accept in a table of our own would not do: every table's drop is final. Where nothing drops,
    nothing is added.
    """
    if shutil.which("iptables") is None:
        return
    if admit and "-P FORWARD DROP" not in output(["iptables", "-w", "-S", "FORWARD"]):
        return
    for direction in ("-i", "-o"):
        rule = ["FORWARD", direction, names.bridge, "-j", "ACCEPT"]
        if succeeds(["iptables", "-w", "-C", *rule]) != admit:
            output(["iptables", "-w", "-I" if admit else "-D", *rule])
