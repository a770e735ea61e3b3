"""llama-swap's config.yaml.

Its keys are those of its config.example.yaml and config-schema.json (2026). It runs each model's
``cmd`` as a process of its own; here a systemd unit runs it, or, with ``units: child``, the router.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llm_router.discovery.commands import Launch, recognise, without_options
from llm_router.discovery.proposal import Entry, Proposal, short_name
from llm_router.file_edits import masked
from llm_router.foreign.errors import Unreadable
from llm_router.foreign.yaml_file import Units

START_PORT = 5800
SHORTEST_TIMEOUT = 15
_MACRO = re.compile(r"\$\{([A-Za-z0-9_.-]+)\}")
_NOT_A_WORD = re.compile(r"[^A-Za-z0-9._-]+")
_TEMPLATES = ("llamacpp", "sglang", "vllm")
_SECRET_FLAGS = ("--api-key", "--api-key-file", "--admin-api-key", "--hf-token")
_SHORT = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
    "-q": "--quantization",
}
"""vLLM's short options: its YAML knows the long ones alone."""
_ROUTERS_OWN = {"model", "stream", "stream_options", "keep_alive"}
_HANDLED = {
    "models",
    "macros",
    "startPort",
    "healthCheckTimeout",
    "globalTTL",
    "groups",
    "hooks",
    "schema",
    "sendLoadingState",
}
_NO_COUNTERPART = {
    "logLevel": "the router logs to the journal",
    "logTimeFormat": "the journal has times of its own",
    "logToStdout": "engines log to the journal under their units",
    "logRequests": "`llm-router requests` shows them",
    "metricsMaxInMemory": "metrics are at /metrics, for Prometheus",
    "captureBuffer": "requests and answers are not kept",
    "includeAliasesInList": "aliases are names of their model in /v1/models",
    "apiKeys": "keys are not copied: give them as llm_router_api_keys",
    "peers": "other hosts belong to the gateway of a fleet",
    "matrix": "sets of models that run together become groups: models of one `group:` take turns, "
    "models of different groups run side by side",
}
_MODEL_NO_COUNTERPART = {
    "metadata": "/v1/models has no room for it",
    "cmdStop": "systemd stops the unit, or the router its child",
    "timeouts": "the router's own limits are in config.yml, `requests:`",
    "unlisted": "every model is in /v1/models",
    "concurrencyLimit": "a key's max_requests limits requests; a model's are not limited",
}
_SHOWN = {"name": "display_name", "description": "description"}
_MODEL_HANDLED = {
    *_SHOWN,
    "cmd",
    "proxy",
    "ttl",
    "aliases",
    "env",
    "macros",
    "useModelName",
    "filters",
    "checkEndpoint",
    "sendLoadingState",
}


def is_llama_swap(document: Mapping[str, Any]) -> bool:
    """Whether its models are started by a ``cmd``."""
    models = document.get("models")
    return isinstance(models, dict) and any(
        isinstance(model, dict) and "cmd" in model for model in models.values()
    )


def read_llama_swap(document: Mapping[str, Any], units: Units, folder: Path) -> Proposal:
    """The models. ``folder``: relative paths of models are taken as relative to it."""
    return _Reader(document, units, folder).read()


