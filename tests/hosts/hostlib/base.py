"""The control machine's packages, and one cached base root per Debian suite."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from .names import SUITES, HostError, base_key
from .shell import locked, output, run_long, say, succeeds

MIRROR = "http://deb.debian.org/debian"

TOOLS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "nft": "nftables",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "gpgv": "gpgv",
}
"""Program -> the Debian and Ubuntu package that has it."""

KEYRINGS = (
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
)
"""Debian's own keys, wherever the control machine's release keeps them. Ubuntu packages them too,
but its apt does not trust them by itself: mmdebstrap is told."""

PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "polkitd", "python3", "python3-apt", "sudo",
    "openssh-server", "iproute2", "ca-certificates", "procps", "curl", "less", "passwd", "adduser",
)  # fmt: skip
"""About what a bare cloud image has. python3-venv is left out on purpose: the roles bring it."""

RECIPE = "1"
"""Raise it when the way a base is built changes, so that older cached ones are not taken."""

KEEP_DAYS = 7
"""Another checkout, with other packages, may still boot hosts from a base that this one has not."""


def cache_dir() -> Path:
    """Where bases and downloads are kept: shared by every checkout of this person."""
    own = os.environ.get("ROUNDHOUSE_CACHE")
    if own:
        return Path(own)
    general = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(general) / "roundhouse"


def missing_packages() -> list[str]:
    """The apt packages that the control machine still needs, in a stable order."""
    missing = {package for tool, package in TOOLS.items() if shutil.which(tool) is None}
    if not any(Path(keyring).exists() for keyring in KEYRINGS):
        missing.add("debian-archive-keyring")
    return sorted(missing)


def install_missing_packages() -> None:
    """Install what is missing, if anything is; the package lists are fetched at most once."""
    if not missing_packages():
        return
    with locked(Path("/run/lock/roundhouse-apt.lock"), "installing packages"):
        missing = missing_packages()
        if not missing:
            return
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        say(f"this machine lacks {', '.join(missing)}; installing with apt-get")
        run_long("apt-get update", ["apt-get", "update"], env=env)
        argv = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
        run_long("apt-get install", argv, env=env)
    still = missing_packages()
    if still:
        raise HostError(f"apt-get installed everything, yet {', '.join(still)} is not there")


def apt_proxies() -> dict[str, str]:
    """The proxies of the control machine's apt, by scheme: the hosts stand behind the same ones."""
    found = {}
    for scheme in ("http", "https"):
        line = output(["apt-config", "dump", "--format", "%v%n", f"Acquire::{scheme}::Proxy"])
        value = line.strip() or os.environ.get(f"{scheme}_proxy", "")
        if value and value != "DIRECT":
            found[scheme] = value
    return found


def base_root(suite: str) -> Path:
    """The extracted base of a suite, built at the first call; read-only for everybody.

    A build happens in a directory beside it and is renamed when complete, so what has the final
    name is whole. Left-overs of killed builds are deleted under the same lock.
    """
    if suite not in SUITES:
        raise HostError(f"suite {suite!r} is not one of {', '.join(SUITES)}")
    bases = cache_dir() / "bases"
    target = bases / base_key(suite, PACKAGES, RECIPE)
    bases.mkdir(parents=True, exist_ok=True)
    _stamp(target).touch()
    if not target.is_dir() or superseded(suite, target):
        with locked(bases / f"{suite}.lock", f"building the base of {suite}"):
            if not target.is_dir():
                partial = bases / f"{target.name}.partial"
                if partial.exists():
                    shutil.rmtree(partial)
                _build(suite, partial)
                partial.rename(target)
            for old in superseded(suite, target):
                _remove(old)
    return target


def superseded(suite: str, target: Path) -> list[Path]:
    """The bases of a suite that stand beside ``target`` and that nobody has used for a while."""
    since = time.time() - KEEP_DAYS * 24 * 3600
    old = [
        base
        for base in sorted(target.parent.glob(f"{suite}-*"))
        if base.is_dir()
        and base.name.removesuffix(".partial") != target.name
        and (_stamp(base) if _stamp(base).exists() else base).stat().st_mtime < since
    ]
    # a host that runs for days has its base mounted all the time
    mounts = Path("/proc/self/mountinfo").read_text() if old else ""
    return [base for base in old if f"/{base.name}," not in mounts]


def _stamp(base: Path) -> Path:
    """A file that is touched whenever the base is used: beside it, for nothing in it may change."""
    return base.with_name(f".{base.name}.used")


def _remove(base: Path) -> None:
    # a removal that is broken off must not leave what looks like a whole base
    partial = base.with_name(f"{base.name.removesuffix('.partial')}.partial")
    base.rename(partial)
    shutil.rmtree(partial)
    _stamp(base).unlink(missing_ok=True)
    _stamp(partial).unlink(missing_ok=True)


def _build(suite: str, directory: Path) -> None:
    keyring = next((path for path in KEYRINGS if Path(path).exists()), KEYRINGS[0])
    argv = [
        "mmdebstrap",
        "--mode=root",
        "--variant=apt",
        "--format=directory",
        f"--include={','.join(PACKAGES)}",
        f"--keyring={keyring}",
        # forky's Release file can be past its date on a mirror.
        '--aptopt=Acquire::Check-Valid-Until "false"',
        '--aptopt=APT::Install-Recommends "false"',
    ]
    for scheme, proxy in apt_proxies().items():
        argv.append(f'--aptopt=Acquire::{scheme}::Proxy "{proxy}"')
    argv += [suite, str(directory), f"deb {MIRROR} {suite} main"]
    say(f"the base root of Debian {suite} is built once and kept in {directory.parent}")
    run_long(f"building the base root of {suite}", argv)
    if not succeeds(["test", "-x", str(directory / "usr/sbin/sshd")]):
        raise HostError(f"the base root of {suite} has no sshd")
