"""Reads the configuration files and says of every problem where it is and what would be right."""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from llm_router import model_files
from llm_router.config.document import Document, ValueProblem, key_at, load_document
from llm_router.config.errors import ConfigError, Problem
from llm_router.config.names import names_of
from llm_router.config.ports import port_problems
from llm_router.config.schema import (
    ApiKey,
    Config,
    KeysFile,
    Model,
    ModelEntry,
    ModelsFile,
    Parameters,
)
from llm_router.config.spec import dirs_of, spec_of
from llm_router.engine_environment import value_problem, variable_problem
from llm_router.engine_files import (
    DEFAULT_PORTS,
    EngineDirs,
    EngineFileError,
    SpecError,
    config_path,
    desired_files,
)
from llm_router.yaml_bounds import YamlBoundError

Section = TypeVar("Section", bound=BaseModel)

_TYPE_NAMES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping of names to values",
    "model_type": "a mapping of keys to values",
}

_NO_KEY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Settings:
    """Everything the router was told, and the files it was told in."""

    config: Config
    models: dict[str, Model]
    keys: tuple[ApiKey, ...]
    config_path: Path
    models_path: Path
    keys_path: Path


@dataclass(frozen=True)
class _Document:
    file: str
    document: Document

    def line(self, loc: Sequence[Any]) -> int:
        """The 1-based line of the deepest part of ``loc`` that the file has."""
        return self.document.line(loc)


def load_settings(
    config_path: Path, models_path: Path | None = None, keys_path: Path | None = None
) -> Settings:
    """Read and check all three files.

    ``models_path`` and ``keys_path`` stand in for what config.yml names (a candidate that has yet
    to be put in place). Raises `ConfigError` with every problem that was found.
    """
    problems: list[Problem] = []
    config_doc, config = _load(config_path, Config, problems)
    if config is None or config_doc is None:
        raise ConfigError(problems)
    models_path = models_path or config_path.parent / config.models_file
    keys_path = keys_path or config_path.parent / config.keys_file
    models = _load_models(models_path, config, problems)
    keys: tuple[ApiKey, ...] = ()
    if keys_path.exists():
        keys = _load_keys(keys_path, problems)
    wanted = config.requests.default_model
    known = [one.name for one in names_of(models)]
    if wanted not in (None, "loaded", *known) and not problems:
        problems.append(
            Problem(
                str(config_path),
                config_doc.line(("requests", "default_model")),
                "requests.default_model",
                f"{wanted} is not the name of a model",
                f"use `loaded`, or a name of models.yml; known names: {', '.join(known) or 'none'}",
            )
        )
    limits = config.switch
    if "first_timeout" in limits.model_fields_set and limits.first_timeout < limits.timeout:
        problems.append(
            Problem(
                str(config_path),
                config_doc.line(("switch", "first_timeout")),
                "switch.first_timeout",
                f"{limits.first_timeout:g} s is less than switch.timeout, {limits.timeout:g} s",
                "the first load of a model takes longer than later ones: set it to at least "
                f"{limits.timeout:g}, or leave it out",
            )
        )
    if not _loopback(config.listen.host) and not keys and not config.allow_open and not problems:
        problems.append(
            Problem(
                str(config_path),
                config_doc.line(("listen", "host")),
                "listen.host",
                f"{config.listen.host} is open to the network and no API key is configured",
                "add a key to keys.yml (llm_router_api_keys), listen on 127.0.0.1, or say "
                "`allow_open: true` (llm_router_allow_open) if an open endpoint is meant",
            )
        )
    if problems:
        raise ConfigError(problems)
    return Settings(config, models, keys, config_path, models_path, keys_path)


def load_config(config_path: Path) -> Config:
    """config.yml alone, for the helper. Raises `ConfigError`."""
    problems: list[Problem] = []
    _, config = _load(config_path, Config, problems)
    if config is None:
        raise ConfigError(problems)
    return config


def load_models(models_path: Path, config: Config) -> dict[str, Model]:
    """models.yml alone, for the helper. Raises `ConfigError`."""
    problems: list[Problem] = []
    models = _load_models(models_path, config, problems)
    if problems:
        raise ConfigError(problems)
    return models


