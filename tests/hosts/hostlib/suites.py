"""The suites that hosts are made of, and where the packages of each come from. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """A distribution's packages, and the keys that vouch for them.

    `pockets` are what stands behind a suite's name, the suite itself being the empty one. Where the
    control machine has none of `keyrings`, they are a part of `keyring_package`: a package of
    apt's, or a path in the archive, whose `keyring_sum` is its sha256.
    """

    distribution: str
    mirror: str
    components: str
    pockets: tuple[str, ...]
    keyrings: tuple[str, ...]
    keyring_package: str
    keyring_sum: str = ""

    def sources(self, suite: str) -> list[str]:
        """The lines of its sources.list."""
        return [f"deb {self.mirror} {suite}{pocket} {self.components}" for pocket in self.pockets]


DEBIAN = Archive(
    "Debian",
    "http://deb.debian.org/debian",
    "main",
    ("",),
    # wherever the control machine's release keeps them
    (
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "/usr/share/keyrings/debian-archive-keyring.pgp",
    ),
    "debian-archive-keyring",
)
UBUNTU = Archive(
    "Ubuntu",
    "http://archive.ubuntu.com/ubuntu",
    "main universe",
    ("", "-updates"),
    ("/usr/share/keyrings/ubuntu-archive-keyring.gpg",),
    # Debian 12 has no package of it
    "pool/main/u/ubuntu-keyring/ubuntu-keyring_2023.11.28.1_all.deb",
    "36de43b15853ccae0028e9a767613770c704833f82586f28eb262f0311adb8a8",
)

SUITES = {
    "bullseye": DEBIAN,
    "bookworm": DEBIAN,
    "trixie": DEBIAN,
    "forky": DEBIAN,
    "focal": UBUNTU,
    "jammy": UBUNTU,
    "noble": UBUNTU,
}
"""Each is also the inventory group of its hosts."""

_PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "polkitd", "python3", "python3-apt", "sudo",
    "openssh-server", "iproute2", "ca-certificates", "procps", "curl", "less", "passwd", "adduser",
)  # fmt: skip


def packages(suite: str) -> tuple[str, ...]:
    """About what a bare cloud image has.

    python3-venv is left out on purpose: the roles bring it.
    """
    if suite in ("bullseye", "focal"):
        return tuple("policykit-1" if name == "polkitd" else name for name in _PACKAGES)
    return _PACKAGES
