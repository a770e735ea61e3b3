"""From what a host has to the models.yml that a person then edits. Pure."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..engine_files import DROP_IN, EngineDirs, EngineSpec, config_path
from ..yaml_edit import block
from .commands import Launch
from .folders import ModelFiles
from .survey import Engine, Survey
from .units import after

DISCOVERED = """\
Proposed by `llm-router discover`: every model that a unit of this host can serve as it is.
Read it, take out what you do not want, give the models the names that your clients use.
`llm-router check --models FILE` checks it. What each key means: docs/architecture.md."""
DECIDE = "Found, and not proposed, or for you to decide:"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+@-]*")
DEFAULT_PORTS = {"sglang": 30000, "vllm": 8000, "tabby": 5000, "llamacpp": 8080}
_KEY_FILES = {
    "sglang": "/etc/sglang/api_key",
    "vllm": "/etc/vllm/api_key",
    "tabby": "/etc/tabbyapi/api_key",
}
"""Where the router looks for an engine's key: `engine_keys` of config.yml."""
_LOOPBACK = ("", "127.0.0.1", "localhost", "::1")
_LABELS = {"sglang": "SGLang", "vllm": "vLLM", "tabby": "TabbyAPI", "llamacpp": "llama.cpp"}
_WIDTH = 98


@dataclass(frozen=True)
class Entry:
    """A model of the proposal; ``comments`` are sentences that stand above it."""

    name: str
    fields: Mapping[str, Any]
    comments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proposal:
    """``notes`` are sentences on what was found and is in no entry."""

    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """As models.yml has them."""
        return {entry.name: dict(entry.fields) for entry in self.entries}


def propose(found: Survey) -> Proposal:
    """An entry for each model that a unit of the host can serve as it is."""
    groups = _groups(found.engines)
    entries: list[Entry] = []
    notes: list[str] = []
    keyed: set[str] = set()
    for engine in found.engines:
        make = _tabby_entries if engine.tabby is not None else _plain_entries
        usual = _KEY_FILES.get(engine.launch.backend, "")
        own_key = ""
        if usual and _wants_key(engine):
            # units set up apart have keys of their own, and one file has one key
            stem = engine.unit.partition(".service")[0]
            own_key = f"/etc/{stem}/api_key" if usual in keyed else ""
            keyed.add(usual)
        for entry in make(engine, found, notes):
            group = groups.get(engine.unit)
            fields = {**entry.fields, "group": group} if group else entry.fields
            comments = entry.comments
            if own_key:
                fields = {**fields, "api_key_file": own_key}
                comments = tuple(comment.replace(usual, own_key) for comment in comments)
            entries.append(Entry(_free(entry.name, engine, entries), fields, comments))
    notes += _unserved(found, entries)
    notes += _crowd(found.engines, groups)
    if not found.engines:
        notes.append("No unit of this host starts SGLang, vLLM, TabbyAPI or llama.cpp")
    return Proposal(tuple(entries), tuple(notes))


def render(
    proposal: Proposal,
    title: str = DISCOVERED,
    notes_title: str = DECIDE,
    unread: Sequence[tuple[str, str]] = (),
) -> str:
    """The text of a models.yml, with its comments."""
    lines = _comment(title, "")
    lines += ["schema: 1", "models:" if proposal.entries else "models: {}"]
    for number, entry in enumerate(proposal.entries):
        lines += [""] if number else []
        for sentence in entry.comments:
            lines += _comment(sentence, "  ")
        lines += block(entry.name, entry.fields, "  ")
    if proposal.notes:
        lines += ["", f"# {notes_title}"]
        for note in proposal.notes:
            lines += _comment(f"- {note}", "", "  ")
    if unread:
        lines += ["", "# Could not be read:"]
        for path, reason in unread:
            lines += _comment(f"- {path}: {reason}", "", "  ")
    return "\n".join(lines) + "\n"


def _plain_entries(engine: Engine, found: Survey, notes: list[str]) -> Iterator[Entry]:
    launches = [engine.launch, *engine.scripts]
    if engine.launch.script:
        notes += overridden(engine)
    names: set[str] = set()
    for launch in launches:
        first = launch is engine.launch
        name = (engine.serves if first else "") or _upstream(launch)
        if not name:
            where = launch.script or engine.unit
            missing = f" ({', '.join(launch.unknown)} is set elsewhere)" if launch.unknown else ""
            notes.append(
                f"{where} starts {_LABELS[launch.backend]}, and which model{missing} "
                "cannot be read: write the entry by hand"
            )
            continue
        if name in names:
            notes.append(f"{launch.script} serves {name}, as another script of {engine.unit} does")
            continue
        names.add(name)
        fields: dict[str, Any] = {"backend": launch.backend}
        if launch.script and (engine.scripts or engine.runs_script):
            fields["script"] = launch.script
        fields["service"] = engine.unit
        fields.update(_common(launch, engine if first else None, name))
        if launch.backend == "llamacpp" and "script" not in fields:
            if not launch.model.startswith("/"):
                notes.append(
                    f"{engine.unit} starts llama.cpp without the absolute path of a GGUF "
                    "file: write the entry by hand"
                )
                continue
            fields["model_path"] = launch.model
        yield Entry(
            short_name(name), fields, tuple(_why(engine, launch, found, first) + _trouble(launch))
        )