def _load_models(path: Path, config: Config, problems: list[Problem]) -> dict[str, Model]:
    doc, parsed = _load(path, ModelsFile, problems)
    if doc is None or parsed is None:
        return {}
    for name, entry in parsed.models.items():
        for key, what, remedy in _entry_problems(name, entry, config):
            loc = ("models", name, key) if key else ("models", name)
            problems.append(Problem(doc.file, doc.line(loc), ".".join(loc), what, remedy))
    for place, what, remedy in chain(
        _file_problems(parsed.models, config),
        _unit_problems(parsed.models),
        _environment_problems(parsed.models),
        _gpu_problems(parsed.models, config),
        _download_problems(parsed.models, config),
        _preload_problems(parsed.models),
        _name_problems(parsed.models),
        _parameter_problems(parsed.models),
    ):
        key = ".".join(str(part) for part in place)
        problems.append(Problem(doc.file, doc.line(place), key, what, remedy))
    models = {
        name: Model(name=name, **dict(_with_gpus(_with_model_path(entry, config), config)))
        for name, entry in parsed.models.items()
    }
    with_ports = {
        name: model
        for name, model in models.items()
        if model.port is not None or model.backend in DEFAULT_PORTS
    }
    for place, what, remedy in port_problems(with_ports, config):
        problems.append(Problem(doc.file, doc.line(place), ".".join(place), what, remedy))
    return models


def _with_model_path(entry: ModelEntry, config: Config) -> ModelEntry:
    """The entry with the path that its download goes to, unless it has one of its own."""
    if entry.repo is None or entry.model_path is not None:
        return entry
    path = model_files.model_path(
        config.models_dir, entry.backend, entry.repo, entry.revision, entry.files
    )
    return entry.model_copy(update={"model_path": path})


def _with_gpus(entry: ModelEntry, config: Config) -> ModelEntry:
    """The entry with the GPUs of its group, unless it has some of its own."""
    group = config.groups.get(entry.group)
    if entry.gpus or group is None or not group.gpus:
        return entry
    return entry.model_copy(update={"gpus": group.gpus})


