"""The one writer of the files that engines' units read.

The router's helper, ``llm-router activate`` and Ansible all come here, so a file looks the same
whoever wrote it. `desired_files` is pure and says what should be where; `file_edits` does it.

What is written:

* llama.cpp as an instance (``llamacpp@<instance>.service``): ``LLAMACPP_ARGS=`` in
  ``<llamacpp>/<instance>.env``. Other variables and comments there are the operator's and stay.
* SGLang and vLLM: the YAML that ``--config`` of their unit names, with the model, its name, host,
  port, key and options. A comment in it lists the keys that are ours, so that one which the next
  model has not got goes again; keys that are not in the list are the operator's and stay.
* TabbyAPI: ``model.model_name`` (and ``model.model_dir``) of the unit's config.yml, which is the
  operator's, and the model's ``settings`` in the ``tabby_config.yml`` of its folder. The last
  TabbyAPI with ExLlamaV2 (79126f9) puts config.yml, its defaults included, above that file: there
  they are keys of config.yml, and what they replaced comes back with the next model.
* a model with a ``script``: the drop-in ``<units>/<unit>.d/50-llm-router.conf``, which makes the
  script the unit's ExecStart, word for word. The whole file is ours. For a model without a script
  it must not be there: the unit would go on running the script of another model that shares it.
* a model with ``gpus`` or ``environment``, whatever its backend: the same drop-in names
  ``50-llm-router.env`` beside it as an EnvironmentFile, which comes after the unit's own. systemd
  reads it as root, so nobody else may; what stands in the drop-in itself, D-Bus tells everybody.

For the target's Python (>= 3.9), since Ansible modules import this file. Standard library only.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional

from .engine_environment import (
    MASK,
    VARIABLE,
    UnknownGpu,
    resolve,
    value_problem,
    variable_problem,
    visible_devices,
)
from .file_edits import (
    EngineFileError,
    EnvironmentKey,
    FileEdit,
    FileResult,
    NoFile,
    WholeFile,
    YamlKeys,
    YamlValue,
    apply,
    environment_line,
    option_name,
)
from .safe_path import PathRefused, open_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .engine_environment import HostGpu

__all__ = [
    "DEFAULT_PORTS",
    "KEY_FILES",
    "EngineDirs",
    "EngineFileError",
    "EngineSpec",
    "FileEdit",
    "FileResult",
    "SpecError",
    "WholeFile",
    "apply",
    "config_path",
    "desired_files",
    "has_exllamav2",
    "join_arguments",
    "llamacpp_arguments",
    "read_key",
    "server_options",
    "spec_of_entry",
    "tabby_settings",
]

DROP_IN = "50-llm-router.conf"
ENVIRONMENT = "50-llm-router.env"
LOOPBACK = "127.0.0.1"
MAX_KEY = 4096
MAX_DETAILS = 1 << 20
DEFAULT_PORTS: Mapping[str, int] = {
    "sglang": 30000,
    "vllm": 8000,
    "tabby": 5000,
    "llamacpp": 8080,
}
KEY_FILES: Mapping[str, Optional[str]] = {
    "sglang": "/etc/sglang/api_key",
    "vllm": "/etc/vllm/api_key",
    "tabby": "/etc/tabbyapi/api_key",
    "llamacpp": None,
    "command": None,
}
"""Where the roles of the engines put the key that lets the router in."""

_INSTANCE = re.compile(r"llamacpp@(?P<instance>[^/]+)\.service")
_ENGINE_UNIT = re.compile(
    r"(?P<engine>sglang|vllm|tabbyapi[^@/]*)(?:@(?P<instance>[^/]+))?\.service"
)
_FLAVOR = re.compile(r"tabbyapi[^@/]*-(?P<flavor>exl[23])\.service")
_OPTION = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,15})")
_FRACTION = re.compile(r"-?(0|[1-9][0-9]{0,8})\.[0-9]{1,8}")
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+\.service")
_BARE_WORD = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


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
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What its process is started with beside what its unit says, its GPUs included."""
    exllamav2: bool = False
    """Whether its unit is a TabbyAPI that has ExLlamaV2: see `has_exllamav2`."""


@dataclass(frozen=True)
class EngineDirs:
    """Where units read from. ``etc`` has a directory for each engine."""

    llamacpp: str = "/etc/llamacpp"
    units: str = "/etc/systemd/system"
    etc: str = "/etc"