def overridden(engine: Engine) -> Iterator[str]:
    """What keeps a switch from saying what a unit runs, by the drop-in that it writes."""
    if engine.exec_from != engine.path and after(engine.exec_from, DROP_IN):
        yield (
            f"{engine.exec_from} sets ExecStart, and systemd reads it after {DROP_IN}, by "
            f"which a switch says what {engine.unit} runs: every switch would start the same. "
            "Rename it so that it sorts before (10-start.conf), then `systemctl daemon-reload`"
        )


def _tabby_entries(engine: Engine, found: Survey, notes: list[str]) -> Iterator[Entry]:
    tabby, launch = engine.tabby, engine.launch
    if tabby is None:
        raise TypeError(f"{engine.unit} is not TabbyAPI's")
    if not tabby.config_file:
        notes.append(
            f"{engine.unit} starts TabbyAPI, and its config.yml was not found or read: "
            "write the entries by hand"
        )
        return
    usable: list[tuple[str, ModelFiles]] = []
    for model in found.models:
        inside = posixpath.relpath(model.path, tabby.model_dir)
        if inside.startswith("..") or "tabby" not in model.served_by:
            continue
        if model.format != "EXL3" and not tabby.serves_exl2:
            notes.append(f"{model.path} ({model.kind}): this TabbyAPI has no ExLlamaV2 any more")
        elif model.format == "EXL3" and not tabby.serves_exl3:
            notes.append(f"{model.path} ({model.kind}): this TabbyAPI has no ExLlamaV3 yet")
        elif model.problem:
            notes.append(f"{model.path} ({model.kind}): {model.problem}")
        else:
            usable.append((inside, model))
    loaded = engine.serves or posixpath.basename(tabby.model_name)
    names = [inside for inside, _model in usable]
    if tabby.model_name and tabby.model_name not in names:
        notes.append(
            f"{tabby.config_file} names {tabby.model_name}, and {tabby.model_dir} has no "
            "such folder that TabbyAPI could serve"
        )
    same = Counter(posixpath.basename(name) for name in names)
    for name, model in sorted(usable, key=lambda item: posixpath.basename(item[0]) != loaded):
        fields: dict[str, Any] = {"backend": "tabby", "service": engine.unit, "model_name": name}
        if launch.port and launch.port != DEFAULT_PORTS["tabby"]:
            fields["port"] = launch.port
        spec = EngineSpec(name, "tabby", engine.unit)
        if tabby.config_file != config_path(spec, EngineDirs()):
            fields["config_file"] = tabby.config_file
        comments = [f"{model.kind} in {model.path}."]
        if posixpath.basename(name) == loaded:
            comments.insert(0, f"{engine.unit} ({engine.state}) has it in its config.yml.")
            comments += _trouble(launch)
            if tabby.wants_key:
                comments.append(_key_comment(engine))
        if same[posixpath.basename(name)] > 1:
            comments.append(
                "TabbyAPI tells models apart by the last part of their path alone, and "
                "another one ends like this: rename one of the folders."
            )
        yield Entry(short_name(name), fields, tuple(comments))


def _common(launch: Launch, engine: Engine | None, name: str) -> Iterator[tuple[str, Any]]:
    if short_name(name) != name:
        yield "model_name", name
    port = engine.ports[0] if engine and engine.serves and engine.ports else launch.port
    if port and port != DEFAULT_PORTS[launch.backend]:
        yield "port", port


def _why(engine: Engine, launch: Launch, found: Survey, first: bool) -> list[str]:
    model = next((model for model in found.models if _is_at(model, launch.model)), None)
    what = f" {model.kind}, in {model.path}." if model else ""
    if model and model.problem:
        what += f" {model.problem.capitalize()}."
    if not first:
        return [f"{launch.script} lies beside the script that {engine.unit} runs.{what}"]
    how = f" by {launch.script}" if launch.script else ""
    said = f"{engine.unit} ({engine.state}) starts it{how}.{what}"
    if engine.serves:
        return [f"{said} It says itself that it serves this."]
    if engine.refused:
        return [said, _key_comment(engine)]
    if launch.wants_key:
        return [said, _key_comment(engine)]
    if launch.backend == "llamacpp" and not launch.served_name:
        return [
            said,
            "Without --alias llama.cpp names it after its file, with the path or without: "
            "start it and look at /v1/models, then set model_name.",
        ]
    return [said]


