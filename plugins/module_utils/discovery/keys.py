"""The keys that a host's own engines want, from where they have them: for the router alone.

They are in nothing else that is found out here; see `commands.Launch`.
"""

from __future__ import annotations

import re
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


def key_of(engine: Engine, read: Read) -> str:
    """The key by which the engine lets the router in; empty where it wants none.

    ``read`` gives a file's text, or None; call this as the unit's user (`identity.acting_as`),
    since its files name further ones. Raises `KeysDiffer` and `NotAKey`.
    """
    key = _found(engine, read)
    if key and not _KEY.fullmatch(key):
        raise NotAKey(engine.unit)
    return key


def _found(engine: Engine, read: Read) -> str:
    if engine.tabby is not None:
        if not engine.tabby.wants_key:
            return ""
        tokens = read_settings(read(f"{engine.launch.directory}/api_tokens.yml") or "")
        # where the router asks for what is loaded, and for chats, the lesser key does
        return tokens.get("api_key") or tokens.get("admin_key", "")
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