def _environment_problems(
    models: dict[str, ModelEntry],
) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Variables that an engine cannot be given: (place, what, remedy). No value is in them."""
    for name, entry in models.items():
        for variable, value in entry.environment.items():
            problem = variable_problem(variable) or value_problem(value)
            if problem is None and variable == "CUDA_DEVICE_ORDER" and entry.gpus:
                problem = "is set by the router for `gpus:`", "leave it out"
            if problem is None and variable == "CUDA_HOME" and entry.backend == "sglang":
                problem = "is set by the unit", "set sglang_cuda_toolkit for the role"
            if problem is not None:
                yield (("models", name, "environment", variable), *problem)


def _gpu_problems(
    models: dict[str, ModelEntry], config: Config
) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """GPUs that two groups would use at the same time: (place, what, remedy).

    Only those that are spelled alike are found here. Whether a number and a UUID are the same GPU,
    activation sees on the host.
    """
    for name, entry in models.items():
        if not entry.gpus and "gpus" in entry.model_fields_set:
            yield (
                ("models", name, "gpus"),
                "is empty, and an engine cannot be given no GPU",
                "list GPUs, or leave the key out: the engine then uses those of its group, or all",
            )
    owners = {gpu: name for name, group in config.groups.items() for gpu in group.gpus}
    users: dict[int | str, str] = {}
    for name, entry in models.items():
        listed = config.groups[entry.group].gpus if entry.group in config.groups else []
        for gpu in entry.gpus:
            owner = owners.get(gpu, entry.group)
            if owner == entry.group and listed and gpu not in listed and _alike(gpu, listed):
                yield (
                    ("models", name, "gpus"),
                    f"has GPU {gpu}, which group {entry.group} does not have",
                    f"use GPUs of the group ({', '.join(map(str, listed))}), or another group",
                )
                break
            user = users.setdefault(gpu, name)
            if owner != entry.group or models[user].group != entry.group:
                whose = (
                    f"{user} in group {models[user].group}" if user != name else f"group {owner}"
                )
                yield (
                    ("models", name, "gpus"),
                    f"has GPU {gpu}, which {whose} uses too, and two groups run side by side",
                    "give the models one `group:`, so that they take turns, or other GPUs",
                )
                break


def _alike(gpu: int | str, others: Sequence[int | str]) -> bool:
    """Whether they can be compared as they are spelled: all numbers, or all names."""
    return all(isinstance(other, int) == isinstance(gpu, int) for other in others)


def _download_problems(
    models: dict[str, ModelEntry], config: Config
) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """What cannot be downloaded, or not to where it is expected: (place, what, remedy)."""
    firsts: dict[str, str] = {}
    for name, entry in models.items():
        place = ("models", name)
        if entry.repo is None:
            for key in ("revision", "files"):
                if getattr(entry, key):
                    yield (*place, key), "is for a download, and there is no `repo`", "add `repo:`"
            continue
        folder = model_files.directory(config.models_dir, entry.repo, entry.revision)
        if entry.model_path and not f"{entry.model_path}/".startswith(f"{folder}/"):
            yield (
                (*place, "model_path"),
                f"is not in {folder}, where {entry.repo} is downloaded to",
                "leave it out, or leave out `repo:`",
            )
        elif not entry.model_path and _needs_gguf(entry) and not model_files.gguf_file(entry.files):
            yield (
                (*place, "files"),
                "does not begin with the name of a GGUF file",
                "name the one that llama.cpp is to load first, for example "
                "`files: [NAME-Q4_K_M.gguf]`",
            )
        first = firsts.setdefault(folder, name)
        if models[first].revision != entry.revision and (
            model_files.is_commit(models[first].revision) or model_files.is_commit(entry.revision)
        ):
            yield (
                (*place, "revision"),
                f"{first} wants another revision of {entry.repo} in {folder}",
                "give both the same commit, or name branches or tags, which have their own places",
            )


def _needs_gguf(entry: ModelEntry) -> bool:
    return entry.backend == "llamacpp" and entry.script is None


def _entry_problems(name: str, entry: ModelEntry, config: Config) -> Iterator[tuple[str, str, str]]:
    """(key, what, remedy) of what no single field can know."""
    if config.units == "systemd" and entry.service is None:
        example = f"{_unit_stem(entry)}@{name if '/' not in name else 'NAME'}"
        yield (
            "service",
            "is missing",
            f"name the systemd unit that runs it, for example `service: {example}.service`",
        )
    by_command = config.units == "child" and bool(entry.command)
    has_path = entry.model_path is not None or entry.repo is not None
    if _needs_gguf(entry) and not has_path and not by_command:
        yield (
            "model_path",
            "is missing",
            "name the GGUF file, for example `model_path: /srv/models/NAME.gguf`, or the `repo:` "
            "and `files:` to download it from",
        )
    if entry.backend == "command" and entry.port is None:
        yield (
            "port",
            "is missing",
            "say on which loopback port its OpenAI API is, for example `port: 9000`",
        )
    if entry.backend == "command" and config.units == "child" and not entry.command:
        yield (
            "command",
            "is missing",
            "give program and arguments, for example `command: [my-server, --port, 9000]`",
        )
    has_own_way = entry.backend in ("llamacpp", "command")  # the check above asks for a command
    if config.units == "child" and not has_own_way and not entry.command:
        yield (
            "backend",
            f"{entry.backend} cannot run as a child process without a command",
            "give program and arguments as `command:`, or use `units: systemd`",
        )


def _unit_stem(entry: ModelEntry) -> str:
    """What the units of its backend are called."""
    return "tabbyapi" if entry.backend == "tabby" else entry.backend


def _file_problems(
    models: dict[str, ModelEntry], config: Config
) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """What cannot be written into the files that units read: (place, what, remedy)."""
    for name, entry in models.items():
        key = "settings" if entry.settings else "config_file" if entry.config_file else None
        problem = _no_place_for(entry, config) if key else None
        if key and problem:
            yield (("models", name, key), *problem)
        elif config.units == "systemd" and entry.service is not None:
            model = _without_environment(name, entry)
            try:
                desired_files(spec_of(model), dirs_of(config))
                unread = key and config_path(spec_of(model), dirs_of(config)) is None
            except SpecError as error:
                yield (("models", name, *error.key.split(".", 1)), error.what, error.remedy)
                continue
            except EngineFileError:  # said by `_entry_problems`, or of a file on this machine
                continue
            if unread:
                yield (
                    ("models", name, "config_file"),
                    f"is missing: nothing says which file {entry.service} reads",
                    "name the file, for example `config_file: /etc/NAME/config.yml`",
                )


def _no_place_for(entry: ModelEntry, config: Config) -> tuple[str, str] | None:
    """Why an entry's ``settings`` or ``config_file`` would go nowhere: (what, remedy)."""
    if entry.script is not None:
        return "has no effect beside `script`", "say it in the script, or take the script out"
    if entry.backend == "command" or (config.units == "child" and entry.command):
        return "has no effect for a command", "give the command its arguments as `args:`"
    if config.units == "child" and entry.config_file is not None:
        return "has no effect with `units: child`", "take it out"
    if entry.model_path is None and (entry.settings or entry.backend != "tabby"):
        return (
            "has no effect without `model_path`",
            "name the model's file or folder, for example `model_path: /srv/models/NAME`",
        )
    return None