def _trouble(launch: Launch) -> list[str]:
    found = []
    if launch.host not in _LOOPBACK:
        found.append(
            f"It listens on {launch.host}: who reaches that goes around the router. Let it "
            "listen on 127.0.0.1."
        )
    if launch.container:
        found.append("It runs in a container: see that stopping the unit stops that too.")
    return found


def _wants_key(engine: Engine) -> bool:
    if engine.tabby is not None:
        return engine.tabby.wants_key
    return bool(engine.refused) or any(
        launch.wants_key for launch in (engine.launch, *engine.scripts)
    )


def _key_comment(engine: Engine) -> str:
    place = _KEY_FILES.get(engine.launch.backend, "the file that api_key_file: names")
    return f"{engine.unit} wants a key: `llm-router adopt-keys` copies it to {place}."


def _upstream(launch: Launch) -> str:
    return launch.served_name or launch.model


def short_name(name: str) -> str:
    """A name for clients: the last part of a path, and only what a model's name may have."""
    last = name.rstrip("/").rpartition("/")[2] if name.startswith(("/", ".")) else name
    last = last[: -len(".gguf")] if last.lower().endswith(".gguf") else last
    if _NAME.fullmatch(last):
        return last
    last = re.sub(r"[^A-Za-z0-9._:+@-]+", "-", last.rpartition("/")[2])
    return re.sub(r"^[^A-Za-z0-9]+", "", last) or "model"


def _free(name: str, engine: Engine, entries: Sequence[Entry]) -> str:
    taken = {entry.name for entry in entries}
    if name not in taken:
        return name
    other = f"{name}-{engine.unit.partition('.')[0].replace('@', '-')}"
    number = 2
    while other in taken:
        other = f"{name}-{number}"
        number += 1
    return other


def _is_at(model: ModelFiles, path: str) -> bool:
    return bool(path) and posixpath.normpath(path) == model.path


def _groups(engines: Sequence[Engine]) -> dict[str, str]:
    """A device group for each unit that has GPUs of its own, where the units say so."""
    devices = {engine.unit: engine.launch.devices.replace(" ", "") for engine in engines}
    if len(set(devices.values())) < 2 or "" in devices.values():
        return {}
    sets = {text: set(text.split(",")) for text in devices.values()}
    for one, mine in sets.items():
        if any(one != other and mine & theirs for other, theirs in sets.items()):
            return {}  # they share some: one of them has to go for the other
    return {unit: "gpu" + re.sub(r"[^A-Za-z0-9._-]+", "-", text) for unit, text in devices.items()}


def _crowd(engines: Sequence[Engine], groups: Mapping[str, str]) -> Iterator[str]:
    """Units that run side by side now, and which the proposal would have take turns."""
    for group in dict.fromkeys(["", *groups.values()]):
        units = [
            engine.unit
            for engine in engines
            if engine.state == "active" and groups.get(engine.unit, "") == group
        ]
        if len(units) > 1:
            yield (
                f"{', '.join(units)} run side by side now. Models of one `group:` take turns: the "
                "first switch stops the others. If they have GPUs of their own, give each of them "
                "a group of its own"
            )


def _unserved(found: Survey, entries: Sequence[Entry]) -> Iterator[str]:
    launched = {
        posixpath.normpath(launch.model)
        for engine in found.engines
        for launch in (engine.launch, *engine.scripts)
        if launch.model
    }
    folders = [engine.tabby.model_dir for engine in found.engines if engine.tabby]
    for model in found.models:
        if model.path in launched:
            continue
        tabby = any(model.path.startswith(f"{folder}/") for folder in folders if folder)
        if tabby and "tabby" in model.served_by:
            continue  # has an entry, or a note of its own
        if model.problem:
            yield f"{model.path} ({model.kind}): {model.problem}"
            continue
        engines = " or ".join(_LABELS[backend] for backend in model.served_by)
        yield f"{model.path} ({model.kind}): for {engines}; no unit serves it"


def _comment(text: str, indent: str, hang: str = "") -> list[str]:
    """The text as comment lines."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            if line and len(indent) + 2 + len(line) + 1 + len(word) > _WIDTH:
                lines.append(line)
                line = hang + word
            else:
                line = f"{line} {word}" if line else word
        lines.append(line)
    return [f"{indent}# {line}".rstrip() for line in lines]