@dataclass
class _Reader:
    document: Mapping[str, Any]
    units: Units
    folder: Path
    notes: list[str] = field(default_factory=list)

    def read(self) -> Proposal:
        models = self.document["models"]
        ports = self._ports(models)
        groups = self._groups()
        preload = self._preload(groups)
        entries = []
        for name, model in models.items():
            if not isinstance(model, dict) or not isinstance(model.get("cmd"), str):
                self.note(f"models.{name}", "has no cmd")
                continue
            try:
                fields = self._fields(str(name), model, ports.get(str(name), 0))
            except Unreadable as error:
                self.note(f"models.{name}", str(error))
                continue
            if group := groups.get(str(name)):
                fields["group"] = group
            if name in preload:
                fields["preload"] = True
            mine = short_name(str(name))
            if mine != name:
                self.note(f"models.{name}", f"is called {mine} here, by the rules for names")
            entries.append(Entry(mine, fields))
        for key, value in self.document.items():
            if key not in _HANDLED and value not in (None, "", [], {}):
                self.note(str(key), _NO_COUNTERPART.get(str(key), "is not known"))
        return Proposal(tuple(entries), tuple(self.notes))

    def note(self, place: str, why: str) -> None:
        """One sentence on what was left out."""
        self.notes.append(f"{place}: {why}")

    def _fields(self, name: str, model: Mapping[str, Any], given_port: int) -> dict[str, Any]:
        place = f"models.{name}"
        macros = {**_mapping(self.document.get("macros")), **_mapping(model.get("macros"))}
        known = {**macros, "MODEL_ID": name, "PORT": given_port}
        argv = words(expand(str(model["cmd"]), known))
        environment = [expand(str(item), known) for item in model.get("env") or []]
        argv, environment = self._without_secrets(place, argv, environment)
        launch = recognise(argv, dict(item.partition("=")[::2] for item in environment))
        port = self._port(expand(str(model.get("proxy") or ""), known), launch, given_port)
        engine = self._engine(name, argv, environment, launch, port)
        fields = {**engine, **self._names(model, known, launch, engine)}
        if port and "port" not in fields:
            fields["port"] = port
        fields.update(self._parameters(name, model, known))
        fields.update(self._times(model))
        for key, ours in _SHOWN.items():
            if model.get(key):
                fields[ours] = str(model[key])
        state = model.get("sendLoadingState", self.document.get("sendLoadingState"))
        if state is False:
            fields["status"] = "off"
        if str(model.get("checkEndpoint") or "/health") != "/health":
            self.note(f"{place}.checkEndpoint", "an engine is ready when its own probes say so")
        for key, value in model.items():
            if key not in _MODEL_HANDLED and value:
                self.note(f"{place}.{key}", _MODEL_NO_COUNTERPART.get(str(key), "is not known"))
        return fields

    def _engine(
        self, name: str, argv: list[str], environment: list[str], launch: Launch | None, port: int
    ) -> dict[str, Any]:
        """What runs it: backend, unit or command, model, arguments."""
        if not argv:
            raise Unreadable("its cmd is empty")
        if self.units == "child":
            return self._child(name, argv, environment, launch)
        plain = launch is not None and not launch.container
        if launch is not None and plain and launch.backend in _TEMPLATES and launch.model:
            path = self._path(name, launch)
            if path:
                return self._instance(name, argv, environment, launch, path)
        if launch is not None and plain and launch.backend == "tabby":
            self.note(f"models.{name}.cmd", "tabbyapi.service has to run this: " + shlex.join(argv))
            return {"backend": "tabby", "service": "tabbyapi.service"}
        unit = f"{_word(name)}.service"
        self.note(
            f"models.{name}.cmd",
            f"{unit} has to be made, a unit with "
            f"{''.join(f'Environment={shlex.quote(item)} ' for item in environment)}"
            f"ExecStart={masked(shlex.join(argv))}",
        )
        backend = (
            launch.backend if launch is not None and launch.backend in ("sglang", "vllm") else ""
        )
        return {"backend": backend or "command", "service": unit}

    def _without_secrets(
        self, place: str, argv: list[str], environment: list[str]
    ) -> tuple[list[str], list[str]]:
        """Keys belong into no command line, and into no file that is shown around."""
        bare = without_options(argv, _SECRET_FLAGS)
        if bare != argv:
            self.note(
                f"{place}.cmd",
                "its key is left out: the engine listens on 127.0.0.1, and "
                "clients' keys are the router's (llm_router_api_keys)",
            )
        plain = [item for item in environment if masked(item) == item]
        for item in environment:
            if item not in plain:
                self.note(
                    f"{place}.env",
                    f"{item.partition('=')[0]} is a secret: give it to the "
                    "engine by a file that only it can read",
                )
        return bare, plain

    def _instance(
        self, name: str, argv: list[str], environment: list[str], launch: Launch, path: str
    ) -> dict[str, Any]:
        """A unit of the engine's own role."""
        unit = f"{launch.backend}@{_word(name)}.service"
        before = argv[: len(argv) - len(launch.arguments)]
        if len(before) > 1 and launch.backend == "llamacpp":
            self.note(
                f"models.{name}.cmd",
                f"`{shlex.join(before[:-1])}` in front of the program; "
                f"`systemctl edit {unit}` can bring it back",
            )
        if environment:
            self.note(
                f"models.{name}.env",
                f"{' '.join(environment)}: set it by `systemctl edit {unit}`, as Environment=",
            )
        rest = without_options(
            launch.arguments[launch.arguments[:1] == (launch.model,) :],
            (
                "--model",
                "--model-path",
                "-m",
                "--host",
                "--port",
                "--alias",
                "-a",
                "--served-model-name",
                "--metrics",
            ),
        )
        if launch.backend == "vllm":
            rest = [_SHORT.get(word, word) for word in rest]
        return {
            "backend": launch.backend,
            "service": unit,
            "model_path": path,
            **({"args": rest} if rest else {}),
        }

    def _child(
        self, name: str, argv: list[str], environment: list[str], launch: Launch | None
    ) -> dict[str, Any]:
        command = ["/usr/bin/env", *environment, *argv] if environment else argv
        backend = launch.backend if launch is not None else "command"
        if launch is not None and backend == "llamacpp" and not launch.served_name:
            command = [*command, "--alias", short_name(name)]
        return {"backend": backend, "command": command}

    def _path(self, name: str, launch: Launch) -> str:
        if launch.model.startswith("/"):
            return launch.model
        if launch.backend == "llamacpp":
            path = str(self.folder.absolute() / launch.model)
            self.note(f"models.{name}.cmd", f"{launch.model} is relative, and taken as {path}")
            return path
        self.note(
            f"models.{name}.cmd",
            f"{launch.model} is no path: download it, and give its folder as model_path",
        )
        return ""

    def _names(
        self,
        model: Mapping[str, Any],
        known: Mapping[str, Any],
        launch: Launch | None,
        engine: Mapping[str, Any],
    ) -> dict[str, Any]:
        """What the engine calls it, and other names that clients use."""
        found: dict[str, Any] = {}
        wanted = expand(str(model.get("useModelName") or ""), known)
        templated = "model_path" in engine  # the role's unit has the name that models.yml gives it
        engines_own = launch.name if launch is not None and not templated else ""
        if launch is not None and launch.backend == "llamacpp":
            engines_own = launch.served_name if not templated else ""
        name = wanted or engines_own
        if name and name != known["MODEL_ID"]:
            found["model_name"] = name
        aliases = [
            str(alias.get("id") if isinstance(alias, dict) else alias)
            for alias in model.get("aliases") or []
        ]
        if aliases:
            found["aliases"] = [expand(alias, known) for alias in aliases]
        return found

    def _parameters(
        self, name: str, model: Mapping[str, Any], known: Mapping[str, Any]
    ) -> dict[str, Any]:
        filters = _mapping(model.get("filters"))
        place = f"models.{name}.filters"
        text = str(filters.get("stripParams") or filters.get("strip_params") or "")
        strip = [item.strip() for item in expand(text, known).split(",") if item.strip()]
        strip = [item for item in strip if item not in _ROUTERS_OWN]
        force = self._allowed(f"{place}.setParams", filters.get("setParams"), known)
        variants: dict[str, Any] = {}
        for variant, said in _mapping(filters.get("setParamsByID")).items():
            label = expand(str(variant), known)
            values = self._allowed(f"{place}.setParamsByID.{label}", said, known)
            if label == name:
                force = {**force, **values}
            else:
                variants[label] = {"force": values}
        given = {"strip": strip, "force": force, "variants": variants}
        found = {key: value for key, value in given.items() if value}
        for key in filters:
            if key not in ("stripParams", "strip_params", "setParams", "setParamsByID"):
                self.note(f"{place}.{key}", "is not known")
        return found

    def _allowed(self, place: str, said: Any, known: Mapping[str, Any]) -> dict[str, Any]:
        found = {}
        for key, value in _mapping(said).items():
            if key in _ROUTERS_OWN:
                self.note(f"{place}.{key}", "is the router's, not the model's")
            else:
                found[str(key)] = _expand_value(value, known)
        return found

    def _times(self, model: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        ttl = model.get("ttl", -1)
        ttl = self.document.get("globalTTL", 0) if ttl == -1 else ttl
        if isinstance(ttl, (int, float)) and ttl > 0:
            found["ttl"] = ttl
        timeout = self.document.get("healthCheckTimeout")
        if isinstance(timeout, (int, float)):
            found["timeout"] = max(timeout, SHORTEST_TIMEOUT)
        return found

    def _port(self, proxy: str, launch: Launch | None, given: int) -> int:
        """Where its API is. Raises `Unreadable` for one that is on another machine."""
        if proxy:
            try:
                url = urlsplit(proxy)
                port = url.port or (443 if url.scheme == "https" else 80)
            except ValueError as error:
                raise Unreadable(f"its proxy {proxy!r} is no URL") from error
            if url.hostname not in ("localhost", "127.0.0.1", "::1"):
                raise Unreadable(f"its proxy {proxy} is another machine: engines run on this one")
            return port
        return (launch.port if launch is not None else 0) or given

    def _ports(self, models: Mapping[str, Any]) -> dict[str, int]:
        """``${PORT}``: counted up over the models that use it, in the order of their names."""
        macros = _mapping(self.document.get("macros"))
        port = self.document.get("startPort") or START_PORT
        found: dict[str, int] = {}
        for name, model in sorted(models.items()):
            said = _mapping(model)
            known = {**macros, **_mapping(said.get("macros")), "PORT": "${PORT}", "MODEL_ID": name}
            try:
                text = "".join(expand(str(said.get(key) or ""), known) for key in ("cmd", "proxy"))
            except Unreadable:
                continue  # said once, when the model is read
            if "${PORT}" in text:
                found[str(name)] = port
                port += 1
        return found

    def _groups(self) -> dict[str, str]:
        """The device group of each model that is not in the default one."""
        found: dict[str, str] = {}
        for name, said in _mapping(self.document.get("groups")).items():
            group = _mapping(said)
            swap, exclusive = group.get("swap", True), group.get("exclusive", True)
            members = [str(member) for member in group.get("members") or []]
            if exclusive:
                if not swap and len(members) > 1:
                    self.note(
                        f"groups.{name}",
                        "its models ran side by side and stopped all others; "
                        "here they take turns: give them a `group:` each where the GPUs have "
                        "room for all",
                    )
                continue
            for number, member in enumerate(members, 1):
                found[member] = _word(name) if swap else f"{_word(name)}-{number}"
            if not group.get("persistent"):
                self.note(
                    f"groups.{name}",
                    "was stopped for models of other groups; here models of "
                    "different groups run side by side: take `group:` out where they share "
                    "GPUs",
                )
        return found

    def _preload(self, groups: Mapping[str, str]) -> list[str]:
        hooks = _mapping(_mapping(self.document.get("hooks")).get("on_startup"))
        kept: dict[str, str] = {}
        for name in hooks.get("preload") or []:
            group = groups.get(str(name), "default")
            if group in kept:
                self.note(
                    f"hooks.on_startup.preload.{name}",
                    f"{kept[group]} is preloaded in the same group, which has room for one model",
                )
            else:
                kept[group] = str(name)
        return list(kept.values())


def expand(text: str, known: Mapping[str, Any]) -> str:
    """The text with macros and ``${env.NAME}`` replaced. Raises `Unreadable` for unknown ones."""
    for _ in range(10):  # macros in macros
        if not _MACRO.search(text) or text == "${PORT}":
            return text
        before = text
        text = _MACRO.sub(lambda match: _macro(match[1], known), text)
        if text == before:
            return text
    raise Unreadable(f"its macros name one another without end: {text[:60]!r}")


def _macro(name: str, known: Mapping[str, Any]) -> str:
    if name.startswith("env."):
        value = os.environ.get(name[4:])
        if value is None:
            raise Unreadable(f"it takes ${{{name}}} from the environment, and it is not set here")
        return value
    if name not in known:
        raise Unreadable(f"its macro ${{{name}}} is nowhere defined")
    return str(known[name])


def _expand_value(value: Any, known: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {str(key): _expand_value(item, known) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand_value(item, known) for item in value]
    if isinstance(value, str):
        alone = _MACRO.fullmatch(value)
        if alone and alone[1] in known:
            return known[alone[1]]  # a number stays one
        return expand(value, known)
    return value


def words(command: str) -> list[str]:
    """A ``cmd``'s words: lines that begin with # are comments. Raises `Unreadable`."""
    lines = [line for line in command.splitlines() if not line.lstrip().startswith("#")]
    text = " ".join(line.rstrip().removesuffix("\\") for line in lines)
    try:
        return shlex.split(text)
    except ValueError as error:
        raise Unreadable(f"its cmd cannot be taken apart: {error}") from error


def _word(name: str) -> str:
    return _NOT_A_WORD.sub("-", str(name)).strip("-.") or "model"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
