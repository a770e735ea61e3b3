"""Names, addresses and texts of the test hosts: pure functions, tested without root.

Everything that outlives a process on the control machine (bridge, network namespaces, nft table) is
named after the checkout, so that two checkouts on one machine never touch each other's hosts.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .suites import SUITES

FIRST_INDEX = 10
"""The last octet of the first host's address; the bridge itself is .1."""

LAST_INDEX = 250

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}[a-z0-9]|[a-z]")


class HostError(Exception):
    """Something a person can act on; the text is one sentence, the exit status comes with it."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Bind:
    """A directory of the control machine seen inside a host, read-only unless `writable`."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True)
class Names:
    """What one checkout calls its things on the control machine.

    Interface names may have 15 characters, hence the short tag.
    """

    tag: str

    @property
    def bridge(self) -> str:
        return f"rh-{self.tag}"

    @property
    def table(self) -> str:
        return f"rh_{self.tag}"

    def namespace(self, host: str) -> str:
        return f"rh-{self.tag}-{host}"

    @property
    def veth_prefix(self) -> str:
        return f"rh-{self.tag}-"

    def veth(self, index: int) -> str:
        return f"{self.veth_prefix}{index}"

    def mac(self, index: int) -> str:
        """The same for every host that gets this address: neighbours need not learn it anew."""
        digits = f"02{self.tag}00{index:02x}"
        return ":".join(digits[at : at + 2] for at in range(0, 12, 2))


def names_for(checkout: Path) -> Names:
    """The names of the checkout at this path."""
    return Names(hashlib.sha256(str(checkout.resolve()).encode()).hexdigest()[:6])


def check_name(name: str) -> str:
    """The host name itself, if it may be one: it becomes a hostname, a path and a namespace."""
    if not _NAME.fullmatch(name):
        raise HostError(
            f"host name {name!r} is not usable; take lower-case letters, digits and hyphens,"
            " beginning with a letter, 32 characters at most"
        )
    return name


def parse_bind(text: str) -> Bind:
    """Read `HOSTDIR:GUESTDIR[:ro|:rw]`; both paths are absolute and free of colons."""
    parts = text.split(":")
    if len(parts) == 2:
        parts.append("ro")
    if len(parts) != 3 or parts[2] not in ("ro", "rw"):
        raise HostError(f"bind {text!r} is not HOSTDIR:GUESTDIR[:ro|:rw]")
    source, target, mode = parts
    if not source.startswith("/") or not target.startswith("/") or target == "/":
        raise HostError(f"bind {text!r} needs two absolute paths, and a guest path other than /")
    return Bind(source.rstrip("/") or "/", target.rstrip("/"), mode == "rw")


def choose_subnet(
    tag: str, taken: Iterable[ipaddress.IPv4Network], avoid: Iterable[ipaddress.IPv4Address]
) -> ipaddress.IPv4Network:
    """A /24 inside 10.64.0.0/10 that overlaps no route and holds no address to `avoid`.

    Where the search begins depends on the tag alone, so a checkout usually keeps its subnet.
    """
    pool = list(ipaddress.IPv4Network("10.64.0.0/10").subnets(new_prefix=24))
    # A default route overlaps everything and blocks nothing.
    routes = [network for network in taken if network.prefixlen > 0]
    addresses = list(avoid)
    start = int(tag, 16) % len(pool)
    for subnet in pool[start:] + pool[:start]:
        if any(subnet.overlaps(route) for route in routes):
            continue
        if any(address in subnet for address in addresses):
            continue
        return subnet
    raise HostError("no free /24 is left in 10.64.0.0/10: every one overlaps a route that is there")


def free_index(used: Iterable[int]) -> int:
    """The lowest host index that nobody has."""
    occupied = set(used)
    for index in range(FIRST_INDEX, LAST_INDEX + 1):
        if index not in occupied:
            return index
    raise HostError("the checkout's subnet is full; take hosts down first")


def usable_nameservers(resolv_conf: str) -> list[str]:
    """The IPv4 nameservers of a resolv.conf that a host behind a bridge can reach.

    A resolver on loopback (systemd-resolved, dnsmasq) answers on the control machine only.
    """
    found = []
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = ipaddress.ip_address(words[1])
        except ValueError:
            continue
        if address.version == 4 and not address.is_loopback:
            found.append(words[1])
    return found


def split_certificates(bundle: str) -> list[str]:
    """The PEM certificates of a bundle, each with its BEGIN and END line and a final newline."""
    pattern = r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----"
    return [match + "\n" for match in re.findall(pattern, bundle, re.DOTALL)]


def base_key(suite: str, packages: Sequence[str], recipe: str) -> str:
    """The cache's name of a base root: the same suite, packages and recipe give the same one."""
    text = "\n".join([suite, recipe, *sorted(packages)])
    return f"{suite}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Running:
    """What the inventory says of one host."""

    name: str
    suite: str
    address: str


SSH_OPTIONS = (
    "-o", "IdentitiesOnly=yes",
    "-o", "StrictHostKeyChecking=no",
    "-o", "UserKnownHostsFile=/dev/null",
    "-o", "LogLevel=ERROR",
)  # fmt: skip
"""Hosts live for minutes on a private bridge and share names and addresses over time: no host key
is remembered."""


def inventory(hosts: Iterable[Running], key: Path) -> str:
    """An Ansible YAML inventory: all hosts in `llm_servers`, and in a group for each suite."""

    def quote(text: str) -> str:
        return json.dumps(text)

    ordered = sorted(hosts, key=lambda host: host.name)
    lines = [
        "---",
        "# Written by tests/hosts/hosts.py: the running test hosts of this checkout.",
        "all:",
        "  vars:",
        "    ansible_user: root",
        f"    ansible_ssh_private_key_file: {quote(str(key))}",
        f"    ansible_ssh_common_args: {quote(' '.join(SSH_OPTIONS))}",
        "    ansible_python_interpreter: /usr/bin/python3",
        "    ansible_pipelining: true",
        "  children:",
        "    llm_servers:",
    ]
    if not ordered:
        return "\n".join([*lines, "      hosts: {}", ""])
    lines.append("      hosts:")
    for host in ordered:
        lines += [f"        {host.name}:", f"          ansible_host: {host.address}"]
    for suite in SUITES:
        members = [host.name for host in ordered if host.suite == suite]
        if members:
            lines += [f"    {suite}:", "      hosts:"]
            lines += [f"        {member}: {{}}" for member in members]
    return "\n".join([*lines, ""])
