"""The one writer of the files that engines' units read.

The router's helper, ``llm-router activate`` and Ansible all come here, so a file looks the same
whoever wrote it. `desired_files` is pure and says what should be where; `render` is pure and says
what that makes of a file's present text; `apply` reads, compares and writes.

What is written:

* llama.cpp as an instance (``llamacpp@<instance>.service``): ``LLAMACPP_ARGS=`` in
  ``<llamacpp>/<instance>.env``. Other variables and comments there are the operator's and stay.
* SGLang and vLLM: the YAML that ``--config`` of their unit names, with the model, its name, host,
  port, key and options. A comment in it lists the keys that are ours, so that one which the next
  model has not got goes again; keys that are not in the list are the operator's and stay.
* TabbyAPI: ``model.model_name`` (and ``model.model_dir``) of the unit's config.yml, which is the
  operator's, and the model's ``settings`` in the ``tabby_config.yml`` of its folder.
* a model with a ``script``: the drop-in ``<units>/<unit>.d/50-llm-router.conf``, which makes the
  script the unit's ExecStart, word for word. The whole file is ours. For a model without a script
  it must not be there: the unit would go on running the script of another model that shares it.

For the target's Python (>= 3.9), since Ansible modules import this file. Standard library only,
but for the YAML of SGLang, vLLM and TabbyAPI (`yaml_edit`).
"""

from __future__ import annotations

import contextlib
import difflib
import grp
import json
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

from . import yaml_edit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DROP_IN = "50-llm-router.conf"
MAX_FILE = 1 << 20
LOOPBACK = "127.0.0.1"
TABBY_PORT = 5000

_INSTANCE = re.compile(r"llamacpp@(?P<instance>[^/]+)\.service")
_ENGINE_UNIT = re.compile(
    r"(?P<engine>sglang|vllm|tabbyapi[^@/]*)(?:@(?P<instance>[^/]+))?\.service"
)
_OPTION = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,15})")
_FRACTION = re.compile(r"-?(0|[1-9][0-9]{0,8})\.[0-9]{1,8}")
_LIST_MARK = "# llm-router wrote:"
_SECRET = re.compile(
    r"""(?ix) ( (?: (?:admin[-_])? api[-_]key | admin[-_]key | token | password | secret ) ["']?
        (?: \s*[:=]\s* | ["'\s,]+ ) ) (?P<value> "[^"]*" | '[^']*' | [^\s,"'}\]]+ )"""
)
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+\.service")
_BARE_WORD = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")
_WHITESPACE = " \t\n\r"
_NEWLINE = "\n\r"


class EngineFileError(Exception):
    """A file cannot be worked out, read or written; the message is one sentence for a person."""


class SpecError(EngineFileError):
    """A model's entry says what no file can: its ``key``, what is wrong with it, what to do."""

    def __init__(self, model: str, key: str, what: str, remedy: str) -> None:
        super().__init__(f"model {model}: {key} {what}; {remedy}")
        self.key = key
        self.what = what
        self.remedy = remedy


@dataclass(frozen=True)
class EngineSpec:
    """What activation needs to know of a model: the fields of models.yml of the same names."""

    name: str
    backend: str
    unit: str
    model_path: Optional[str] = None
    model_name: Optional[str] = None
    args: tuple[str, ...] = ()
    port: Optional[int] = None
    script: Optional[str] = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    config_file: Optional[str] = None
    api_key: Optional[str] = field(default=None, repr=False)
    """The engine's key itself; what models.yml has is the file that it is in."""
    alone: bool = True
    """Whether no other model has a say in what its unit serves."""


@dataclass(frozen=True)
class EngineDirs:
    """Where units read from. ``etc`` has a directory for each engine."""

    llamacpp: str = "/etc/llamacpp"
    units: str = "/etc/systemd/system"
    etc: str = "/etc"


@dataclass(frozen=True)
class WholeFile:
    """The file is exactly this text."""

    text: str


