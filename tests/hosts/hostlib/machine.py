"""The life of a host: overlay over a base root, boot, readiness, complete removal.

A host's directory (`.cache/hosts/NAME/` in the checkout) holds all that is known of it:

    host.json   the record below, written before anything that has to be cleaned up is made
    upper, work, root   the overlay; `root` is the mount point and the host's /
    console.log what the host's systemd said

The state is what the kernel says (pid with its start time, mounts, namespaces); the record only
tells where to look. So every step can be repeated, and a crashed run is cleaned by the same `down`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from . import guest, network, process
from .base import base_root, cache_dir, install_missing_packages
from .names import (
    SSH_OPTIONS,
    Bind,
    HostError,
    Names,
    Running,
    check_name,
    free_index,
    inventory,
    names_for,
)
from .shell import locked, output, say, succeeds, wait_until

BOOT_SECONDS = 120.0
"""From the start of systemd-nspawn to a finished boot; 2 s are usual on an idle machine."""


@dataclass(frozen=True)
class Host:
    """A host's record. `pid` and `started` are 0 until systemd-nspawn runs."""

    name: str
    suite: str
    index: int
    address: str
    binds: tuple[Bind, ...]
    pid: int = 0
    started: int = 0

    def running(self) -> bool:
        """Whether its systemd-nspawn is alive; a reused pid has another start time."""
        return self.pid != 0 and process.start_time(self.pid) == self.started


