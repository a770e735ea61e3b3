"""The commands, their options and their help."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_router import __version__
from llm_router.cli.exits import EXPLAINED

DEFAULT_CONFIG = Path("/etc/llm-router/config.yml")
BACKENDS = ("sglang", "vllm", "tabby", "llamacpp", "command")
STYLES = ("auto", "content", "event", "reasoning", "off")
UNITS = ("systemd", "child")
SHELLS = ("bash", "zsh", "fish")
MAX_LINES = 500

# What the metavars promise to completion: a value that is a FILE, or a configured MODEL.
FILE, MODEL = "FILE", "MODEL"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options, with ``run``, the command's ``module:function``. Raises SystemExit."""
    return build().parse_args(_engine_arguments(argv))


def _engine_arguments(argv: Sequence[str]) -> list[str]:
    """``--arg --ctx-size`` says what is meant, and argparse would take it for two options."""
    joined: list[str] = []
    words = iter(argv)
    for word in words:
        value = next(words, None) if word == "--arg" else None
        joined.append(word if value is None else f"--arg={value}")
    return joined


def build() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    exits = "\n".join(f"  {int(status):<4} {meaning}" for status, meaning in EXPLAINED.items())
    parser = argparse.ArgumentParser(
        prog="llm-router",
        description="One OpenAI-compatible endpoint for every model of a host.",
        epilog=f"exit status:\n{exits}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"llm-router {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_service(commands)
    _add_runtime(commands)
    _add_qualify(commands)
    models = commands.add_parser(
        "models", help="list, add and remove models in models.yml", allow_abbrev=False
    )
    _add_models(models.add_subparsers(required=True, metavar="COMMAND"))
    _add_adoption(commands)
    completion = _command(
        commands, "completion", "completion:completion", "print a shell's completion script"
    )
    completion.add_argument("shell", choices=SHELLS)
    return parser


def _add_service(commands: Any) -> None:
    _command(
        commands,
        "check",
        "service:check",
        "say what is wrong with the configuration, if anything",
        *(_config(), _candidates(), _json()),
    )
    _command(commands, "serve", "service:serve", "run the router", _config(), _candidates())
    _command(
        commands, "helper", "service:helper", "run the root helper (systemd starts it)", _config()
    )
    activate = _command(
        commands,
        "activate",
        "service:activate",
        "write what the engines' units read",
        *(_config(), _candidates(), _json()),
    )
    which = activate.add_mutually_exclusive_group(required=True)
    which.add_argument("model", metavar=MODEL, nargs="?", help="one model")
    which.add_argument("--all", action="store_true", help="every model with a unit of its own")
    activate.add_argument("--check", action="store_true", help="say what would change, only")


def _add_adoption(commands: Any) -> None:
    discover = _command(
        commands,
        "discover",
        "adoption:discover",
        "propose a models.yml from the units and model folders of this host",
        _json(),
    )
    discover.add_argument(
        "--models-dir",
        dest="models_dirs",
        action="append",
        default=[],
        metavar=FILE,
        help="look here for models, in place of the usual folders; may be repeated",
    )
    keys = _command(
        commands,
        "adopt-keys",
        "adoption:adopt_keys",
        "give the router the keys that this host's own engines want; root",
        *(_config(), _candidates(), _json()),
    )
    keys.add_argument("--check", action="store_true", help="say what would be written, only")
    importer = _command(
        commands,
        "import",
        "adoption:import_models",
        "turn another router's configuration into a models.yml",
        _json(),
    )
    importer.add_argument(
        "file",
        metavar=FILE,
        help="llama-swap's config.yaml, a Python file with MODELS = {...}, or a config.json",
    )
    importer.add_argument(
        "--units",
        choices=UNITS,
        default="systemd",
        help="what shall run the engines (default systemd)",
    )


def _add_runtime(commands: Any) -> None:
    parents = (_config(), _json())
    status = _command(
        commands,
        "status",
        "status:status",
        "what is loaded, what runs, who waits; in a terminal a live view, until Ctrl-C",
        *parents,
    )
    how = status.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="print it once, in a terminal too")
    how.add_argument("-w", "--watch", action="store_true", help="go on, wherever the output goes")
    status.add_argument(
        "--interval", type=_seconds, default=1.0, metavar="S", help="between looks (default 1)"
    )
    switch = _command(
        commands, "switch", "admin:switch", "have a model loaded, and wait for it", *parents
    )
    switch.add_argument("model", metavar=MODEL)
    switch.add_argument("--timeout", type=_seconds, metavar="S", help="how long to wait")
    unload = _command(
        commands,
        "unload",
        "admin:unload",
        "free a device group once its running answers have ended",
        *parents,
    )
    unload.add_argument("--group", metavar="GROUP", default="default", help="(default: default)")
    reload = _command(
        commands, "reload", "admin:reload", "have the configuration files read again", *parents
    )
    reload.add_argument("--dry-run", action="store_true", help="only say what would change")
    plan = _command(
        commands, "plan", "admin:plan", "what a request for a model would do now", *parents
    )
    plan.add_argument("model", metavar=MODEL)
    logs = _command(
        commands, "logs", "admin:logs", "the last log lines of a model's unit", *parents
    )
    logs.add_argument("model", metavar=MODEL)
    logs.add_argument(
        "--lines", type=_lines, default=50, metavar="N", help=f"1 to {MAX_LINES} (default 50)"
    )
    _command(
        commands, "requests", "admin:requests", "the requests that wait or are answered", *parents
    )
    cancel = _command(
        commands, "cancel", "admin:cancel", "end a request, or a running switch", *parents
    )
    what = cancel.add_mutually_exclusive_group(required=True)
    what.add_argument("id", type=int, nargs="?", metavar="ID", help="as `requests` shows it")
    what.add_argument(
        "--switch", action="store_true", help="the running switch; the former model is brought back"
    )
    cancel.add_argument(
        "--group", metavar="GROUP", default="default", help="the switch's group (default: default)"
    )
    drain = _command(
        commands,
        "drain",
        "admin:drain",
        "have balancers send requests elsewhere, and wait for those under way",
        *parents,
    )
    how_long = drain.add_mutually_exclusive_group()
    how_long.add_argument("--off", action="store_true", help="take it back")
    how_long.add_argument("--timeout", type=_seconds, metavar="S", help="how long to wait")
    pin = _command(
        commands, "pin", "admin:pin", "load a model, and keep others of its group out", *parents
    )
    pin.add_argument("model", metavar=MODEL)
    pin.add_argument("--for", dest="seconds", type=_seconds, metavar="S", required=True)
    unpin = _command(commands, "unpin", "admin:unpin", "let others be loaded again", *parents)
    unpin.add_argument("model", metavar=MODEL)
    clear = _command(
        commands,
        "clear",
        "admin:clear",
        "forget a model's failures, so that it is tried again",
        *parents,
    )
    clear.add_argument("model", metavar=MODEL)


def _add_qualify(commands: Any) -> None:
    qualify = _command(
        commands,
        "qualify",
        "qualify:qualify",
        "check this host and its models, measure them, and write a report; it switches models",
        _config(),
    )
    qualify.add_argument(
        "--models",
        dest="names",
        type=_names,
        metavar=MODEL,
        help="check these models alone, with commas between them (default: all)",
    )
    qualify.add_argument(
        "--budget",
        type=_duration,
        default=600.0,
        metavar="TIME",
        help="how long the checks may take, such as 90s, 10m or 1h (default 10m); what does not "
        "fit is reported as skipped",
    )
    qualify.add_argument(
        "--json", dest="json_file", type=Path, metavar=FILE, help="write the report as JSON"
    )
    qualify.add_argument(
        "--html", dest="html_file", type=Path, metavar=FILE, help="write the report as a web page"
    )
    qualify.add_argument(
        "--compare", type=Path, metavar=FILE, help="compare with this earlier report (JSON)"
    )
    qualify.add_argument(
        "--slower",
        type=_percent,
        default=20.0,
        metavar="PERCENT",
        help="with --compare: percent by which a value may be slower (default 20)",
    )
    qualify.add_argument(
        "--label", default="", metavar="TEXT", help="the title of the report, such as a host's name"
    )
    qualify.add_argument(
        "--yes", action="store_true", help="do not ask whether models may be switched"
    )
    qualify.add_argument(
        "--force", action="store_true", help="switch models even though others use the router"
    )


def _add_models(commands: Any) -> None:
    listing = _command(
        commands,
        "list",
        "models:list_models",
        "the models of models.yml, and their state if the router runs",
        *(_config(), _candidates(), _json()),
    )
    listing.add_argument("--names", action="store_true", help="their names alone, unchecked")
    add = _command(
        commands,
        "add",
        "models:add",
        "add an entry to models.yml, if it is valid with it",
        *(_config(), _candidates(), _dry_run(), _json()),
    )
    add.add_argument("name", metavar="NAME", help="what clients will call it")
    _add_fields(add)
    remove = _command(
        commands,
        "remove",
        "models:remove",
        "take an entry out of models.yml, if it is valid without it",
        *(_config(), _candidates(), _dry_run(), _json()),
    )
    remove.add_argument("name", metavar=MODEL)


def _add_fields(add: argparse.ArgumentParser) -> None:
    """The keys of an entry of models.yml, in the order in which they are written."""
    fields = add.add_argument_group("the entry")
    fields.add_argument("--backend", required=True, choices=BACKENDS)
    fields.add_argument("--service", metavar="UNIT", help="the systemd unit that runs it")
    fields.add_argument("--script", metavar=FILE, help="what a shared unit runs for this model")
    fields.add_argument("--model-path", metavar=FILE, help="llama.cpp: the GGUF file")
    fields.add_argument("--repo", metavar="ORG/NAME", help="where site.yml downloads it from")
    fields.add_argument("--revision", metavar="REV", help="of it: a branch, a tag or a commit")
    fields.add_argument(
        "--file",
        dest="files",
        action="append",
        metavar="FILE",
        help="of it, a name or pattern, once for each (llama.cpp: first the one that it loads)",
    )
    fields.add_argument("--model-name", metavar="NAME", help="what the engine calls it")
    fields.add_argument(
        "--command", metavar="COMMAND", type=shlex.split, help="program and arguments, in one word"
    )
    fields.add_argument(
        "--arg",
        dest="args",
        action="append",
        metavar="ARG",
        help="one more argument for the engine; may be repeated",
    )
    fields.add_argument("--port", type=int, metavar="N")
    fields.add_argument("--timeout", type=_seconds, metavar="S", help="from start to first token")
    fields.add_argument("--status", choices=STYLES, help="how who waits is told")
    fields.add_argument("--group", metavar="GROUP", help="device group")
    fields.add_argument("--ttl", type=_seconds, metavar="S", help="unload it when idle for so long")
    fields.add_argument(
        "--preload", action="store_true", default=None, help="load it when the router starts"
    )
    fields.add_argument(
        "--no-warm-up",
        dest="warm_up",
        action="store_false",
        default=None,
        help="do not wait for a first token",
    )


def _command(
    commands: Any, name: str, run: str, summary: str, *parents: argparse.ArgumentParser
) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(
        name, parents=parents, help=summary, description=summary, allow_abbrev=False
    )
    made.set_defaults(run=f"llm_router.cli.{run}")
    return made


def _parent() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(add_help=False)


def _config() -> argparse.ArgumentParser:
    parent = _parent()
    parent.add_argument(
        "--config",
        type=Path,
        default=DEFAULT_CONFIG,
        metavar=FILE,
        help=f"config.yml (default {DEFAULT_CONFIG})",
    )
    return parent


def _candidates() -> argparse.ArgumentParser:
    parent = _parent()
    for name in ("models", "keys"):
        parent.add_argument(
            f"--{name}",
            type=Path,
            metavar=FILE,
            help=f"a {name}.yml in place of the configured one",
        )
    return parent


def _json() -> argparse.ArgumentParser:
    parent = _parent()
    parent.add_argument("--json", action="store_true", help="print JSON")
    return parent


def _dry_run() -> argparse.ArgumentParser:
    parent = _parent()
    parent.add_argument(
        "--dry-run", action="store_true", help="print what would change, as a diff, only"
    )
    return parent


def _positive(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value > 0 and math.isfinite(value) else None


def _seconds(text: str) -> float:
    value = _positive(text)
    if value is None:
        raise argparse.ArgumentTypeError(f"{text} is not a time in seconds")
    return value


def _percent(text: str) -> float:
    value = _positive(text)
    if value is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage: write it as 20")
    return value


def _duration(text: str) -> float:
    """Seconds; ``90``, ``90s``, ``10m`` or ``1h``."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    value = _positive(number)
    if value is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: write it as 90s, 10m or 1h")
    return value * unit


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("no model is named")
    return names


def _lines(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MAX_LINES:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and {MAX_LINES}")
    return value