@dataclass(frozen=True)
class EnvironmentKey:
    """One variable of a systemd EnvironmentFile; everything else in the file stays."""

    key: str
    value: str
    header: str
    """Comment lines that go above the variable where it is not there yet."""


@dataclass(frozen=True)
class YamlValue:
    """One value of a YAML file. ``default``: what its reader takes where it is missing or empty.
    ``fine``: other values that do as well, and stay."""

    path: tuple[str, ...]
    value: Any
    default: Any = None
    fine: tuple[Any, ...] = ()


@dataclass(frozen=True)
class YamlKeys:
    """Values of a YAML file; every other byte in it stays.

    ``header``: comment lines of a new file; None where it must be there already (``missing`` says
    what to do then), or may be missing (``missing`` is empty). ``listed``: a comment in the file
    names the keys that are ours, and those which it names and are not wanted any more go.
    """

    values: tuple[YamlValue, ...]
    header: Optional[str] = None
    missing: str = ""
    listed: bool = False
    synonyms: Mapping[str, str] = field(default_factory=dict)
    """Other names of keys, by which the file may call them."""


@dataclass(frozen=True)
class NoFile:
    """There is no such file."""


@dataclass(frozen=True)
class FileEdit:
    """A file and what should be in it. ``mode`` is a new file's; an existing one keeps its own."""

    path: str
    content: Union[WholeFile, EnvironmentKey, YamlKeys, NoFile]
    mode: int = 0o644
    daemon_reload: bool = False
    """Whether systemd reads the file only on daemon-reload."""
    reader: Optional[str] = None
    """The group that reads the file. A new one is its alone (0640) where there is such a group."""
    secret: bool = False
    """Whether a key is in it: then nobody else may read it, even if it was there before."""
    directory: bool = True
    """Whether a missing directory is made; else it is somebody else's matter, and an error."""


@dataclass(frozen=True)
class FileResult:
    """What became, or in check mode would become, of one file. ``diff`` is a unified diff."""

    path: str
    changed: bool
    diff: str
    daemon_reload: bool = False
    """Whether systemd has to be told: the edit asked for it, and something changed."""


def desired_files(spec: EngineSpec, dirs: EngineDirs) -> list[FileEdit]:
    """What must be on disk for the unit to serve this model. Raises `EngineFileError`.

    A model that no systemd unit runs (a child process) needs no file.
    """
    if not spec.unit.endswith(".service"):
        return []
    if not _UNIT.fullmatch(spec.unit):
        raise EngineFileError(
            f"model {spec.name}: {spec.unit!r} is not the name of a systemd service"
        )
    edits = []
    if spec.script is None:
        if spec.backend == "llamacpp" and config_path(spec, dirs) is not None:
            edits.append(_llamacpp_file(spec, dirs))
        elif spec.backend in _SERVERS and spec.model_path is not None:
            edits += _server_file(spec, dirs)
        elif spec.backend == "tabby":
            edits += _tabby_files(spec, dirs)
    edits.append(_drop_in(spec, dirs))
    return edits


def config_path(spec: EngineSpec, dirs: EngineDirs) -> Optional[str]:
    """The file that the unit reads: ``config_file``, else by the unit's name.

    ``X.service`` reads ``/etc/X/X.yml`` (TabbyAPI: ``config.yml``), and an instance
    ``X@NAME.service`` ``/etc/X/NAME.yml`` (llama.cpp: ``NAME.env``). None for a unit of another
    name, and for a backend without such a file.
    """
    if spec.backend not in ("sglang", "vllm", "tabby", "llamacpp"):
        return None
    if spec.config_file is not None:
        return spec.config_file
    llamacpp = _INSTANCE.fullmatch(spec.unit)
    if spec.backend == "llamacpp":
        name = llamacpp["instance"] if llamacpp else ""
        return os.path.join(dirs.llamacpp, f"{name}.env") if name else None  # noqa: PTH118
    unit = _ENGINE_UNIT.fullmatch(spec.unit)
    backend = {"sglang": "sglang", "vllm": "vllm"}.get(unit["engine"], "tabby") if unit else None
    if unit is None or backend != spec.backend:
        return None
    name = unit["instance"] or ("config" if backend == "tabby" else unit["engine"])
    if "\\" in name:
        raise SpecError(
            spec.name,
            "service",
            f"{spec.unit!r} has a backslash in its instance name",
            "use letters, digits and . _ : - only, or name its file with `config_file:`",
        )
    return os.path.join(dirs.etc, unit["engine"], f"{name}.yml")  # noqa: PTH118