class Hosts:
    """The test hosts of one checkout."""

    def __init__(self, checkout: Path) -> None:
        self.names: Names = names_for(checkout)
        self.state = checkout / ".cache" / "hosts"
        self.key = self.state / "ssh_key"
        self.inventory_file = self.state / "inventory.yml"

    # What there is

    def all(self) -> list[Host]:
        """Every host with a record, running or not, by name."""
        return [self._read(path.parent.name) for path in sorted(self.state.glob("*/host.json"))]

    def find(self, name: str) -> Host | None:
        """The host of this name, if there is a record of it."""
        check_name(name)
        return self._read(name) if (self.state / name / "host.json").exists() else None

    def running(self, name: str) -> Host:
        """The running host of this name; HostError if there is none."""
        host = self.find(name)
        if host is None or not host.running():
            raise HostError(f"no host {name!r} is running; `hosts.py up {name} --suite …` boots it")
        return host

    def inventory(self, names: Sequence[str] = ()) -> str:
        """An Ansible inventory of the named hosts, which must be running, or of all that run."""
        hosts = [self.running(name) for name in names] or [h for h in self.all() if h.running()]
        return inventory([Running(h.name, h.suite, h.address) for h in hosts], self.key)

    def ssh_argv(self, host: Host, command: Sequence[str]) -> list[str]:
        """The ssh command line that runs a command on a host, as root."""
        options = ["-i", str(self.key), *SSH_OPTIONS, "-o", "ConnectTimeout=3"]
        return ["ssh", *options, f"root@{host.address}", *command]

    # Changing it

    def up(self, name: str, suite: str, binds: Sequence[Bind]) -> Host:
        """Boot a host and return when it has finished booting; a running one is left as it is.

        Raises HostError if a host of this name runs with another suite or other binds: it may be in
        use, so taking it down is the caller's decision.
        """
        check_name(name)
        with locked(self.state / ".locks" / name, f"booting {name}"):
            host = self.find(name)
            if host is not None and host.running():
                if (host.suite, host.binds) != (suite, tuple(binds)):
                    raise HostError(
                        f"host {name} runs already with another suite or other binds;"
                        f" take it down first: hosts.py down {name}"
                    )
                if _answers(host.address):
                    return host
                say(f"{name} runs, but its sshd does not answer: booting it anew")
            return self._create(name, suite, tuple(binds))

    def down(self, name: str) -> bool:
        """Remove a host completely; False if there was nothing of it."""
        check_name(name)
        with self._lock():
            there = self._clean(name)
            self._leave_network()
            self._write_inventory()
        return there

    def down_all(self) -> list[str]:
        """Remove every host of the checkout, also what has lost its record; returns the names."""
        with self._lock():
            prefix = self.names.namespace("")
            found = {path.parent.name for path in self.state.glob("*/root")}
            if shutil.which("ip"):
                found |= {
                    namespace.removeprefix(prefix)
                    for namespace in network.namespaces()
                    if namespace.startswith(prefix)
                }
            for name in sorted(found):
                self._clean(name)
            self._leave_network()
            self.inventory_file.unlink(missing_ok=True)
        return sorted(found)

    # The steps

    def _create(self, name: str, suite: str, binds: tuple[Bind, ...]) -> Host:
        install_missing_packages()
        for bind in binds:
            if not Path(bind.source).exists():
                raise HostError(f"{bind.source} is not there, so it cannot be bound into {name}")
        base = base_root(suite)
        with self._lock():
            self._clean(name)
            host = self._prepare(name, suite, binds, base)
            began = time.monotonic()
            host = self._boot(host)
        try:
            self._wait(host)
        except HostError:
            say(f"{name} did not come up; the end of its console log:")
            log = (self.state / name / "console.log").read_text(errors="replace")
            for line in log.splitlines()[-20:]:
                say(f"  | {line}")
            self.down(name)
            raise
        say(f"{name}: {suite} at {host.address}, ready in {time.monotonic() - began:.1f} s")
        with self._lock():
            self._write_inventory()
        return host

    def _lock(self) -> contextlib.AbstractContextManager[None]:
        return locked(self.state / ".locks" / ".all", "this checkout's test hosts")

    def _read(self, name: str) -> Host:
        data = json.loads((self.state / name / "host.json").read_text())
        binds = tuple(Bind(**bind) for bind in data.pop("binds"))
        return Host(binds=binds, **data)

    def _record(self, host: Host) -> None:
        path = self.state / host.name / "host.json"
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(host), indent=2) + "\n")
        temporary.replace(path)

    def _write_inventory(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        temporary = self.inventory_file.with_suffix(f".{os.getpid()}")
        temporary.write_text(self.inventory())
        temporary.replace(self.inventory_file)

    def _ensure_key(self) -> None:
        if self.key.exists() and self.key.with_suffix(".pub").exists():
            return
        self.key.unlink(missing_ok=True)
        output(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "roundhouse-test-hosts",
             "-f", str(self.key)]
        )  # fmt: skip

    def _prepare(self, name: str, suite: str, binds: tuple[Bind, ...], base: Path) -> Host:
        self._ensure_key()
        subnet = network.ensure_bridge(self.names, self.state)
        index = free_index(
            [*network.used_indexes(self.names), *(host.index for host in self.all())]
        )
        directory = self.state / name
        directory.mkdir(parents=True, exist_ok=True)
        host = Host(name, suite, index, str(subnet[index]), binds)
        self._record(host)
        self._mount(directory, base)
        public_key = self.key.with_suffix(".pub").read_text()
        guest.personalise(directory / "root", name, host.address, public_key)
        network.connect(self.names, name, index, subnet)
        return host

    def _mount(self, directory: Path, base: Path) -> None:
        if not self._mount_overlay(directory, base):
            # An overlay cannot be the upper layer of another, as in a checkout inside a container.
            output(["mount", "-t", "tmpfs", "-o", "mode=0755", "roundhouse", str(directory)])
            if not self._mount_overlay(directory, base):
                raise HostError("this kernel mounts no overlay over the cached base root")

    def _mount_overlay(self, directory: Path, base: Path) -> bool:
        for part in ("upper", "work", "root"):
            (directory / part).mkdir(exist_ok=True)
        layers = f"lowerdir={base},upperdir={directory}/upper,workdir={directory}/work"
        root = str(directory / "root")
        return succeeds(["mount", "-t", "overlay", "-o", layers, "roundhouse", root])

    def _boot(self, host: Host) -> Host:
        directory = self.state / host.name
        pip_cache = cache_dir() / "pip"
        pip_cache.mkdir(parents=True, exist_ok=True)
        binds = [*host.binds, Bind(str(pip_cache), "/root/.cache/pip", writable=True)]
        argv = [
            "systemd-nspawn",
            "--quiet",
            "--boot",
            "--register=no",
            "--keep-unit",
            f"--machine={self.names.namespace(host.name)}",
            f"--hostname={host.name}",
            f"--directory={directory}/root",
            f"--network-namespace-path=/run/netns/{self.names.namespace(host.name)}",
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
            *(f"--bind{'' if b.writable else '-ro'}={b.source}:{b.target}" for b in binds),
        ]
        pid = process.start(argv, self.names.namespace(host.name), directory / "console.log")
        host = replace(host, pid=pid, started=process.start_time(pid))
        self._record(host)
        return host

    def _wait(self, host: Host) -> None:
        def alive() -> None:
            if not host.running():
                raise HostError(f"systemd-nspawn of {host.name} has ended")

        def answers() -> bool:
            alive()
            return _answers(host.address)

        def booted() -> bool:
            alive()
            # `--wait` ends when the boot has; it says "running" or "degraded" then.
            argv = self.ssh_argv(host, ["systemctl", "is-system-running", "--wait"])
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
            state = done.stdout.strip()
            if state == "degraded":
                failed = self.ssh_argv(host, ["systemctl", "--failed", "--plain", "--no-legend"])
                say(f"{host.name} is up, with failed units: {output(failed).strip()}")
            return state in ("running", "degraded")

        what = f"{host.name} is booting"
        wait_until(what, answers, seconds=BOOT_SECONDS, pause=0.1)
        wait_until(what, booted, seconds=BOOT_SECONDS, pause=0.3)

    def _clean(self, name: str) -> bool:
        directory = self.state / name
        host = self.find(name)
        there = directory.exists()
        process.end_all(self.names.namespace(name))
        if shutil.which("ip"):
            there = there or self.names.namespace(name) in network.namespaces()
            network.disconnect(self.names, name, host.index if host is not None else None)
        self._forget_nspawn(name, directory / "root")
        _unmount_below(directory)
        if directory.exists():
            shutil.rmtree(directory)
        return there

    def _forget_nspawn(self, name: str, root: Path) -> None:
        """What systemd-nspawn keeps in /run while it lives: a killed one cannot remove it."""
        runtime = Path("/run/systemd/nspawn")
        with contextlib.suppress(OSError):
            (runtime / "propagate" / self.names.namespace(name)).rmdir()
        with contextlib.suppress(OSError):
            found = root.stat()
            (runtime / "locks" / f"inode-{found.st_dev}:{found.st_ino}").unlink()

    def _leave_network(self) -> None:
        if shutil.which("ip") and not any(self.state.glob("*/host.json")):
            network.remove_bridge(self.names, self.state)


def _answers(address: str) -> bool:
    """Whether sshd greets at the address."""
    try:
        with socket.create_connection((address, 22), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _unmount_below(directory: Path) -> None:
    """Unmount everything at or below a directory, the innermost first."""
    prefix = str(directory)
    points = [
        line.split()[4].encode().decode("unicode_escape")
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
    ]
    for point in reversed(points):
        below = point == prefix or point.startswith(prefix + "/")
        if below and not succeeds(["umount", point]):
            output(["umount", "--lazy", point])
