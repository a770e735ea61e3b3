"""Runs TabbyAPI's main.py, unless it would serve something else than its config says.

    python start.py CHECKOUT CONFIG

Left to itself TabbyAPI (as of e632af4) starts with its defaults where it cannot parse CONFIG,
replaces the file where it has keys of older versions, reads ./config.yml and TABBY_… variables as
well, takes the next port where its own is in use, and writes its keys into the log at each start.
Here each of these ends with one sentence and exit status 1, and the keys are masked.

Runs in TabbyAPI's own environment (Python >= 3.10, with its ruamel.yaml and loguru), in the
directory that has api_tokens.yml.
"""

from __future__ import annotations

import os
import runpy
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

TOKENS = "api_tokens.yml"
DEFAULT_PORT = 5000
DECISIVE = {
    "model": ("model_dir", "model_name"),
    "network": ("disable_auth", "host", "port"),
}
"""Settings that say which model is served, where and to whom: CONFIG alone decides them."""


class Refused(Exception):
    """TabbyAPI would not do what its config says; the message is one sentence for a person."""


def read(path: Path) -> dict[str, Any]:
    """A YAML file's mapping, by TabbyAPI's own parser. Raises `Refused`."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        loaded = YAML(typ=["rt", "safe"]).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Refused(f"{path} is not UTF-8; save it as UTF-8") from error
    except YAMLError as error:
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = error.problem if isinstance(error, MarkedYAMLError) else str(error)
        raise Refused(f"{where}: is no YAML ({problem}); put it right") from error
    if not isinstance(loaded, dict):
        raise Refused(f"{path}: has no sections, such as network: and model:")
    return loaded


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Refuse what TabbyAPI would not take as it stands. Raises `Refused`."""
    for name, section in config.items():
        if section is not None and not isinstance(section, dict):
            raise Refused(f"{path}: {name}: is no section; indent its settings under it")
    for old, new in (("draft", "draft_model"), ("lora", "lora")):
        if (config.get("model") or {}).get(old):
            raise Refused(
                f"{path}: model.{old} is of an older version, and TabbyAPI would replace the whole "
                f"file; make it a section {new}: of its own"
            )
    for key in config.get("logging") or {}:
        if not str(key).startswith("log_"):
            raise Refused(
                f"{path}: logging.{key} is of an older version, and TabbyAPI would replace the "
                f"whole file; call it log_{key}"
            )


def check_surroundings(environment: Mapping[str, str], directory: Path) -> None:
    """Refuse settings from elsewhere that decide what is served. Raises `Refused`."""
    if (directory / "config.yml").exists():
        raise Refused(
            f"{directory}/config.yml is read as well, so settings that the unit's own config "
            "leaves out would come from there; move them and remove the file"
        )
    for section, keys in DECISIVE.items():
        for key in keys:
            variable = f"TABBY_{section}_{key}".upper()
            if variable in environment:
                raise Refused(
                    f"the environment has {variable}; take it out and set {section}.{key} in the "
                    "unit's config"
                )


def check_port(config: Mapping[str, Any], path: Path) -> None:
    """Refuse a port on which something answers. Raises `Refused`."""
    port = (config.get("network") or {}).get("port") or DEFAULT_PORT
    try:
        port = int(port)
    except (TypeError, ValueError) as error:
        raise Refused(f"{path}: network.port is {port!r}; it must be a number") from error
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise Refused(
                f"{path}: port {port} is in use, and TabbyAPI would take {port + 1}, where the "
                f"router does not look; stop what answers there (`ss -ltnp sport = :{port}`)"
            )


def secrets(tokens: Mapping[str, Any], path: Path) -> list[str]:
    """The keys of api_tokens.yml. Raises `Refused`."""
    found: list[str] = []
    for name in ("api_key", "admin_key"):
        value = tokens.get(name)
        keys: list[Any] = value if isinstance(value, list) else [value]
        if not keys or not all(isinstance(key, str) and key for key in keys):
            raise Refused(f"{path}: {name} is missing or no text")
        found += keys
    return found


def masking(keys: list[str]) -> Callable[[Any], None]:
    """A loguru patcher: TabbyAPI writes its keys into the log at each start."""

    def mask(record: Any) -> None:
        for key in keys:
            record["message"] = record["message"].replace(key, f"(in {TOKENS})")

    return mask


def stay(checkout: Path, path: str) -> None:
    """Where CHECKOUT is reached by a link, start again by what it points to now: what Python
    imports later must not come from the release of then."""
    here = checkout.resolve()
    python = here.parent / "bin/python"
    if here != checkout and python.exists():
        os.execv(python, [str(python), __file__, str(here), path])


def main() -> None:
    from loguru import logger

    checkout, path = sys.argv[1:]
    stay(Path(checkout), path)
    try:
        config = read(Path(path))
        check_config(config, Path(path))
        check_surroundings(os.environ, Path.cwd())
        tokens = Path.cwd() / TOKENS
        keys = secrets(read(tokens), tokens)
        check_port(config, Path(path))
    except Refused as refused:
        sys.exit(f"TabbyAPI was not started: {refused}.")
    logger.configure(patcher=masking(keys))
    program = str(Path(checkout, "main.py"))
    # as `python main.py` would have it
    sys.path[0] = checkout
    sys.argv = [program, "--config", path]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
