"""Which failures are the host's: the one list of them. Pure.

A failure of the host (disk, rights, memory, bus, systemd) says nothing about a model, so it never
counts against one. Everything else that goes wrong with a unit or its files does.
"""

from __future__ import annotations

import errno

ERRNOS = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.ESTALE,
        errno.ENODEV,
        errno.ENXIO,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EAGAIN,
        errno.ENOLCK,
    }
)
"""Disk full, read-only, broken or away; rights; no memory, descriptors, processes or locks left.
Not ENOENT, ENOTDIR, EISDIR, ELOOP, ENOEXEC: such a path is as models.yml has it."""

BUS_ERRORS = frozenset(
    {
        "NoReply",
        "Timeout",
        "TimedOut",
        "Disconnected",
        "NoServer",
        "NoNetwork",
        "NameHasNoOwner",
        "ServiceUnknown",
        "LimitsExceeded",
        "NoMemory",
        "IOError",
        "AccessDenied",
        "AuthFailed",
        "InteractiveAuthorizationRequired",
        "ShuttingDown",
    }
)
"""D-Bus errors, without their prefix, that come from the bus, or from a systemd that restarts
(``daemon-reexec`` in the middle of a call is NoReply), is busy or shuts down."""


def is_host_fault(error: BaseException) -> bool:
    """Whether an operating system error of the host caused ``error``, directly or indirectly."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, MemoryError):
            return True
        # a subclass without a number, such as a TimeoutError of our own, is not the system's
        if isinstance(cause, OSError) and cause.errno in ERRNOS:
            return True
        cause = cause.__cause__
    return False