def llamacpp_arguments(
    *,
    model_path: str,
    alias: str,
    port: int,
    args: Sequence[str] = (),
    settings: Optional[Mapping[str, Any]] = None,
) -> list[str]:
    """llama-server's arguments without the program; ``args`` come last, so they win.

    Of ``settings``, true is an option without a value, false and None are none at all, and a list
    is the option once for each.
    """
    return [
        *("--model", model_path),
        *("--alias", alias),
        *("--host", LOOPBACK),
        *("--port", str(port)),
        "--metrics",
        *_flags(settings or {}),
        *args,
    ]


def _flags(settings: Mapping[str, Any]) -> Iterator[str]:
    for key, value in settings.items():
        option = f"--{_option(key)}"
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if each is True:
                yield option
            elif each is not None and each is not False:
                yield from (option, each if isinstance(each, str) else json.dumps(each))


def _llamacpp_file(spec: EngineSpec, dirs: EngineDirs) -> FileEdit:
    path = config_path(spec, dirs) or ""
    if "\\" in path:
        # EnvironmentFile= is a glob pattern, and there a backslash is no ordinary character
        raise EngineFileError(
            f"model {spec.name}: the instance name in {spec.unit} has a backslash, so the unit "
            "cannot find its file; use letters, digits and . _ : - only"
        )
    if spec.model_path is None:
        raise EngineFileError(
            f"model {spec.name}: model_path is missing, and llama.cpp needs the GGUF file's path"
        )
    argv = llamacpp_arguments(
        model_path=spec.model_path,
        alias=spec.model_name or spec.name,
        port=spec.port or 8080,
        args=spec.args,
        settings=spec.settings,
    )
    for key, each in spec.settings.items():
        if isinstance(each, Mapping):
            raise SpecError(
                spec.name,
                f"settings.{key}",
                "is a mapping",
                "llama.cpp's options take text, numbers and lists of them",
            )
    try:
        value = join_arguments(argv)
    except ValueError as error:
        raise EngineFileError(f"model {spec.name}: {error}") from error
    header = (
        f"# What {spec.unit} serves. LLAMACPP_ARGS is written by llm-router from models.yml;\n"
        "# everything else in this file stays as it is.\n"
    )
    return FileEdit(
        path=path,
        content=EnvironmentKey("LLAMACPP_ARGS", value, header),
    )


_SERVERS: Mapping[str, tuple[str, int, Mapping[str, str]]] = {
    "sglang": ("model-path", 30000, {"model": "model-path"}),
    "vllm": ("model", 8000, {}),
}
"""What each calls the model, its own port, and other names of its options."""


def _server_file(spec: EngineSpec, dirs: EngineDirs) -> list[FileEdit]:
    """SGLang's and vLLM's ``--config``: a mapping of their long options."""
    path = config_path(spec, dirs)
    if path is None:  # a unit of another name reads what its owner says
        return []
    model_key, port, synonyms = _SERVERS[spec.backend]
    values: dict[str, Any] = {
        model_key: spec.model_path,
        "served-model-name": spec.model_name or spec.name,
        "host": LOOPBACK,
        "port": spec.port or port,
    }
    if spec.api_key is not None:
        values["api-key"] = spec.api_key
    values.update(server_options(spec))
    header = (
        f"# What {spec.unit} serves, written by llm-router from models.yml. It changes the keys\n"
        "# that the next line names; further ones are yours, and stay.\n"
    )
    wanted = tuple(YamlValue((key,), value) for key, value in values.items())
    content = YamlKeys(wanted, header, listed=True, synonyms=synonyms)
    return [FileEdit(path, content, reader=spec.backend, secret=spec.api_key is not None)]


