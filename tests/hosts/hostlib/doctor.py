"""May hosts be booted on this machine? Found out by trying, in namespaces that end with the try."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from .base import missing_packages
from .names import HostError
from .process import hierarchy
from .shell import succeeds

CANNOT = 3
"""The exit status that means: not on this machine, whatever the arguments."""


def require_root() -> None:
    """HostError unless we are root."""
    if os.geteuid() != 0:
        raise HostError("test hosts need root: run this with sudo or as root", CANNOT)


def require(state: Path) -> None:
    """HostError with status 3, in one sentence, if hosts cannot be booted here."""
    if sys.platform != "linux":
        raise HostError("test hosts need Linux: systemd-nspawn runs nowhere else", CANNOT)
    require_root()
    missing = missing_packages()
    if missing and shutil.which("apt-get") is None:
        raise HostError(
            f"this machine lacks {', '.join(missing)} and has no apt-get to install them", CANNOT
        )
    if not succeeds(["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "true"]):
        raise HostError("this machine forbids new namespaces, as most containers do", CANNOT)
    if not succeeds(["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]):
        raise HostError("this machine forbids mounting, even in a mount namespace", CANNOT)
    overlay = "\toverlay\n" in Path("/proc/filesystems").read_text()
    if not overlay and not succeeds(["modprobe", "overlay"]):
        raise HostError("this kernel has no overlayfs", CANNOT)
    if hierarchy() is None:
        raise HostError("no cgroup v2 is mounted on this machine, and systemd needs it", CANNOT)
    if shutil.which("ip") and not succeeds(
        ["unshare", "--net", "ip", "link", "add", "rh-try", "type", "bridge"]
    ):
        raise HostError("this machine forbids making a network bridge", CANNOT)
    if shutil.which("nft") and not succeeds(
        ["unshare", "--net", "nft", "add", "table", "ip", "rh_try"]
    ):
        raise HostError("this machine forbids nftables rules", CANNOT)
    if not os.access("/proc/sys/net/ipv4/conf/lo/forwarding", os.W_OK):
        raise HostError("this machine's /proc/sys is read-only, so nothing can be routed", CANNOT)
    if not os.access(_nearest(state), os.W_OK):
        raise HostError(f"{state} cannot be written, and the hosts' files live there", CANNOT)


def report(state: Path) -> str:
    """One line for a person; HostError with status 3 if hosts cannot be booted here."""
    require(state)
    missing = missing_packages()
    if missing:
        return f"hosts can be booted here; `up` will first install {', '.join(missing)}"
    return "hosts can be booted here"


def _nearest(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
