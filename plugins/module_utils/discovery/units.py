"""systemd unit files as text: what a service starts, with which environment. Pure."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_SECTION = re.compile(r"\[(.+)\]")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True)
class UnitText:
    """A unit file with its drop-ins, as far as it says what is started."""

    exec_start: str = ""
    exec_from: str = ""
    """The file whose ExecStart counts: the last one that has any."""
    environment: Mapping[str, str] = field(default_factory=dict)
    environment_files: tuple[str, ...] = ()
    working_directory: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    """Of Group= and SupplementaryGroups=."""


def parse_unit(files: Sequence[tuple[str, str]]) -> UnitText:
    """The unit that these (path, text) make, in systemd's order: the unit file, then drop-ins."""
    exec_start, exec_from, working_directory, user = "", "", "", ""
    environment: dict[str, str] = {}
    environment_files: list[str] = []
    groups: list[str] = []
    for path, text in files:
        for key, value in _service_lines(text):
            if key == "ExecStart":
                exec_start, exec_from = value, path
            elif key == "Environment":
                environment = {**environment, **_assignments(value)} if value else {}
            elif key == "EnvironmentFile":
                environment_files = [*environment_files, value.lstrip("-")] if value else []
            elif key == "WorkingDirectory":
                working_directory = value.lstrip("-")
            elif key == "User":
                user = value
            elif key == "DynamicUser" and value.lower() in ("yes", "true", "on", "1"):
                user = user or "(dynamic)"
            elif key in ("Group", "SupplementaryGroups"):
                groups += value.split()
    return UnitText(
        exec_start,
        exec_from,
        environment,
        tuple(environment_files),
        working_directory,
        user,
        tuple(groups),
    )


def _service_lines(text: str) -> list[tuple[str, str]]:
    """The assignments of ``[Service]``, their continued lines joined."""
    found: list[tuple[str, str]] = []
    section, held = "", ""
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith(("#", ";")):
            continue  # in the middle of a continued line too
        if line.endswith("\\"):
            held += line[:-1] + " "
            continue
        line, held = held + line, ""
        title = _SECTION.fullmatch(line)
        if title:
            section = title[1]
        elif section == "Service" and "=" in line:
            key, _, value = line.partition("=")
            found.append((key.strip(), value.strip()))
    return found


def _assignments(value: str) -> dict[str, str]:
    words = (word.partition("=") for word in split(value))
    return {key: rest for key, equals, rest in words if equals}


def split(text: str) -> list[str]:
    """Words, with quotes and backslashes as shells and, near enough, systemd have them.

    What cannot be read so (a quote that is never closed) is split at spaces.
    """
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def parse_environment(text: str) -> dict[str, str]:
    """An EnvironmentFile's variables."""
    found = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and not key.startswith(("#", ";")):
            found[key.strip()] = " ".join(split(value))
    return found


def command_line(exec_start: str, unit: str, environment: Mapping[str, str]) -> list[str]:
    """What the line starts, word by word; a variable that nothing sets is empty."""
    words: list[str] = []
    for word in split(exec_start.lstrip("@-:+!|")):
        alone = _VARIABLE.fullmatch(word)
        if alone and alone[2]:  # $NAME alone becomes as many words as its value has
            words += split(environment.get(alone[2], ""))
        else:
            words.append(substitute(_specifiers(word, unit), environment))
    return words


def substitute(text: str, environment: Mapping[str, str]) -> str:
    """The text with ``$NAME`` and ``${NAME}`` replaced."""
    return _VARIABLE.sub(lambda match: environment.get(match[1] or match[2], ""), text)


def _specifiers(word: str, unit: str) -> str:
    stem = unit.rpartition(".")[0]
    prefix, _, instance = stem.partition("@")
    known = {"i": instance, "I": instance, "n": unit, "N": stem, "p": prefix, "%": "%"}
    return re.sub(r"%(.)", lambda match: known.get(match[1], match[0]), word)


def after(drop_in: str, ours: str) -> bool:
    """Whether systemd reads the drop-in ``drop_in`` after the file that is named ``ours``."""
    return posixpath.basename(drop_in) > ours