def spec_of_entry(
    name: str,
    entry: Mapping[str, Any],
    *,
    api_key: Optional[str] = None,
    alone: bool = True,
    host: Optional[Sequence[HostGpu]] = None,
    exllamav2: bool = False,
) -> EngineSpec:
    """An entry of models.yml as the config writer sees it; keys that it has no use for are passed
    over. ``entry`` has been checked. ``host``: the GPUs that its ``gpus`` are looked up in;
    None: they are not, which will do to check an entry and not to write its files.

    Raises `SpecError` for a GPU that is not there.
    """
    return EngineSpec(
        name=name,
        backend=entry["backend"],
        unit=entry.get("service") or f"child:{name}",
        model_path=entry.get("model_path"),
        model_name=entry.get("model_name"),
        args=tuple(str(each) for each in entry.get("args") or ()),
        port=entry.get("port") or DEFAULT_PORTS.get(entry["backend"]),
        script=entry.get("script"),
        settings=entry.get("settings") or {},
        config_file=entry.get("config_file"),
        api_key=api_key,
        alone=alone,
        environment=process_environment(name, entry, host),
        exllamav2=exllamav2,
    )


def has_exllamav2(unit: str, model_paths: Iterable[Optional[str]]) -> bool:
    """Whether the unit is a TabbyAPI of 79126f9 or before: by its name, else since one of its
    models, whose folders these are, is one that no later version loads."""
    named = _FLAVOR.fullmatch(unit)
    if named is not None:
        return named["flavor"] == "exl2"
    return any(_quant_method(path) in ("exl2", "gptq") for path in model_paths if path)


def _quant_method(folder: str) -> Any:
    """What the model's config.json says of its quantization, where TabbyAPI reads it."""
    path = os.path.join(os.path.abspath(folder), "config.json")  # noqa: PTH100, PTH118
    try:
        with os.fdopen(open_file(path), "rb") as file:
            details = json.loads(file.read(MAX_DETAILS))
    except (PathRefused, OSError, ValueError, RecursionError):
        return None
    quantization = details.get("quantization_config") if isinstance(details, dict) else None
    return quantization.get("quant_method") if isinstance(quantization, dict) else None


def read_key(path: Optional[str]) -> Optional[str]:
    """The key in a file of one line; None where there is no such file.

    Raises `EngineFileError` for a file that cannot be read, or has something else in it.
    """
    if path is None:
        return None
    try:
        with os.fdopen(open_file(os.path.abspath(path)), "rb") as file:  # noqa: PTH100 (links stay)
            data = file.read(MAX_KEY + 1)
        text = data[:MAX_KEY].decode("ascii").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PathRefused as error:
        raise EngineFileError(f"the engine's key in {path} cannot be read: {error}") from error
    except OSError as error:
        raise EngineFileError(
            f"the engine's key in {path} cannot be read: {error.strerror}; the file should be "
            "root:llm-router with mode 0640"
        ) from error
    except UnicodeDecodeError as error:
        raise EngineFileError(f"{path} is not a key: use letters and digits") from error
    if len(data) > MAX_KEY:
        raise EngineFileError(f"{path} is longer than {MAX_KEY} bytes, too long for a key")
    if not text or not text.isprintable() or " " in text:
        raise EngineFileError(f"{path} is not one line with a key; write one there, or remove it")
    return text


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
    return [*edits, *_drop_in(spec, dirs)]


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
        option = f"--{option_name(key)}"
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
        port=spec.port or DEFAULT_PORTS["llamacpp"],
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


_SERVERS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "sglang": ("model-path", {"model": "model-path"}),
    "vllm": ("model", {}),
}
"""What each calls the model, and other names of its options."""


