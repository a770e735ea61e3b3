"""``llm-router completion SHELL``: a script made from the parser, so that it knows every option.

The script has commands and options in it and asks ``llm-router models list --names`` for models
alone. (argcomplete would start Python and build the parser at every press of the key, and would be
one more dependency on every host.)
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llm_router.cli.exits import Exit
from llm_router.cli.parser import FILE, MODEL, build

# Who fills in a value, if anyone can.
FILES, MODELS, NOTHING = "files", "models", ""


@dataclass(frozen=True)
class Value:
    """What may stand at a place: some words, or what `source` finds."""

    words: tuple[str, ...] = ()
    source: str = NOTHING


@dataclass(frozen=True)
class Option:
    """``value`` is None for a flag."""

    strings: tuple[str, ...]
    help: str
    value: Value | None


@dataclass(frozen=True)
class Command:
    """``path``: `models add`, or empty for the program itself."""

    path: str
    help: str
    options: tuple[Option, ...] = ()
    positionals: tuple[Value, ...] = ()
    subcommands: tuple[Command, ...] = field(default=())

    def all(self) -> Iterator[Command]:
        """This one and everything below it."""
        yield self
        for command in self.subcommands:
            yield from command.all()

    def places(self) -> tuple[Value, ...]:
        """What may stand at each place behind it."""
        names = tuple(command.path.split()[-1] for command in self.subcommands)
        return (Value(words=names),) if names else self.positionals

    def taking(self) -> list[str]:
        """Every option, here or below, that takes a value."""
        found = {
            string
            for command in self.all()
            for option in command.options
            if option.value is not None
            for string in option.strings
        }
        return sorted(found)


def completion(options: argparse.Namespace) -> int:
    """Print the script."""
    scripts = {"bash": bash, "zsh": zsh, "fish": fish}
    print(scripts[options.shell](commands()), end="")
    return Exit.DONE


def commands() -> Command:
    """The command line as completion sees it."""
    return _command(build(), "", "")


def _command(parser: argparse.ArgumentParser, path: str, summary: str) -> Command:
    options, positionals, subcommands = [], [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, sub in action.choices.items():
                subcommands.append(_command(sub, f"{path} {name}".strip(), helps[name]))
        elif action.option_strings:
            value = None if action.nargs == 0 else _value(action)
            options.append(Option(tuple(action.option_strings), action.help or "", value))
        else:
            positionals.append(_value(action))
    return Command(path, summary, tuple(options), tuple(positionals), tuple(subcommands))


def _value(action: argparse.Action) -> Value:
    if action.choices:
        return Value(words=tuple(action.choices))
    return Value(source={FILE: FILES, MODEL: MODELS}.get(str(action.metavar), NOTHING))


def bash(root: Command) -> str:
    """For bash 3.2 and newer, with or without the package bash-completion."""
    options, values, places = [], [], []
    for command in root.all():
        words = [string for option in command.options for string in option.strings]
        options.append(f"'{command.path}') words={shlex.quote(' '.join(words))} ;;")
        for option in command.options:
            if option.value is not None:
                pattern = "|".join(f"'{command.path} {string}'" for string in option.strings)
                values.append(f"{pattern}) {_bash_value(option.value)} ;;")
        for index, value in enumerate(command.places()):
            places.append(f"'{command.path} {index}') {_bash_value(value)} ;;")
    return _filled(
        "bash",
        TAKING="|".join(root.taking()),
        GROUPS="|".join(f"'{command.path}'" for command in root.all() if command.subcommands),
        OPTIONS=_block(options),
        VALUES=_block(values),
        PLACES=_block(places),
    )


def _bash_value(value: Value) -> str:
    if value.source:
        return f"source={value.source}"
    return f"words={shlex.quote(' '.join(value.words))}"


def zsh(root: Command) -> str:
    """A script for zsh's own completion system."""
    return _filled("zsh", FUNCTIONS="\n".join(_zsh_function(command) for command in root.all()))


def _zsh_function(command: Command) -> str:
    name = "_llm_router" + "".join(f"_{word}" for word in command.path.split())
    specs = []
    for option in command.options:
        for string in option.strings:
            text = f"{string}[{_zsh_text(option.help)}]"
            if option.value is not None:
                text += f": :{_zsh_value(option.value)}"
            specs.append(shlex.quote(text))
    if not command.subcommands:
        for index, value in enumerate(command.positionals, 1):
            specs.append(shlex.quote(f"{index}: :{_zsh_value(value)}"))
        return f"{name}() {{\n    _arguments -S {' '.join(specs)}\n}}"
    described = "\n".join(
        "        " + shlex.quote(f"{sub.path.split()[-1]}:{_zsh_text(sub.help)}")
        for sub in command.subcommands
    )
    calls = "\n".join(
        f"    {sub.path.split()[-1]}) _llm_router_{sub.path.replace(' ', '_')} ;;"
        for sub in command.subcommands
    )
    return (
        f"{name}() {{\n"
        "    local context state state_descr line; typeset -A opt_args\n"
        "    local -a commands=(\n"
        f"{described}\n"
        "    )\n"
        f"    _arguments -C {' '.join(specs)} '1: :->command' '*:: :->rest'\n"
        "    case $state in\n"
        "    command) _describe -t commands command commands ;;\n"
        "    rest)\n"
        "    case $words[1] in\n"
        f"{calls}\n"
        "    esac ;;\n"
        "    esac\n"
        "}"
    )


def _zsh_text(text: str) -> str:
    return text.replace("[", "(").replace("]", ")").replace(":", " -")


def _zsh_value(value: Value) -> str:
    if value.source == FILES:
        return "_files"
    if value.source == MODELS:
        return "_llm_router_names"
    return f"({' '.join(value.words)})" if value.words else " "


def fish(root: Command) -> str:
    """A script for fish."""
    lines = []
    for command in root.all():
        condition = shlex.quote(f"__llm_router_at {command.path}".strip())
        start = f"complete -c llm-router -n {condition}"
        for sub in command.subcommands:
            lines.append(f"{start} -a {sub.path.split()[-1]} -d {_fish_text(sub.help)}")
        for option in command.options:
            flags = " ".join(
                f"-l {string[2:]}" if string.startswith("--") else f"-s {string[1:]}"
                for string in option.strings
            )
            line = f"{start} {flags} -d {_fish_text(option.help)}"
            if option.value is not None:
                line += (" -r" if option.value.source == FILES else " -x") + _fish_value(
                    option.value
                )
            lines.append(line)
        for value in command.positionals:
            if _fish_value(value):
                lines.append(start + _fish_value(value))
    groups = " ".join(_fish_text(sub.path) for sub in root.all() if sub.subcommands and sub.path)
    taking = " ".join(root.taking())
    return _filled("fish", LINES="\n".join(lines), GROUPS=groups, TAKING=taking)


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _fish_value(value: Value) -> str:
    if value.source == FILES:
        return " -F"
    if value.source == MODELS:
        return " -a '(__llm_router_names)'"
    return f" -a {_fish_text(' '.join(value.words))}" if value.words else ""


def _filled(shell: str, **parts: str) -> str:
    """The shell's script, each ``@NAME@`` in it replaced."""
    text = Path(__file__).with_name(f"completion.{shell}").read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace(f"@{name}@", part)
    return text


def _block(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)
