"""Reads files as the user of a unit.

A unit's user writes its scripts and settings, and these name further files. Root that reads those
would show him what he may not read himself, by the key that it takes from there.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Iterator, Sequence

NOBODY = 65534


@contextlib.contextmanager
def acting_as(user: str, groups: Sequence[str] = ()) -> Iterator[None]:
    """The effective user and groups of a unit, for the whole process: not for one with threads.

    Does nothing where the caller is not root, or the unit's user is. A user that does not exist
    (yet, as with DynamicUser=) is nobody.
    """
    if os.geteuid() != 0 or user in ("", "root", "0"):
        yield
        return
    uid, gid, ids = _ids(user, groups)
    before = os.getegid(), os.getgroups()
    try:
        os.setgroups(ids)
        os.setegid(gid)
        os.seteuid(uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(before[0])
        os.setgroups(before[1])


def _ids(user: str, groups: Sequence[str]) -> tuple[int, int, list[int]]:
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except (KeyError, ValueError, OverflowError):
        return NOBODY, NOBODY, []
    ids = set(os.getgrouplist(entry.pw_name, entry.pw_gid))
    for name in groups:
        with contextlib.suppress(KeyError, ValueError, OverflowError):
            ids.add(int(name) if name.isdigit() else grp.getgrnam(name).gr_gid)
    return entry.pw_uid, entry.pw_gid, sorted(ids)