def server_options(spec: EngineSpec) -> dict[str, Any]:
    """``args`` and ``settings`` of a SGLang or vLLM model as keys of its YAML. Raises `SpecError`.

    A mapping becomes JSON text, which is what the options that take one read; None is left out.
    """
    options = _from_arguments(spec)
    for key, value in spec.settings.items():
        name = _option(key)
        if name in options:
            raise SpecError(spec.name, f"settings.{key}", "is in `args` too", "keep one of the two")
        if value is not None:
            options[name] = _option_value(value)
    own = _routers_options(spec.backend)
    for name in options:
        if name in own:
            where = "args" if name in _from_arguments(spec) else f"settings.{name}"
            raise SpecError(spec.name, where, f"says {name}, which the router decides", own[name])
    return options


def _routers_options(backend: str) -> dict[str, str]:
    """What the router says itself, and what to do instead."""
    own = {
        "host": "leave it out: engines listen on 127.0.0.1 alone",
        "port": "say it as `port:`",
        "api-key": "put the key into a file and name that as `api_key_file:`",
        "served-model-name": "say it as `model_name:`",
        "config": "name the file as `config_file:`",
        "model": "say it as `model_path:`",
    }
    if backend == "sglang":
        own["model-path"] = own["model"]
    return own


def _from_arguments(spec: EngineSpec) -> dict[str, Any]:
    """``--key value``, ``--key=value`` and ``--flag`` as keys."""
    found: dict[str, Any] = {}
    words: list[Any] = []
    name = None
    for argument in (*spec.args, None):
        option = argument is not None and argument.startswith("--") and len(argument) > 2
        if not option and argument is not None and name is not None:
            words.append(_number(argument))
            continue
        if name is not None:
            found[name] = True if not words else words[0] if len(words) == 1 else words
        if argument is None:
            break
        key, equals, value = argument[2:].partition("=")
        if not option or not _OPTION.fullmatch(key):
            raise SpecError(
                spec.name,
                "args",
                f"has {argument!r}, which cannot be a key of the engine's YAML",
                "write the long option's name and its value under `settings:`",
            )
        name, words = _option(key), [_number(value)] if equals else []
        if name in found:
            raise SpecError(spec.name, "args", f"has --{name} twice", "keep one of the two")
    return found


def _option(key: str) -> str:
    """An option's name as engines write it; both spell `_` and `-` alike, up to a dot."""
    head, dot, rest = key.partition(".")
    return head.replace("_", "-") + dot + rest


def _option_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (list, tuple)):
        return [_option_value(each) for each in value]
    return value


def _number(text: str) -> Any:
    """A number where it would be written exactly so again."""
    if _WHOLE_NUMBER.fullmatch(text) and text != "-0":
        return int(text)
    if _FRACTION.fullmatch(text) and repr(float(text)) == text:
        return float(text)
    return text


def _tabby_files(spec: EngineSpec, dirs: EngineDirs) -> list[FileEdit]:
    path = config_path(spec, dirs)
    if path is None:  # a unit of another name reads what its owner says
        return []
    folder, name = _tabby_place(spec)
    values = [YamlValue(("model", "model_name"), name)]
    if folder is not None:
        values.append(YamlValue(("model", "model_dir"), folder, default="models"))
    reachable = ("127.0.0.1", "localhost", "0.0.0.0", "::")
    values.append(YamlValue(("network", "host"), LOOPBACK, LOOPBACK, reachable))
    values.append(YamlValue(("network", "port"), spec.port or TABBY_PORT, TABBY_PORT))
    missing = ""
    if spec.config_file is not None or not spec.alone:
        missing = (
            f"name the config.yml that {spec.unit} reads as `config_file:` of {spec.name} in "
            "models.yml"
        )
    edits = [FileEdit(path, YamlKeys(tuple(values), missing=missing))]
    if folder is not None:
        edits.append(_tabby_settings(spec, os.path.join(folder, name)))  # noqa: PTH118
    return edits


