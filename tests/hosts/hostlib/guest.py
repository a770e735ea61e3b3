"""What makes a clone of a base root this host: files written into it before it boots."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from . import network
from .base import apt_proxies
from .names import split_certificates
from .shell import say

NOT_IN_A_CONTAINER = ("dev-hugepages.mount", "sys-fs-fuse-connections.mount")
"""Units that only the machine itself can start: masked, so that a good boot ends in "running"."""

CA_BUNDLE = "etc/ssl/certs/ca-certificates.crt"


def personalise(root: Path, name: str, address: str, public_key: str) -> None:
    """Name, identity, resolvers, certificates, download settings and the SSH key of a host."""
    etc = root / "etc"
    (etc / "hostname").write_text(f"{name}\n")
    (etc / "hosts").write_text(
        f"127.0.0.1 localhost\n{address} {name}\n::1 localhost ip6-localhost\n"
    )
    # A machine id that is set keeps systemd from applying presets as on a first boot.
    (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
    for unit in NOT_IN_A_CONTAINER:
        (etc / "systemd/system" / unit).symlink_to("/dev/null")
    _resolvers(etc / "resolv.conf")
    ssh = root / "root" / ".ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)
    authorized = ssh / "authorized_keys"
    authorized.write_text(public_key)
    authorized.chmod(0o600)
    _certificates(root)
    _downloads(root)


def _resolvers(path: Path) -> None:
    servers = network.nameservers()
    if not servers:
        say("names will not resolve in the host: this machine's resolvers are on loopback")
    path.unlink(missing_ok=True)
    path.write_text("".join(f"nameserver {server}\n" for server in servers))


def _certificates(root: Path) -> None:
    """Let the host trust what the control machine trusts: it may sit behind a TLS proxy.

    Appended to the bundle for now, and put where update-ca-certificates finds them for the next
    time that a package runs it.
    """
    source = Path(os.environ.get("SSL_CERT_FILE", f"/{CA_BUNDLE}"))
    bundle = root / CA_BUNDLE
    if not source.exists() or not bundle.exists():
        return
    known = set(split_certificates(bundle.read_text()))
    extra = [c for c in split_certificates(source.read_text(errors="replace")) if c not in known]
    if not extra:
        return
    local = root / "usr/local/share/ca-certificates"
    local.mkdir(parents=True, exist_ok=True)
    for number, certificate in enumerate(extra):
        (local / f"control-{number:03}.crt").write_text(certificate)
    with bundle.open("a") as handle:
        handle.write("".join(extra))


def _downloads(root: Path) -> None:
    """pip, apt and the environment: the control machine's proxies and index, the same CA bundle."""
    pip = [f"cert = /{CA_BUNDLE}", "disable-pip-version-check = true"]
    if index := os.environ.get("PIP_INDEX_URL"):
        pip.append(f"index-url = {index}")
    (root / "etc/pip.conf").write_text("\n".join(["[global]", *pip, ""]))
    environment = {"SSL_CERT_FILE": f"/{CA_BUNDLE}"}
    for variable in ("http_proxy", "https_proxy", "no_proxy"):
        environment[variable] = os.environ.get(variable) or os.environ.get(variable.upper(), "")
    pairs = [f"{variable}={value}\n" for variable, value in environment.items() if value]
    (root / "etc/environment").write_text("".join(pairs))
    lines = [f'Acquire::{scheme}::Proxy "{url}";\n' for scheme, url in apt_proxies().items()]
    (root / "etc/apt/apt.conf.d/90control-machine").write_text("".join(lines))
    # Empty package lists that are as young as the base root would pass for fresh ones.
    os.utime(root / "var/lib/apt/lists", (0, 0))
