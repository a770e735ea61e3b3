"""From a command line, or the shell script that has it, to the engine that it starts. Pure."""

from __future__ import annotations

import posixpath
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Optional

from .units import split, substitute

Read = typing.Callable[[str], Optional[str]]  # Python 3.8 subscripts no other
"""A file's text, or None where it cannot be read."""

MODEL_FLAGS = {
    "sglang": ("--model-path", "--model"),
    "vllm": ("--model",),
    "llamacpp": ("--model", "-m"),
    "tabby": ("--model-name",),
}
NAME_FLAGS = {
    "sglang": ("--served-model-name",),
    "vllm": ("--served-model-name",),
    "llamacpp": ("--alias", "-a"),
    "tabby": (),
}
_KEY_VARIABLES = {"vllm": "VLLM_API_KEY", "llamacpp": "LLAMA_API_KEY"}
_SHELLS = {"sh", "bash", "dash", "zsh"}
_CONTAINERS = {"docker", "podman", "nerdctl"}
_IMAGES = {"vllm-openai": "vllm", "llama.cpp": "llamacpp"}
_TABBY_PROGRAMS = {"main.py", "start.py", "start.sh"}
_SCRIPTS_DEEP = 3
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_DEFAULTED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*):?-([^}]*)\}")
_STATEMENT = re.compile(r"&&|\|\||[;|&]")


@dataclass(frozen=True)
class Launch:
    """An engine's start, as far as it can be read. Secrets are in what its repr leaves out."""

    backend: str
    arguments: tuple[str, ...] = field(default=(), repr=False)
    """What stands behind the program's name."""
    model: str = ""
    """As the engine is given it: a path, or a repository's name."""
    served_name: str = ""
    port: int = 0
    host: str = ""
    config_file: str = ""
    wants_key: bool = False
    key: str = field(default="", repr=False)
    """The key that it has from its environment."""
    directory: str = ""
    """Where it runs: relative paths are relative to this."""
    devices: str = ""
    """CUDA_VISIBLE_DEVICES, where it is set."""
    container: bool = False
    """It runs in a container: its paths are not the host's."""
    script: str = ""
    """The shell script that has the command, if one does."""
    unknown: tuple[str, ...] = ()
    """Variables that the script takes from somewhere else."""

    @property
    def name(self) -> str:
        """What the engine calls its model, where that is in the command."""
        return self.served_name or self.model


def launch_of(
    argv: Sequence[str], environment: Mapping[str, str], directory: str, read: Read
) -> Launch | None:
    """The engine that a command line starts, itself or by shell scripts; None if it starts none."""
    return _launch(list(argv), dict(environment), directory, read, "", _SCRIPTS_DEEP)


def script_launch(
    path: str, environment: Mapping[str, str], directory: str, read: Read
) -> Launch | None:
    """The engine that a shell script starts."""
    return _launch([path], dict(environment), directory, read, "", _SCRIPTS_DEEP)


def _launch(
    argv: list[str],
    environment: dict[str, str],
    directory: str,
    read: Read,
    script: str,
    deep: int,
) -> Launch | None:
    found = recognise(argv, environment, directory)
    if found is not None:
        return _with(found, script)
    for position, word in enumerate(argv):
        if word.startswith("-") and word.endswith("c") and position and _is_shell(argv[0]):
            return _in_script(
                " ".join(argv[position + 1 : position + 2]),
                environment,
                directory,
                read,
                script,
                deep,
            )
        if word.startswith("/") and not _is_shell(word) and deep:
            text = read(word)
            if text is None or not _is_script(word, text):
                continue
            return _in_script(text, environment, directory, read, script or word, deep - 1)
    return None


def _with(launch: Launch, script: str) -> Launch:
    return Launch(**{**launch.__dict__, "script": script}) if script else launch


def _is_shell(word: str) -> bool:
    return posixpath.basename(word) in _SHELLS


def _is_script(path: str, text: str) -> bool:
    first = text.partition("\n")[0]
    if first.startswith("#!"):
        return any(_is_shell(word) for word in first[2:].split())
    return path.endswith(".sh")


def _in_script(
    text: str, environment: dict[str, str], directory: str, read: Read, script: str, deep: int
) -> Launch | None:
    """Follows a script's assignments, exports and ``cd`` down to the engine's own line.

    Nothing is run: conditions and loops are passed over, as if each line were reached.
    """
    environment = dict(environment)
    for statement in _statements(text):
        words = split(_expand(statement, environment))
        while words and _ASSIGNMENT.fullmatch(words[0]):
            key, _, value = words.pop(0).partition("=")
            environment[key] = value
        if not words:
            continue
        if words[0] in ("export", "declare", "readonly"):
            for word in words[1:]:
                key, equals, value = word.partition("=")
                if equals:
                    environment[key] = value
        elif words[0] == "cd" and len(words) > 1:
            directory = posixpath.normpath(posixpath.join(directory, words[1]))
        else:
            if words[0] == "exec":
                words = words[1:]
            found = _launch(words, environment, directory, read, script, deep)
            if found is not None:
                unknown = _unknown(statement, environment)
                return Launch(**{**found.__dict__, "unknown": found.unknown + unknown})
    return None