def _tabby_place(spec: EngineSpec) -> tuple[Optional[str], str]:
    """The directory of models, None where config.yml decides, and the model's path below it."""
    name = spec.model_name or spec.name
    if spec.model_path is None:
        return None, name
    path = spec.model_path.rstrip("/")
    if spec.model_name is None:
        return os.path.split(path)  # the last part is also what TabbyAPI calls it
    folder = path[: -len(name)].rstrip("/") if path.endswith(f"/{name}") else ""
    if not folder:
        raise SpecError(
            spec.name,
            "model_path",
            f"{spec.model_path!r} does not end with its model_name",
            f"TabbyAPI calls a model by its folder: use `model_path: …/{name}`",
        )
    return folder, name


def _tabby_settings(spec: EngineSpec, folder: str) -> FileEdit:
    """The model's own file, which TabbyAPI puts above config.yml and above what a client asks."""
    values = []
    for key, value in spec.settings.items():
        if key == "draft_model" and not isinstance(value, Mapping):
            raise SpecError(
                spec.name,
                "settings.draft_model",
                "is not a mapping",
                "give keys of TabbyAPI's `draft_model:`, such as `draft_model_name`",
            )
        section = ("draft_model",) if key == "draft_model" else ("model",)
        inner = value if key == "draft_model" else {key: value}
        values += [YamlValue((*section, name), each) for name, each in inner.items()]
    header = (
        f"# Settings of {spec.name}, written by llm-router from models.yml. It changes the keys\n"
        "# that the next line names; further ones are yours, and stay.\n"
    )
    content = YamlKeys(tuple(values), header if values else None, listed=True)
    path = os.path.join(folder, "tabby_config.yml")  # noqa: PTH118
    return FileEdit(path, content, directory=False)


def _drop_in(spec: EngineSpec, dirs: EngineDirs) -> FileEdit:
    path = os.path.join(dirs.units, f"{spec.unit}.d", DROP_IN)  # noqa: PTH118
    if spec.script is None:
        return FileEdit(path, NoFile(), daemon_reload=True)
    if not spec.script.startswith("/"):
        raise EngineFileError(f"model {spec.name}: script {spec.script!r} does not begin with /")
    if _control_character(spec.script) is not None or spec.script.endswith("\\"):
        raise EngineFileError(
            f"model {spec.name}: script {spec.script!r} would not stay one line in a unit file"
        )
    text = (
        f"# Written by llm-router: {spec.unit} serves {spec.name}. Changes here will be lost.\n"
        "[Service]\n"
        "ExecStart=\n"
        f"ExecStart={spec.script}\n"
    )
    return FileEdit(path, WholeFile(text), daemon_reload=True)


def join_arguments(argv: Sequence[str]) -> str:
    """One string that systemd's ``$VARIABLE`` splits into exactly ``argv``.

    systemd splits at whitespace; in quotes and outside a backslash makes the next character
    ordinary, and nothing else is special: it expands neither ``$`` nor ``%`` in a value. Raises
    `ValueError` for what an environment variable cannot carry.
    """
    return " ".join(_word(argument) for argument in argv)


def _word(argument: str) -> str:
    bad = _control_character(argument)
    if bad is not None:
        raise ValueError(f"argument {argument!r} has the control character {bad!r}")
    if _BARE_WORD.fullmatch(argument):
        return argument
    return "'" + argument.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _control_character(text: str) -> str | None:
    """The first character that older systemd refuses in a value, or that UTF-8 cannot carry."""
    for char in text:
        code = ord(char)
        if (code < 0x20 and char != "\t") or code == 0x7F or 0xD800 <= code <= 0xDFFF:
            return char
    return None


