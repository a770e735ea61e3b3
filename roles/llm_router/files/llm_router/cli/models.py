"""``llm-router models``: the list of models, shown and edited.

An edit is checked by the router's own checker before it replaces anything, and replaces the file in
one step. Edits by this command wait for each other.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from llm_router.cli import entries
from llm_router.cli.exits import Exit, Failed
from llm_router.engine_environment import MASK
from llm_router.json_codec import json_text

if TYPE_CHECKING:
    from llm_router.config.schema import Model

LIVE_TIMEOUT = 2.0
"""Seconds that a list waits for a router that it can do without."""

# The order in which an entry's keys are written; options of `models add` have the same names.
FIELDS = (
    "backend",
    "service",
    "script",
    "model_path",
    "repo",
    "revision",
    "files",
    "model_name",
    "command",
    "args",
    "port",
    "timeout",
    "status",
    "group",
    "ttl",
    "preload",
    "warm_up",
)
_ANSIBLES_MARK = "# Written by the role roundhouse.llm.llm_router"


def list_models(options: argparse.Namespace) -> int:
    """The models of models.yml, and their state if the router runs. Raises `Failed`."""
    if options.names:
        found = _names(options)
        if found is not None:
            for line in [json_text({"names": found})] if options.json else found:
                print(line)
            return Exit.DONE
    from llm_router.cli.settings import settings_of
    from llm_router.cli.view import table_lines

    settings = settings_of(options)
    states = _states(settings.config.admin_socket)
    listed = [
        {
            **_entry_shown(model),
            "unit": model.unit,
            "state": None if states is None else states.get(name, "unknown"),
        }
        for name, model in settings.models.items()
    ]
    if options.json:
        print(json_text({"models": listed}))
        return Exit.DONE
    heads = ["MODEL", "BACKEND", "GROUP", "UNIT", *([] if states is None else ["STATE"])]
    columns = ("name", "backend", "group", "unit", "state")[: len(heads)]
    table = [[model[column] for column in columns] for model in listed]
    for line in table_lines(heads, table):
        print(line)
    return Exit.DONE


def _entry_shown(model: Model) -> dict[str, Any]:
    """What models.yml says of a model; a variable's value may be a password."""
    shown = model.model_dump(mode="json", exclude_none=True)
    if model.environment:
        shown["environment"] = dict.fromkeys(model.environment, MASK)
    return shown


def add(options: argparse.Namespace) -> int:
    """Add an entry. Raises `Failed`."""
    given = {name: getattr(options, name) for name in FIELDS}
    fields = {name: _written(value) for name, value in given.items() if value is not None}

    def change(text: str, file: str) -> str:
        if options.name in entries.names(text):
            raise Failed(f"{options.name} is in {file} already")
        return entries.add(text, options.name, fields)

    return _edit(options, change, "added {name} to {file}")


def remove(options: argparse.Namespace) -> int:
    """Take an entry out. Raises `Failed`."""

    def change(text: str, file: str) -> str:
        known = entries.names(text)
        if options.name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise Failed(f"{options.name} is not in {file}; its models: {listed}")
        return entries.remove(text, options.name)

    return _edit(options, change, "removed {name} from {file}")


def _written(value: Any) -> Any:
    """``timeout: 180``, as a person would write it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _edit(options: argparse.Namespace, change: Callable[[str, str], str], done: str) -> int:
    from llm_router.cli.settings import config_of
    from llm_router.file_edits import EngineFileError, FileEdit, WholeFile, apply, locked

    config = config_of(options)
    shown = options.models or options.config.parent / config.models_file
    # a link stays a link: what it points to is edited
    path = shown.resolve()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(path.parent))
        except EngineFileError as error:
            raise Failed(str(error)) from error
        before = _read(path, options)
        try:
            after = change(before, str(shown))
        except entries.YamlError as error:
            _check(options, path, shown, before)
            raise Failed(f"{shown}:{error.line}: {error.problem}") from error
        except entries.NotEditable as reason:
            raise Failed(f"{shown} {reason}; edit it by hand") from reason
        _check(options, path, shown, after)
        if path.read_bytes() != before.encode():
            raise Failed(f"{shown} was changed by someone else meanwhile; try again")
        try:
            (result,) = apply([FileEdit(str(path), WholeFile(after))], check=options.dry_run)
        except EngineFileError as error:
            raise Failed(str(error)) from error
    if options.json:
        answer = {"changed": result.changed, "model": options.name, "file": str(shown)}
        print(json_text({**answer, "diff": result.diff}))
    elif options.dry_run:
        print(result.diff, end="")
    else:
        print(done.format(name=options.name, file=shown))
        _advise(options.name, after, config.admin_socket)
    return Exit.DONE


def _read(path: Path, options: argparse.Namespace) -> str:
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        from llm_router.cli.settings import settings_of

        settings_of(options)  # says what is wrong with the file
        raise


def _check(options: argparse.Namespace, path: Path, shown: Path, text: str) -> None:
    """Whether the router would take ``text`` as its models.yml. Raises `Failed`."""
    from dataclasses import replace

    from llm_router.cli.settings import failing
    from llm_router.config import ConfigError, load_settings

    with tempfile.TemporaryDirectory(prefix="llm-router-") as directory, failing():
        candidate = Path(directory) / path.name
        candidate.write_bytes(text.encode())
        try:
            load_settings(options.config, candidate, options.keys)
        except ConfigError as error:
            mine = str(candidate)
            raise ConfigError(
                [
                    replace(problem, file=str(shown)) if problem.file == mine else problem
                    for problem in error.problems
                ]
            ) from error


def _names(options: argparse.Namespace) -> list[str] | None:
    """For completion: without the checker, which takes longer to import than a person waits.

    None where something is wrong, and the checker has to say what.
    """
    try:
        path = options.models
        if path is None:
            config = YAML(typ="safe", pure=True).load(options.config.read_text()) or {}
            path = options.config.parent / config.get("models_file", "models.yml")
        return entries.names(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, AttributeError, TypeError, YAMLError, entries.YamlError):
        return None


def _states(admin_socket: str) -> dict[str, str] | None:
    """What the router says of each model; None when it does not run."""
    from llm_router.cli.client import AdminClient

    try:
        answer = AdminClient(admin_socket).call("GET", "/admin/status", timeout=LIVE_TIMEOUT)
    except Failed:
        return None
    return {name: str(model["state"]) for name, model in answer["models"].items()}


def _advise(name: str, text: str, admin_socket: str) -> None:
    """What is left to do for the change to be in force, and to stay."""
    if text.startswith(_ANSIBLES_MARK):
        note = "Ansible writes this file: change llm_router_models too, or its next run undoes this"
        print(note, file=sys.stderr)
    states = _states(admin_socket)
    if states is not None and (name in states) != (name in entries.names(text)):
        note = "the router takes it over within two seconds; `llm-router reload` says what it did"
        print(note, file=sys.stderr)
