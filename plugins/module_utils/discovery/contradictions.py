"""Where a models.yml and the units of its host say different things. Pure.

Each would cost the host something at its first request: the loaded model, or a switch that cannot
work.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from ..engine_files import EngineDirs, EngineSpec, config_path
from .proposal import DEFAULT_PORTS, overridden
from .survey import Engine, Survey


def contradictions(models: Mapping[str, Mapping[str, Any]], found: Survey) -> list[str]:
    """Sentences, each with what to do. ``models`` are those of models.yml, and valid."""
    sentences: list[str] = []
    for engine in found.engines:
        mine = {name: dict(entry) for name, entry in models.items()
                if entry.get("service") == engine.unit}  # fmt: skip
        if not mine:
            continue
        others = [name for name, entry in mine.items()
                  if entry["backend"] not in (engine.launch.backend, "command")]  # fmt: skip
        if others:
            sentences.append(
                f"{engine.unit} starts {engine.launch.backend}, and {', '.join(others)} "
                f"{'has' if len(others) == 1 else 'have'} another backend in models.yml: "
                f"say `backend: {engine.launch.backend}`"
            )
            continue
        sentences += _of_what_runs(engine, mine)
        sentences += _of_files(engine, mine)
        if any("script" in entry for entry in mine.values()):
            sentences += overridden(engine)
    return sentences


def _of_what_runs(engine: Engine, mine: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The router knows a loaded model by its name and port; what it does not know it restarts."""
    if not engine.serves:
        return
    known = [name for name, entry in mine.items() if _upstream(name, entry) == engine.serves]
    if not known and len(mine) == 1:
        known = [name for name, entry in mine.items() if _takes_its_name(entry)]
    if not known:
        run = [name for name, entry in mine.items() if _runs(entry, engine)]
        yield (
            f"{engine.unit} serves {engine.serves} now, and none of its models in models.yml "
            f"({', '.join(mine)}) is that: say `model_name: {engine.serves}` for "
            f"{f'{run[0]}, whose script it runs' if len(run) == 1 else 'the one that is'}, "
            "or stop the unit first"
        )
    for name in known:
        port = mine[name].get("port") or DEFAULT_PORTS.get(engine.launch.backend)
        if engine.ports and port != engine.ports[0]:
            yield (
                f"{engine.unit} listens on port {engine.ports[0]}, and the router would look for "
                f"{name} on {port}: say `port: {engine.ports[0]}`"
            )


def _of_files(engine: Engine, mine: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A switch of TabbyAPI's model is a change in the config.yml that it reads."""
    if engine.tabby is None or not engine.tabby.config_file:
        return
    for name, entry in mine.items():
        if entry.get("script"):
            continue
        spec = EngineSpec(name, "tabby", engine.unit, config_file=entry.get("config_file"))
        path = config_path(spec, EngineDirs())
        if path is None or posixpath.normpath(path) != engine.tabby.config_file:
            yield (
                f"{engine.unit} reads {engine.tabby.config_file}, and a switch to {name} would "
                f"write {path or 'nothing'}: say `config_file: {engine.tabby.config_file}`"
            )


def _runs(entry: Mapping[str, Any], engine: Engine) -> bool:
    script = entry.get("script")
    return script is not None and script == engine.launch.script


def _takes_its_name(entry: Mapping[str, Any]) -> bool:
    """Whether the router takes the single name that the engine lists: see `Model`."""
    if entry.get("model_name"):
        return False
    return bool(entry.get("script")) or not (
        entry.get("model_path") or entry.get("repo") or entry["backend"] == "tabby"
    )


def _upstream(name: str, entry: Mapping[str, Any]) -> str:
    """What the engine calls it; TabbyAPI goes by the last part of the path."""
    upstream = str(entry.get("model_name") or name)
    return posixpath.basename(upstream) if entry["backend"] == "tabby" else upstream