def _without_environment(name: str, entry: ModelEntry) -> Model:
    """The entry as a model of which only the files count; `_environment_problems` has the rest."""
    return Model(name=name, **{**dict(entry), "environment": {}})


def _tells_apart(first: str, one: ModelEntry, second: str, other: ModelEntry) -> bool:
    """Whether what activation writes says which of two models their unit loads."""
    models = [_without_environment(*each) for each in ((first, one), (second, other))]
    for model in models:
        written = config_path(spec_of(model), EngineDirs()) is not None
        named = model.model_path is not None or model.backend == "tabby"
        if model.script is None and not (written and named):
            return False
    loads = [(model.script, model.model_path, model.upstream_name) for model in models]
    return loads[0] != loads[1]


def _unit_problems(
    models: dict[str, ModelEntry],
) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """What models that name the same unit must agree on: (place, what, remedy)."""
    firsts: dict[str, str] = {}
    for name, entry in models.items():
        if entry.service is None:
            continue
        first = firsts.setdefault(entry.service, name)
        if first == name:
            continue
        group = models[first].group
        if group != entry.group:
            yield (
                ("models", name, "group"),
                f"{entry.service} is in group {entry.group} here and in {group} for {first}",
                "give every model of one unit the same group",
            )
        if "@" in entry.service:
            yield (
                ("models", name, "service"),
                f"instance {entry.service} belongs to {first} already",
                "give each model a unit instance of its own",
            )
        elif not _tells_apart(first, models[first], name, entry):
            # nothing on disk would differ between the two: a switch would load the same model
            path = {"command": "", "llamacpp": ""}.get(entry.backend, "a `model_path:` or ")
            yield (
                ("models", name, "service"),
                f"{entry.service} is the unit of {first} too, and nothing says which one it loads",
                f"give each of them {path}a `script:`, or a unit instance of its own "
                f"(`service: {_unit_stem(entry)}@NAME.service`)",
            )
        elif "unload" in (entry.residency, models[first].residency) and (
            (entry.gpus, entry.environment) != (models[first].gpus, models[first].environment)
        ):
            # the process stays, and a process keeps what it was started with
            yield (
                ("models", name, "gpus" if entry.gpus != models[first].gpus else "environment"),
                f"differs from that of {first}, and with `residency: unload` one process of "
                f"{entry.service} serves both",
                "give both the same, or set `residency: stop` for both",
            )
        elif entry.config_file != models[first].config_file:
            yield (
                ("models", name, "config_file"),
                f"is another file than that of {first}, and {entry.service} reads one",
                "give every model of one unit the same `config_file:`",
            )
        elif entry.backend == "tabby" and bool(entry.model_path) != bool(models[first].model_path):
            # the one would leave its directory of models to the other
            yield (
                ("models", name, "model_path"),
                f"is there for one of {first} and {name} only, and both are loaded by "
                f"{entry.service}",
                "give every model of one TabbyAPI a `model_path:`, or none",
            )


def _preload_problems(
    models: dict[str, ModelEntry],
) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """A group has room for one model when the router starts: (place, what, remedy)."""
    firsts: dict[str, str] = {}
    for name, entry in models.items():
        if not entry.preload:
            continue
        first = firsts.setdefault(entry.group, name)
        if first != name:
            yield (
                ("models", name, "preload"),
                f"{first} is preloaded in group {entry.group} already, and a group has room for "
                f"one model",
                f"keep `preload: true` for one of {first} and {name}, or give them different "
                "groups if they have different GPUs",
            )