def environment_line(key: str, value: str) -> str:
    """``KEY="value"`` as systemd's EnvironmentFile parser reads it back, without a line end."""
    escaped = re.sub(r'(["\\`$])', r"\\\1", value)
    return f'{key}="{escaped}"'


def render(edit: FileEdit, current: str | None) -> str | None:
    """The text that the file should have, given what it has; None: no file. Pure.

    Raises `EngineFileError`, naming the line, for a file that must be edited and cannot be parsed.
    """
    content = edit.content
    if isinstance(content, WholeFile):
        return content.text
    if isinstance(content, EnvironmentKey):
        return _set_environment_key(current or "", content, edit.path)
    if isinstance(content, YamlKeys):
        return _set_yaml_keys(current, content, edit.path)
    return None


def _set_yaml_keys(current: str | None, wanted: YamlKeys, path: str) -> str | None:
    if current is None:
        if wanted.header is None and wanted.missing:
            raise EngineFileError(f"{path} does not exist; {wanted.missing}")
        if wanted.header is None:
            return None
    text = wanted.header or "" if current is None else current
    if current is not None and not current.strip() and wanted.header is None and wanted.values:
        raise EngineFileError(
            f"{path} is empty, and its engine would go by its defaults; bring its text back first"
        )
    try:
        document = yaml_edit.mapping(text)
        before = _listed(text) if wanted.listed else set()
        paths = []
        for each in wanted.values:
            place = _as_the_file_calls_it(each.path, document, wanted)
            paths.append(place)
            if not _is_there(document, place, each):
                text = yaml_edit.set_value(text, place, each.value)
        for name in sorted(before - {".".join(place) for place in paths}):
            place = (name,) if name in document else tuple(name.split("."))
            with contextlib.suppress(KeyError):  # where the operator was quicker
                text = yaml_edit.remove(text, place)
        if wanted.listed:
            text = _with_list(text, [".".join(place) for place in paths], wanted.header)
    except yaml_edit.YamlError as error:
        raise EngineFileError(_at(path, error.line, error.problem)) from error
    except yaml_edit.NotEditable as error:
        raise EngineFileError(
            _at(path, error.line, f"{error}; write it in a simpler way")
        ) from error
    return text


def _at(path: str, line: int, problem: str) -> str:
    return f"{path}:{line}: {problem}" if line else f"{path}: {problem}"


def _is_there(document: Mapping[str, Any], path: tuple[str, ...], wanted: YamlValue) -> bool:
    try:
        value = yaml_edit.get(document, path)
    except KeyError:
        value = None
    if value is None and wanted.value is not None:
        value = wanted.default
    return any(yaml_edit.same(value, each) for each in (wanted.value, *wanted.fine))


def _as_the_file_calls_it(
    path: tuple[str, ...], document: Mapping[str, Any], wanted: YamlKeys
) -> tuple[str, ...]:
    """`model_path` and `model-path` are one option: given twice, the last would win."""
    if len(path) > 1 or path[0] in document:
        return path
    for key in document:
        name = _option(str(key))
        if wanted.synonyms.get(name, name) == path[0]:
            return (str(key),)
    return path


def _listed(text: str) -> set[str]:
    """The keys that the file's comment says are ours."""
    for line in text.splitlines():
        if line.startswith(_LIST_MARK):
            return {name.strip() for name in line[len(_LIST_MARK) :].split(",")} - {""}
    return set()


def _with_list(text: str, names: list[str], header: str | None) -> str:
    """The text with the comment that lists ``names``; without one, it gets none for no names."""
    line = f"{_LIST_MARK} {', '.join(names)}".rstrip()
    found = re.search(f"(?m)^{re.escape(_LIST_MARK)}[^\r\n]*", text)
    if found is None and not names:
        return text
    if found is not None:
        if set(names) == _listed(text):
            return text
        new = text[: found.start()] + line + text[found.end() :]
    else:
        start = 1 if text.startswith("\ufeff") else 0
        if header is not None and text.startswith(header):
            start = len(header)
        end_of_line = "\r\n" if "\r\n" in text else "\n"
        new = text[:start] + line + end_of_line + text[start:]
    if not yaml_edit.same(yaml_edit.load(new), yaml_edit.load(text)):
        raise yaml_edit.NotEditable("has the list of llm-router's keys inside a value")
    return new