def _server_file(spec: EngineSpec, dirs: EngineDirs) -> list[FileEdit]:
    """SGLang's and vLLM's ``--config``: a mapping of their long options."""
    path = config_path(spec, dirs)
    if path is None:  # a unit of another name reads what its owner says
        return []
    model_key, synonyms = _SERVERS[spec.backend]
    values: dict[str, Any] = {
        model_key: spec.model_path,
        "served-model-name": spec.model_name or spec.name,
        "host": LOOPBACK,
        "port": spec.port or DEFAULT_PORTS[spec.backend],
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
        name = option_name(key)
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
        name, words = option_name(key), [_number(value)] if equals else []
        if name in found:
            raise SpecError(spec.name, "args", f"has --{name} twice", "keep one of the two")
    return found


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
    values = [YamlValue(("model", "model_name"), name, listed=False)]
    if folder is not None:
        values.append(YamlValue(("model", "model_dir"), folder, default="models", listed=False))
    port = DEFAULT_PORTS["tabby"]
    reachable = ("127.0.0.1", "localhost", "0.0.0.0", "::")
    values.append(YamlValue(("network", "host"), LOOPBACK, LOOPBACK, reachable, listed=False))
    values.append(YamlValue(("network", "port"), spec.port or port, port, listed=False))
    settings = tabby_settings(spec)
    if spec.exllamav2:
        values += settings
    missing = ""
    if spec.config_file is not None or not spec.alone:
        missing = (
            f"name the config.yml that {spec.unit} reads as `config_file:` of {spec.name} in "
            "models.yml"
        )
    content = YamlKeys(tuple(values), missing=missing, listed=True, restores=True)
    edits = [FileEdit(path, content)]
    if folder is not None:
        own = () if spec.exllamav2 else settings
        edits.append(_tabby_own_file(spec, os.path.join(folder, name), own))  # noqa: PTH118
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


def tabby_settings(spec: EngineSpec) -> tuple[YamlValue, ...]:
    """The model's settings, in the sections in which both of TabbyAPI's files have them."""
    values = []
    for key, value in spec.settings.items():
        if key in ("model_name", "model_dir"):
            raise SpecError(
                spec.name,
                f"settings.{key}",
                f"says {key}, which the router decides",
                "name the model's folder as `model_path:`",
            )
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
    return tuple(values)


def _tabby_own_file(spec: EngineSpec, folder: str, values: tuple[YamlValue, ...]) -> FileEdit:
    """The model's own file, which TabbyAPI puts above config.yml and above what a client asks."""
    header = (
        f"# Settings of {spec.name}, written by llm-router from models.yml. It changes the keys\n"
        "# that the next line names; further ones are yours, and stay.\n"
    )
    content = YamlKeys(values, header if values else None, listed=True)
    path = os.path.join(folder, "tabby_config.yml")  # noqa: PTH118
    return FileEdit(path, content, directory=False, of_unit=False)


def _drop_in(spec: EngineSpec, dirs: EngineDirs) -> list[FileEdit]:
    """The unit's drop-in and the variables beside it."""
    folder = os.path.join(dirs.units, f"{spec.unit}.d")  # noqa: PTH118
    path, variables = (os.path.join(folder, name) for name in (DROP_IN, ENVIRONMENT))  # noqa: PTH118
    lines = _script_lines(spec)
    if spec.environment:
        if "\\" in spec.unit:
            # EnvironmentFile= is a glob pattern, and there a backslash is no ordinary character
            raise SpecError(
                spec.name,
                "environment",
                f"cannot be given to {spec.unit}: its name has a backslash",
                "use a unit whose name has letters, digits and . _ : - only",
            )
        lines += [
            "# `gpus:` and `environment:` of the model; root alone can read their values.",
            f"EnvironmentFile={variables}",
        ]
    left = None if spec.environment else ENVIRONMENT
    if not lines:
        return [FileEdit(path, NoFile(), daemon_reload=True, leftover=left)]
    head = f"# Written by llm-router: {spec.unit} serves {spec.name}. Changes here will be lost."
    text = "".join(f"{line}\n" for line in (head, "[Service]", *lines))
    drop_in = FileEdit(path, WholeFile(text), daemon_reload=True, leftover=left)
    # the variables first: a unit that names a file that is not there does not start
    return [drop_in] if left else [_environment_file(spec, variables), drop_in]


def _script_lines(spec: EngineSpec) -> list[str]:
    if spec.script is None:
        return []
    if not spec.script.startswith("/"):
        raise EngineFileError(f"model {spec.name}: script {spec.script!r} does not begin with /")
    if _control_character(spec.script) is not None or spec.script.endswith("\\"):
        raise EngineFileError(
            f"model {spec.name}: script {spec.script!r} would not stay one line in a unit file"
        )
    return ["ExecStart=", f"ExecStart={spec.script}"]


def process_environment(
    name: str, entry: Mapping[str, Any], host: Optional[Sequence[HostGpu]]
) -> dict[str, str]:
    """The variables that a model's ``gpus`` and ``environment`` make. Raises `SpecError`."""
    gpus = (entry.get("gpus") or ()) if host is not None else ()
    try:
        visible = visible_devices(resolve(gpus, host or ()), entry["backend"]) if gpus else {}
    except UnknownGpu as error:
        what, _, remedy = str(error).partition("; ")
        raise SpecError(name, "gpus", f"cannot be used: {what}", remedy) from error
    variables = {key: str(each) for key, each in (entry.get("environment") or {}).items()}
    for key, value in variables.items():
        problem = variable_problem(key) or value_problem(value)
        if problem is not None:
            raise SpecError(name, f"environment.{key}", *problem)
    return {**visible, **variables}


def _environment_file(spec: EngineSpec, path: str) -> FileEdit:
    head = f"# Written by llm-router: what {spec.unit} starts with. Changes here will be lost."
    lines = [environment_line(name, value) for name, value in spec.environment.items()]
    text = "".join(f"{line}\n" for line in (head, *lines))
    return FileEdit(path, WholeFile(text), private=True, shown=_without_values)


def _without_values(text: str) -> str:
    """An environment file as a diff shows it: a value may be a password. Those that name GPUs are
    none, and the only numbers that an operator has to compare."""
    shown = []
    for line in text.split("\n"):  # systemd knows no other end of a line
        name = line.partition("=")[0]
        open_to_all = line.startswith("#") or name in _OF_GPUS or not line.strip()
        known = name[:100] if VARIABLE.fullmatch(name) else "?"
        shown.append(line if open_to_all else f"{known}={MASK}")
    return "\n".join(shown)


_OF_GPUS = frozenset(("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HIP_VISIBLE_DEVICES"))


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