def _name_problems(
    models: dict[str, ModelEntry],
) -> Iterator[tuple[tuple[str | int, ...], str, str]]:
    """A request names one model, so no two may have the same name: (place, what, remedy)."""
    firsts: dict[str, str] = {}
    for known in names_of(models):
        if known.name not in firsts:
            firsts[known.name] = known.model
            continue
        first = firsts[known.name]
        taken = "a model" if known.name in models else f"a name of {first}"
        if first == known.model:
            taken = "a name of this model"
        yield (
            known.place,
            f"{known.name} is {taken} already",
            "give each model, alias and variant a name that nothing else has",
        )


_ROUTERS_OWN = {
    "model": "name the engine's model as `model_name:`",
    "stream": "clients choose how they are answered; leave it out",
    "stream_options": "the router asks for usage itself; leave it out",
    "keep_alive": "say how long it stays loaded as `ttl:`",
}
"""What of a request is not the model's to change, and what to do instead."""


def _parameter_problems(
    models: dict[str, ModelEntry],
) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """(place, what, remedy)."""
    for known in names_of(models):
        parameters = known.variant or known.entry.parameters
        if known.variant is None and known.name != known.model:
            continue  # an alias has none of its own
        place = tuple(str(part) for part in known.place)
        for section in ("defaults", "force", "strip"):
            for key in getattr(parameters, section):
                if key in _ROUTERS_OWN:
                    what = f"{key} is not a parameter of the model"
                    yield ((*place, section, key), what, _ROUTERS_OWN[key])


def _load_keys(path: Path, problems: list[Problem]) -> tuple[ApiKey, ...]:
    doc, parsed = _load(path, KeysFile, problems)
    if doc is None or parsed is None:
        return ()
    seen: dict[str, str] = {}
    for index, key in enumerate(parsed.keys):
        if key.sha256 == _NO_KEY:
            problems.append(
                Problem(
                    doc.file,
                    doc.line(("keys", index, "sha256")),
                    f"keys.{index}.sha256",
                    f"is the sha256 of nothing: the key of {key.name} was empty",
                    "make a key with `openssl rand -hex 32`, and give its sha256 "
                    "(`printf %s KEY | sha256sum`)",
                )
            )
        elif key.sha256 in seen:
            problems.append(
                Problem(
                    doc.file,
                    doc.line(("keys", index)),
                    f"keys.{index}.sha256",
                    f"is the same key as {seen[key.sha256]}",
                    "give each name a key of its own",
                )
            )
        seen.setdefault(key.sha256, key.name)
    return tuple(parsed.keys)


def _load(
    path: Path, section: type[Section], problems: list[Problem]
) -> tuple[_Document | None, Section | None]:
    """The file as a document and as a checked section; what is wrong goes into ``problems``."""
    doc = _parse(path, problems)
    if doc is None:
        return None, None
    try:
        return doc, section.model_validate(doc.document.root)
    except ValidationError as error:
        problems.extend(_describe(doc, section, error))
        return doc, None


def _parse(path: Path, problems: list[Problem]) -> _Document | None:
    """The file's nodes; None, with its problem noted, whatever the file is or has in it."""
    file = str(path)
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        problems.append(Problem(file, 0, "", "does not exist", "create it, or name another file"))
        return None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problems.append(
            Problem(file, line, "", f"is not UTF-8 at byte {error.start}", "save it as UTF-8")
        )
        return None
    except OSError as error:
        reason = error.strerror or str(error)
        problems.append(Problem(file, 0, "", f"cannot be read: {reason}", "make it readable"))
        return None
    try:
        document = load_document(text)
    except Exception as error:  # noqa: BLE001 - a file that no one foresaw has a problem, too
        problems.append(_yaml_problem(file, text, error))
        return None
    if document.root is None:
        document = Document({}, document.lines)
    if not isinstance(document.root, dict):
        problems.append(
            Problem(file, 1, "", "is not a mapping", "begin with keys such as `models:`")
        )
        return None
    return _Document(file, document)