def _set_environment_key(text: str, wanted: EnvironmentKey, path: str) -> str:
    line = environment_line(wanted.key, wanted.value)
    spans = [(start, end) for start, end, key in _assignments(text, path) if key == wanted.key]
    if not spans:
        end_of_line = "\r\n" if "\r\n" in text else "\n"
        gap = "" if not text or text.endswith(("\n", "\r")) else end_of_line
        added = (wanted.header + line + "\n").replace("\n", end_of_line)
        return text + gap + added
    parts, position = [], 0
    for number, (start, end) in enumerate(spans):
        parts.append(text[position:start])
        if number == 0:  # the later ones would win over it
            old = text[start:end]
            parts.append(line + old[len(old.rstrip(_NEWLINE)) :])
        position = end
    parts.append(text[position:])
    return "".join(parts)


def _assignments(text: str, path: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, key) of each assignment, its line end included, by systemd's own rules.

    A value may run over several lines, in quotes or by a backslash at a line's end, and ``#`` is a
    comment only at the beginning of a line: a regular expression over lines gets that wrong.
    """
    position, size = 0, len(text)
    while position < size:
        if text[position] in _WHITESPACE:
            position += 1
            continue
        start = position
        line_end = _line_end(text, position)
        if text[position] in "#;":
            if text[position:line_end].rstrip(_NEWLINE).endswith("\\"):
                raise EngineFileError(
                    f"{path}:{_line_number(text, start)}: a comment ends with a backslash, which "
                    "versions of systemd read in different ways; take the backslash away"
                )
            position = line_end
            continue
        equals = text.find("=", position, line_end)
        if equals < 0:  # no assignment: systemd passes over it, and so do we
            position = line_end
            continue
        position = _value_end(text, equals + 1, path)
        yield start, position, text[start:equals].strip(_WHITESPACE)


def _value_end(text: str, position: int, path: str) -> int:
    """The index behind a value and its line end."""
    size = len(text)
    before_value = True  # a quote is one only where a value, or a part of it, begins
    while position < size:
        char = text[position]
        if char in _NEWLINE:
            return position + (2 if text.startswith("\r\n", position) else 1)
        if char == "\\":
            position += 2
            before_value = False
        elif before_value and char in "'\"":
            position = _quote_end(text, position, path)
        else:
            before_value = before_value and char in _WHITESPACE
            position += 1
    return size


def _quote_end(text: str, opened: int, path: str) -> int:
    """The index behind the quote that closes the one at ``opened``."""
    quote, position = text[opened], opened + 1
    while position < len(text):
        if text[position] == quote:
            return position + 1
        position += 2 if text[position] == "\\" and quote == '"' else 1
    raise EngineFileError(
        f"{path}:{_line_number(text, opened)}: a quote is opened here and never closed; close it"
    )


def _line_end(text: str, position: int) -> int:
    while position < len(text) and text[position] not in _NEWLINE:
        position += 1
    while position < len(text) and text[position] in _NEWLINE:
        position += 1
    return position


def _line_number(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def apply(edits: Sequence[FileEdit], check: bool = False) -> list[FileResult]:
    """Bring the files to what the edits say; with ``check``, only say what would change.

    Nothing is written unless every file could be read and worked out. A file is replaced whole
    (temporary file in its directory, fsync, rename, fsync of the directory), so a reader, and the
    disk after a power cut, have the old text or the new one. An existing file keeps owner and mode.
    A missing directory is made, one level deep. A file that is a symbolic link, or anything else
    but a regular file, is refused: renaming over a link would cut it, and following it would write
    where nobody looked. Links among the directories are the operator's business. Raises
    `EngineFileError`.
    """
    planned = []
    for edit in edits:
        path = Path(edit.path)
        current, status = _read(path)
        wanted = render(edit, current)
        if wanted is not None:
            _access(edit, status)  # raises what would be in the way of writing
        if wanted is not None and not edit.directory and not path.parent.is_dir():
            raise EngineFileError(f"{path.parent} is not there, so {path.name} cannot be in it")
        planned.append((edit, path, current, wanted, status))
    results = []
    for edit, path, current, wanted, status in planned:
        changed = wanted != current
        if changed and not check:
            _write(path, wanted, _access(edit, status), edit.directory)
        diff = _diff(edit.path, current, wanted) if changed else ""
        results.append(FileResult(edit.path, changed, diff, changed and edit.daemon_reload))
    return results


def _read(path: Path) -> tuple[str | None, os.stat_result | None]:
    """Text and status of the file; (None, None) where there is none."""
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            raise EngineFileError(
                f"{path} is a symbolic link; put a regular file there, or remove it"
            )
        if not stat.S_ISREG(status.st_mode):
            raise EngineFileError(f"{path} is not a regular file; move it away")
        if status.st_size > MAX_FILE:
            raise EngineFileError(
                f"{path} has {status.st_size} bytes, too many for a configuration file"
            )
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None, None
    except OSError as error:
        raise EngineFileError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return data.decode(), status
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise EngineFileError(f"{path}:{line}: is not UTF-8; save the file as UTF-8") from error


@dataclass(frozen=True)
class _Access:
    """Owner, group (None: whoever writes) and mode of a file that is written."""

    uid: Optional[int]
    gid: Optional[int]
    mode: int


def _access(edit: FileEdit, status: os.stat_result | None) -> _Access:
    """Who may do what with the file. Raises `EngineFileError` if a key could be read by all."""
    reader = None
    if edit.reader is not None:
        with contextlib.suppress(KeyError):
            reader = grp.getgrnam(edit.reader).gr_gid
    if status is None:
        if reader is not None:
            return _Access(None, reader, 0o640)
        if not edit.secret:
            return _Access(None, None, edit.mode)
    else:
        mode = stat.S_IMODE(status.st_mode)
        if not (edit.secret and mode & 0o007):
            return _Access(status.st_uid, status.st_gid, mode)
        if reader is not None:
            return _Access(status.st_uid, reader, mode & 0o770 | 0o040)
    raise EngineFileError(
        f"{edit.path} gets the engine's key, and there is no group {edit.reader!r} that alone may "
        "read it; make the file yourself with the owner of the engine and mode 0600"
    )


def _write(path: Path, text: str | None, access: _Access, directory: bool) -> None:
    try:
        if text is None:
            path.unlink(missing_ok=True)
        else:
            if directory:
                _make_directory(path.parent)
            _replace(path, text.encode(), access)
        _sync_directory(path.parent)
    except OSError as error:
        raise EngineFileError(f"{path} cannot be written: {error.strerror}") from error


def _make_directory(directory: Path) -> None:
    if directory.is_dir():
        return
    directory.mkdir()
    directory.chmod(0o755)  # whatever the umask: engines run as users of their own


def _replace(path: Path, data: bytes, access: _Access) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            uid = os.geteuid() if access.uid is None else access.uid
            gid = os.getegid() if access.gid is None else access.gid
            if (uid, gid) != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), uid, gid)
            os.fchmod(file.fileno(), access.mode)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _diff(path: str, before: str | None, after: str | None) -> str:
    lines = difflib.unified_diff(
        (before or "").splitlines(),
        (after or "").splitlines(),
        "/dev/null" if before is None else path,
        "/dev/null" if after is None else path,
        lineterm="",
    )
    return "".join(f"{masked(line)}\n" for line in lines)


def masked(text: str) -> str:
    """Without the values of what is called a key, a token or a password."""
    return _SECRET.sub(lambda found: found[1] + "********", text)
