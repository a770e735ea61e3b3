"""The control machine's packages, and one cached base root per suite."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path
from urllib.request import urlopen

from .names import HostError, base_key
from .shell import locked, output, run_long, say, succeeds
from .suites import DEBIAN, SUITES, Archive, packages

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
    if not any(Path(keyring).exists() for keyring in DEBIAN.keyrings):
        missing.add(DEBIAN.keyring_package)
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
    target = bases / base_key(suite, packages(suite), RECIPE)
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
    archive = SUITES[suite]
    argv = [
        "mmdebstrap",
        "--mode=root",
        "--variant=apt",
        "--format=directory",
        f"--include={','.join(packages(suite))}",
        f"--keyring={_keyring(archive)}",
        # forky's Release file can be past its date on a mirror.
        '--aptopt=Acquire::Check-Valid-Until "false"',
        '--aptopt=APT::Install-Recommends "false"',
    ]
    for scheme, proxy in apt_proxies().items():
        argv.append(f'--aptopt=Acquire::{scheme}::Proxy "{proxy}"')
    argv += [suite, str(directory), *archive.sources(suite)]
    say(f"the base root of {archive.distribution} {suite} is built once, in {directory.parent}")
    run_long(f"building the base root of {suite}", argv)
    if not succeeds(["test", "-x", str(directory / "usr/sbin/sshd")]):
        raise HostError(f"the base root of {suite} has no sshd")


def _keyring(archive: Archive) -> Path:
    """The archive's keys. Ubuntu packages Debian's too, but its apt does not trust them by itself.

    Keys that the control machine has no package of are fetched once and kept.
    """
    there = next((Path(path) for path in archive.keyrings if Path(path).exists()), None)
    if there or not archive.keyring_sum:
        return there or Path(archive.keyrings[0])
    kept = cache_dir() / "keyrings" / archive.keyring_sum[:12]
    keyring = kept / archive.keyrings[0].lstrip("/")
    if not keyring.exists():
        url = f"{archive.mirror}/{archive.keyring_package}"
        try:
            with urlopen(url, timeout=60) as answer:
                fetched = answer.read()
        except OSError as error:
            raise HostError(f"{url} could not be fetched: {error}") from error
        found = hashlib.sha256(fetched).hexdigest()
        if found != archive.keyring_sum:
            raise HostError(f"{url} has the sha256 {found}, and not {archive.keyring_sum}")
        kept.parent.mkdir(exist_ok=True)
        package = kept.with_suffix(".deb")
        package.write_bytes(fetched)
        output(["dpkg-deb", "--extract", str(package), str(kept)])
    return keyring