def _yaml_problem(file: str, text: str, error: Exception) -> Problem:
    """What the parser raised, as a problem with a line."""
    check = "check indentation, colons and quotes on this line and the one before it"
    if not isinstance(error, MarkedYAMLError):
        line = 1
        if isinstance(error, ReaderError):
            line += text.count("\n", 0, error.position)
        first = (str(error) or type(error).__name__).splitlines()[0]
        return Problem(file, line, "", f"is not valid YAML: {first}", "fix the file's syntax")
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    if isinstance(error, DuplicateKeyError):
        name = str(error.problem).split('"')[1] if '"' in str(error.problem) else ""
        remedy = "keep one of the two, or give the other a name of its own"
        return Problem(file, line, name, "is there twice", remedy)
    if isinstance(error, YamlBoundError):
        return Problem(file, line, "", f"has {error.problem}", "write the file without them")
    if isinstance(error, ValueProblem):
        what, _, remedy = str(error.problem).partition("; ")
        return Problem(
            file,
            line,
            key_at(text, mark.line, mark.column) if mark else "",
            what,
            remedy or "write it in another way",
        )
    what = ", ".join(part for part in (error.context, error.problem) if part)
    return Problem(file, line, "", f"is not valid YAML: {what}", check)


def _describe(
    doc: _Document, section: type[BaseModel], error: ValidationError
) -> Iterator[Problem]:
    for item in error.errors(include_url=False):
        loc = tuple(part for part in item["loc"] if part != "[key]")
        what, remedy = _explain(item, section, loc)
        yield Problem(doc.file, doc.line(loc), ".".join(str(part) for part in loc), what, remedy)


def _explain(item: Any, section: type[BaseModel], loc: tuple[Any, ...]) -> tuple[str, str]:
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    if kind == "missing":
        remedy = {
            "backend": "add `backend:` with sglang, vllm, tabby, llamacpp or command",
            "models": "add `models:` with an entry for each model",
        }.get(str(loc[-1]), f"add `{loc[-1]}:`")
        return "is missing", remedy
    if kind == "extra_forbidden":
        known = _known_keys(section, loc)
        close = difflib.get_close_matches(str(loc[-1]), known, 1)
        hint = f"did you mean `{close[0]}`? " if close else ""
        return "is not a known key", f"{hint}known keys: {', '.join(known)}"
    if kind == "literal_error":
        return f"{value!r} is not a valid value", f"use {context['expected']}"
    if kind in _TYPE_NAMES:
        return (
            f"is {_type_of(value)}",
            f"should be {_TYPE_NAMES[kind]}",
        )
    if kind == "string_pattern_mismatch":
        return f"{value!r} has not the right form", _pattern_remedy(str(loc[-1]), str(context))
    if kind == "value_error" and loc == ("groups",):
        return str(context["error"]), "list a GPU in one group: two groups run side by side"
    if kind == "value_error":
        return str(context["error"]), f"change {value!r}"
    if "environment" in loc:  # whose values may be passwords
        return item["msg"].lower(), "give the engine fewer variables"
    return item["msg"].lower(), f"change {value!r}"


def _pattern_remedy(key: str, context: str) -> str:
    if key == "service":
        return "name a systemd unit, for example `sglang.service` or `llamacpp@NAME.service`"
    if key in ("script", "model_path", "config_file", "api_key_file", "models_dir"):
        return "give an absolute path, beginning with /"
    if key == "repo":
        return "name a repository of the hub, for example `Qwen/Qwen3-32B-AWQ`"
    if key == "revision":
        return "give a branch, a tag, or the 40 hex digits of a commit"
    if key == "sha256":
        return "give the 64 hex digits of sha256(key)"
    if key == "group":
        return "use letters, digits and . _ -"
    if "[A-Za-z0-9_.-]*" in context:
        return "name an option without its dashes, for example `context-length`"
    if "://" in context:
        return "give a scheme, `://` and a host, in lower case, as in `https://app.example.org`"
    if "GET|POST" in context:
        return "give a method and a path, for example `GET /version`"
    return (
        "a model's name has letters, digits and . _ - : / + @, and begins with a letter or a digit"
    )


def _known_keys(section: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """The keys that are valid beside the last part of ``loc``."""
    current: Any = section
    for part in loc[:-1]:
        if current is ModelsFile and part == "models":
            current = ModelEntry
        elif current is KeysFile and part == "keys":
            current = ApiKey
        elif current is ModelEntry and part == "variants":
            current = Parameters
            break
        elif part in current.model_fields:
            current = _section_of(current.model_fields[part].annotation) or current
    return [field.alias or name for name, field in current.model_fields.items()]


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a key's value is, alone or as one of several types."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _type_of(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"{str(value).lower()}"
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, date):
        return f"the date {value}"
    return "a list" if isinstance(value, list) else "a mapping"


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