def _statements(text: str) -> list[str]:
    """The script's simple commands: comments gone, continued lines joined, lists taken apart."""
    joined = re.sub(r"\\\r?\n", " ", text)
    found: list[str] = []
    for raw in joined.splitlines():
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        # a separator in quotes is none; such lines are rare, and kept whole
        found += [line] if re.search(r"['\"].*[;|&].*['\"]", line) else _STATEMENT.split(line)
    return [line.strip() for line in found if line.strip()]


def _expand(statement: str, environment: Mapping[str, str]) -> str:
    defaulted = _DEFAULTED.sub(lambda match: environment.get(match[1]) or match[2], statement)
    return substitute(re.sub(r'"?\$[@*]"?', "", defaulted), environment)


def _unknown(statement: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    named = re.findall(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?", _DEFAULTED.sub("", statement))
    return tuple(name for name in dict.fromkeys(named) if name not in environment)


def recognise(
    argv: Sequence[str], environment: Mapping[str, str] | None = None, directory: str = ""
) -> Launch | None:
    """The engine whose program stands somewhere in ``argv``, behind wrappers if need be."""
    environment = environment or {}
    for position, word in enumerate(argv):
        backend, behind = _program(argv, position, word, directory)
        if backend is None:
            continue
        before, arguments = list(argv[:position]), list(argv[behind:])
        container = any(posixpath.basename(item) in _CONTAINERS for item in before)
        options = read_options(arguments)
        inner = _first(options, ("--port",))
        port = _published(before, inner) if container else inner
        devices = next(
            (item.partition("=")[2] for item in before if item.startswith("CUDA_VISIBLE_DEVICES=")),
            environment.get("CUDA_VISIBLE_DEVICES", ""),
        )
        if backend == "tabby" and word.startswith("/"):
            directory = directory or posixpath.dirname(word)
        return Launch(
            backend,
            tuple(arguments),
            model=_first(options, MODEL_FLAGS[backend]) or _positional(backend, arguments),
            served_name=_first(options, NAME_FLAGS[backend]),
            port=int(port) if port.isdigit() else 0,
            host=_first(options, ("--host",)),
            config_file=_first(options, ("--config",)),
            wants_key="--api-key" in options
            or "--api-key-file" in options
            or bool(environment.get(_KEY_VARIABLES.get(backend, ""))),
            key=environment.get(_KEY_VARIABLES.get(backend, ""), ""),
            directory=directory,
            devices=devices,
            container=container,
        )
    return None


def _program(
    argv: Sequence[str], position: int, word: str, directory: str
) -> tuple[str | None, int]:
    """The backend of the program at ``position``, and where its arguments begin."""
    base = posixpath.basename(word)
    following = argv[position + 1] if position + 1 < len(argv) else ""
    if base in ("llama-server", "llama-server.exe") or base.startswith("llama-server-"):
        return "llamacpp", position + 1
    if word == "sglang.launch_server" or (base == "sglang" and following == "serve"):
        return "sglang", position + 1 + (base == "sglang")
    if word == "vllm.entrypoints.openai.api_server" or (base == "vllm" and following == "serve"):
        return "vllm", position + 1 + (base == "vllm")
    if base in _TABBY_PROGRAMS:
        place = posixpath.dirname(word) or directory
        if "tabby" in place.lower():
            return "tabby", position + 1
    image = base.partition(":")[0]
    if image in _IMAGES and position and "/" in word and not word.startswith(("/", "-")):
        return _IMAGES[image], position + 1
    return None, 0


def read_options(arguments: Sequence[str]) -> dict[str, str]:
    """``--flag value``, ``--flag=value`` and ``--flag`` (an empty value), dashes for underscores.

    Without the engine's own parser a flag's value is what follows it and is no flag itself.
    """
    found: dict[str, str] = {}
    for position, word in enumerate(arguments):
        if not word.startswith("-") or _number(word):
            continue
        key, equals, value = word.partition("=")
        if not equals and position + 1 < len(arguments):
            following = arguments[position + 1]
            if not following.startswith("-") or _number(following):
                value = following
        found[key.replace("_", "-") if key.startswith("--") else key] = value
    return found


def without_options(arguments: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The arguments without these flags and their values."""
    kept: list[str] = []
    skip = False
    for position, word in enumerate(arguments):
        if skip:
            skip = False
            continue
        key, equals, _ = word.partition("=")
        if (key.replace("_", "-") if key.startswith("--") else key) in flags:
            following = arguments[position + 1] if position + 1 < len(arguments) else "-"
            skip = not equals and (not following.startswith("-") or _number(following))
            continue
        kept.append(word)
    return kept


def _number(word: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", word) is not None


def _first(options: Mapping[str, str], flags: Sequence[str]) -> str:
    return next((options[flag] for flag in flags if options.get(flag)), "")


def _positional(backend: str, arguments: Sequence[str]) -> str:
    """``vllm serve MODEL``."""
    if backend == "vllm" and arguments and not arguments[0].startswith("-"):
        return arguments[0]
    return ""


def _published(before: Sequence[str], inner: str) -> str:
    """The host's port in ``-p [ADDRESS:]PORT:INNER``; with the host's own network, ``inner``."""
    for position, word in enumerate(before):
        key, _, value = word.partition("=")
        if key in ("-p", "--publish"):
            parts = (value or " ".join(before[position + 1 : position + 2])).split(":")
            return parts[-2] if len(parts) > 1 else ""
    return inner
