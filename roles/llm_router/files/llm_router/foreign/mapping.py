"""An older kind of router's ``MODELS``: name → backend, script, service, model_name.

It stands in a Python file as a dict literal, or in a config.json. Of a Python file the literal is
read; nothing in it runs. What an entry leaves open and this host's units and start scripts say is
filled in.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from llm_router.config.schema import Backend, ModelEntry
from llm_router.discovery.commands import Launch
from llm_router.discovery.proposal import DEFAULT_PORTS, Entry, Proposal, short_name
from llm_router.discovery.survey import Engine
from llm_router.engine_files import EngineDirs, EngineSpec, config_path
from llm_router.foreign.errors import Unreadable

_BACKENDS: dict[str, Backend] = {
    "sglang": "sglang",
    "vllm": "vllm",
    "tabby": "tabby",
    "tabbyapi": "tabby",
    "exllama": "tabby",
    "exllamav2": "tabby",
    "exllamav3": "tabby",
    "llamacpp": "llamacpp",
    "llama.cpp": "llamacpp",
    "llama-server": "llamacpp",
    "command": "command",
}
_OTHER_NAMES = {
    "unit": "service",
    "start_script": "script",
    "path": "model_path",
    "served_model_name": "model_name",
}
Started = Callable[[str], Launch | None]
"""The engine that a start script starts; None where the script cannot be read."""
_FOLDED = ("models", "MODELS", "model_map", "MODEL_MAP")


def read_python(text: str) -> tuple[dict[str, Any], list[str]]:
    """The mapping that a module assigns to ``MODELS``, and notes. Raises `Unreadable`."""
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = f" in line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise Unreadable(f"is not Python{line}") from error
    constants: dict[str, Any] = {}
    found: ast.expr | None = None
    for statement in module.body:
        for name, value in _assigned(statement):
            if name in ("MODELS", "MODEL_MAP"):
                found = value
            else:
                _remember(constants, name, value)
    if found is None:
        raise Unreadable("assigns no MODELS; is it the right file?")
    if not isinstance(found, ast.Dict):
        raise Unreadable(
            f"has a MODELS in line {found.lineno} that is no dict literal, and nothing "
            "of the file is run"
        )
    models: dict[str, Any] = {}
    notes: list[str] = []
    for key, value in zip(found.keys, found.values, strict=True):
        try:
            if key is None:
                raise ValueError("a merge")
            models[str(_literal(key, constants))] = _literal(value, constants)
        except (ValueError, TypeError):
            shown = ast.unparse(key) if key is not None else "**…"
            notes.append(
                f"MODELS[{shown}] in line {value.lineno} is no literal, and nothing of the "
                "file is run: write it by hand"
            )
    return models, notes


def _assigned(statement: ast.stmt) -> list[tuple[str, ast.expr]]:
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets, value = [statement.target], statement.value
        return [(target.id, value) for target in targets if isinstance(target, ast.Name)]
    if isinstance(statement, ast.Assign):
        return [
            (target.id, statement.value)
            for target in statement.targets
            if isinstance(target, ast.Name)
        ]
    return []


def _remember(constants: dict[str, Any], name: str, value: ast.expr) -> None:
    """A text that the mapping may name, such as ``SGLANG = "sglang.service"``."""
    try:
        known = _literal(value, constants)
    except (ValueError, TypeError):
        return
    if isinstance(known, (str, int, float)):
        constants[name] = known


def _literal(node: ast.expr, constants: Mapping[str, Any]) -> Any:
    class Names(ast.NodeTransformer):
        def visit_Name(self, name: ast.Name) -> ast.expr:
            if name.id not in constants:
                raise ValueError(name.id)
            return ast.copy_location(ast.Constant(constants[name.id]), name)

    return ast.literal_eval(Names().visit(node))


def find_mapping(document: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The models of a config.json, and notes on what stands beside them. Raises `Unreadable`."""
    for key in _FOLDED:
        models = document.get(key)
        if isinstance(models, dict):
            notes = [
                f"{other}: set what config.yml has for it by hand (llm_router_… of the role)"
                for other in document
                if other not in (key, "schema")
            ]
            return dict(models), notes
    if document and all(isinstance(v, dict) and "backend" in v for v in document.values()):
        return dict(document), []
    raise Unreadable(
        "is neither a llama-swap config.yaml (models with cmd) nor a mapping of models with backend"
    )


def read_mapping(
    models: Mapping[str, Any],
    notes: list[str],
    engines: Sequence[Engine] = (),
    started: Started = lambda _: None,
) -> Proposal:
    """The entries, their keys' names and values as models.yml has them.

    ``engines`` are this host's units: they and the scripts fill in what an entry leaves open.
    """
    entries = []
    notes = list(notes)
    for name, said in models.items():
        if not isinstance(said, dict):
            notes.append(f"{name}: is not a mapping of keys to values")
            continue
        given = {_OTHER_NAMES.get(key, key): value for key, value in said.items()}
        backend = _BACKENDS.get(str(given.get("backend", "")).lower())
        if backend is None:
            notes.append(
                f"{name}: its backend {given.get('backend')!r} is none of "
                f"{', '.join(dict.fromkeys(_BACKENDS.values()))}"
            )
            continue
        fields: dict[str, Any] = {"backend": backend}
        for key in ModelEntry.model_fields:
            value = given.pop(key, None)
            if key != "backend" and value not in (None, ""):
                fields[key] = value
        service = fields.get("service")
        if isinstance(service, str) and not service.endswith(".service"):
            fields["service"] = f"{service}.service"
        notes += [f"{name}.{key}: models.yml has no such key" for key in given]
        mine = short_name(name)
        if mine != name:
            notes.append(
                f"{name}: is called {mine} here, as a model's name may not have what that one has"
            )
        found = next((one for one in engines if one.unit == fields.get("service")), None)
        comments = _fill_in(mine, fields, found, started)
        entries.append(Entry(mine, fields, tuple(comments)))
    return Proposal(tuple(entries), tuple(notes))


def _fill_in(
    name: str, fields: dict[str, Any], found: Engine | None, started: Started
) -> Iterator[str]:
    """Add the engine's own name for the model, its port and TabbyAPI's file; say from where."""
    script = fields.get("script")
    launch = _launch(str(script), found, started) if script else found.launch if found else None
    if script and launch is None:
        yield (
            f"{script} cannot be read here, or starts no known engine: the router takes the name "
            "that the engine lists."
        )
    if launch is None or launch.backend != fields["backend"]:
        return
    # without a name of its own an engine is called by its model's path, but for these two
    upstream = launch.served_name if launch.backend in ("llamacpp", "tabby") else launch.name
    if upstream not in ("", name) and not launch.unknown and "model_name" not in fields:
        fields["model_name"] = upstream
        yield f"The model_name is that of {script or fields['service']}."
    if launch.port and "port" not in fields and launch.port != DEFAULT_PORTS[launch.backend]:
        fields["port"] = launch.port
        yield f"The port is that of {script or fields['service']}."
    if found and found.tabby and found.tabby.config_file and "config_file" not in fields:
        ours = config_path(EngineSpec(name, "tabby", found.unit), EngineDirs())
        if found.tabby.config_file != ours:
            fields["config_file"] = found.tabby.config_file
            yield f"{found.unit} reads this config_file."


def _launch(script: str, found: Engine | None, started: Started) -> Launch | None:
    """What the script starts; its unit's environment counts where the unit is here."""
    known = (found.launch, *found.scripts) if found else ()
    return next((launch for launch in known if launch.script == script), None) or started(script)
