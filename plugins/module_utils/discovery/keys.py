"""The keys that a host's own engines want, from where they have them: for the router alone.

They are in nothing else that is found out here; see `commands.Launch`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .commands import Launch, Read, read_options
from .settings import read_settings

if TYPE_CHECKING:
    from .survey import Engine


_KEY = re.compile(r"[!-~]{1,512}")


class KeysDiffer(Exception):
    """The scripts of one unit have keys of their own."""


class NotAKey(Exception):
    """What stands in a key's place has not the form of one; its text is in no message."""


@dataclass(frozen=True)
class KeyUser:
    """A model whose engine wants a key, and the file in which the router looks for it."""

    unit: str
    path: str
    unloads: bool = False
    """Whether it is unloaded over TabbyAPI's API, which takes the admin key alone."""


def adopted_keys(
    users: Iterable[KeyUser], engines: Iterable[Engine], key: Callable[[Engine, bool], str]
) -> tuple[dict[str, str], list[str]]:
    """The keys by the files that they go to, and sentences on what is in the way of that.

    ``key`` is `key_of`, as the unit's user. No sentence has a key in it.
    """
    known = {engine.unit: engine for engine in engines}
    users = [user for user in users if user.unit in known]
    admins = {user.path for user in users if user.unloads}
    wanted: dict[str, tuple[str, str]] = {}
    problems = []
    for path, unit in dict.fromkeys((user.path, user.unit) for user in users):
        try:
            found = key(known[unit], path in admins)
        except KeysDiffer:
            problems.append(
                f"the scripts of {unit} have keys of their own; give each of its models an "
                "`api_key_file:` with its key"
            )
            continue
        except NotAKey:
            problems.append(
                f"what {unit} names as its key is not one word of at most 512 printable ASCII "
                "characters; write the key into its file, and nothing else"
            )
            continue
        first, other = wanted.setdefault(path, (found, unit)) if found else (found, unit)
        if found != first:
            problems.append(
                f"{unit} has another key than {other}, and the router looks for both in {path}; "
                "give the models of one of them an `api_key_file:` of their own"
            )
    return {path: found for path, (found, _) in wanted.items()}, problems


def key_of(engine: Engine, read: Read, admin: bool = False) -> str:
    """The key by which the engine lets the router in; empty where it wants none.

    ``admin``: the one that may also unload a model, where the engine has such a key. ``read``
    gives a file's text, or None; call this as the unit's user (`identity.acting_as`), since its
    files name further ones. Raises `KeysDiffer` and `NotAKey`.
    """
    key = _found(engine, read, admin)
    if key and not _KEY.fullmatch(key):
        raise NotAKey(engine.unit)
    return key


def _found(engine: Engine, read: Read, admin: bool) -> str:
    if engine.tabby is not None:
        if not engine.tabby.wants_key:
            return ""
        tokens = read_settings(read(f"{engine.launch.directory}/api_tokens.yml") or "")
        # where the router asks for what is loaded, and for chats, the lesser key does
        names = ("admin_key", "api_key") if admin else ("api_key", "admin_key")
        return next((tokens[name] for name in names if tokens.get(name)), "")
    found = {_key(launch, read) for launch in (engine.launch, *engine.scripts)} - {""}
    if len(found) > 1:
        raise KeysDiffer(engine.unit)
    return next(iter(found), "")


def _key(launch: Launch, read: Read) -> str:
    options = read_options(launch.arguments)
    if options.get("--api-key"):
        return options["--api-key"]
    if options.get("--api-key-file"):
        return (read(options["--api-key-file"]) or "").partition("\n")[0].strip()
    if launch.key:
        return launch.key
    return read_settings(read(launch.config_file) or "").get("api-key", "")
