"""The models.yml that install.sh begins with. Reads the machine; writes nothing but stdout.

    first_models.py units DIR               the units that start an engine, one line for each
    first_models.py models DIR ENGINES [adopt]
                                            a models.yml: with ``adopt`` the models of these units;
                                            and of each model in DIR that one of ENGINES serves

DIR is the folder of models. ENGINES are names of roles with commas between them, the preferred one
first. Any Python from 3.8 on runs it: nothing is installed yet.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

from llm_router.discovery.proposal import DECIDE, Entry, Proposal, propose, render
from llm_router.discovery.survey import Engine, Survey, survey

if TYPE_CHECKING:
    from llm_router.discovery.folders import ModelFiles

BACKENDS = {"sglang": "sglang", "vllm": "vllm", "tabbyapi": "tabby"}
MAX_DEPTH = 4
MAX_HEAD = 4096
OTHER_PART = re.compile(r"-0*([2-9]|[1-9]\d+)-of-\d+\.gguf$")
FIRST_PART = re.compile(r"-0*1-of-\d+$")
ARGUMENTS = "Its options go into `args`, such as [--ctx-size, 16384, --n-gpu-layers, 99]."
OURS = "# Written by the role roundhouse.llm."
HEAD = """\
# Written once by install.sh; yours from now on: run it again after a change.
# Every key: docs/reference/models-yml.md.
# Clients name models as they are named here. A model that is not there yet can be downloaded:
#
#   qwen3-8b:
#     backend: llamacpp
#     service: llamacpp@qwen3-8b.service
#     repo: Qwen/Qwen3-8B-GGUF
#     files: [Qwen3-8B-Q4_K_M.gguf]
"""


def foreign(found: Survey) -> list[Engine]:
    """The units that no role of this collection has written."""
    return [engine for engine in found.engines if not _is_ours(engine.path)]


def _is_ours(path: str) -> bool:
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            return file.read(MAX_HEAD).startswith(OURS)
    except OSError:
        return False


def described(engine: Engine) -> str:
    """``sglang.service (active) starts sglang by /opt/start.sh, and serves mistral``."""
    script = f" by {engine.launch.script}" if engine.launch.script else ""
    name = engine.serves or engine.launch.name or (engine.tabby.model_name if engine.tabby else "")
    serves = f", and serves {name}" if name else ""
    return f"{engine.unit} ({engine.state}) starts {engine.launch.backend}{script}{serves}"


def walk(top: str) -> Iterator[tuple[str, list[str]]]:
    """Each folder with its files' names, hidden folders left out."""
    seen = set()
    for folder, folders, names in os.walk(top, followlinks=True):
        seen.add(os.path.realpath(folder))
        deep = len(Path(folder).relative_to(top).parts) < MAX_DEPTH - 1
        folders[:] = [
            name
            for name in folders
            if deep
            and not name.startswith(".")
            and os.path.realpath(f"{folder}/{name}") not in seen  # a link may lead back
        ]
        yield folder, names


def gguf_files(top: str) -> list[str]:
    """Of a GGUF file that is in parts the first, and no projectors; in the order of bytes."""
    found = [f"{folder}/{name}" for folder, names in walk(top) for name in names if _is_gguf(name)]
    return sorted(found, key=os.fsencode)


def _is_gguf(name: str) -> bool:
    if not name.endswith(".gguf") or name.startswith((".", "mmproj")):
        return False
    return OTHER_PART.search(name) is None


def gguf_entries(paths: Sequence[str], taken: set[str]) -> Iterator[Entry]:
    """An entry for each GGUF file."""
    for path in paths:
        name = _free(FIRST_PART.sub("", Path(path).name[: -len(".gguf")]), taken)
        fields = {"backend": "llamacpp", "service": f"llamacpp@{name}.service", "model_path": path}
        yield Entry(name, fields, (ARGUMENTS,))


def folder_entries(
    models: Sequence[ModelFiles], engines: Sequence[str], taken: set[str]
) -> Iterator[Entry]:
    """An entry for each folder that one of the engines serves, the first that does."""
    for model in models:
        engine = engine_of(model, engines)
        name = _free(Path(model.path).name, taken)
        fields: dict[str, str | int] = {"backend": BACKENDS[engine]}
        if engine != "tabbyapi":
            fields["service"] = f"{engine}@{name}.service"
        elif model.format == "EXL3":  # one unit serves all models of a kind
            fields["service"] = "tabbyapi.service"
        else:
            fields.update(service="tabbyapi-exl2.service", port=5001)
        yield Entry(name, {**fields, "model_path": model.path}, (f"{model.kind}.",))


def engine_of(model: ModelFiles, engines: Sequence[str]) -> str:
    """The first engine that serves a folder; empty where none does."""
    if model.problem or model.format == "GGUF":
        return ""
    return next((one for one in engines if BACKENDS.get(one) in model.served_by), "")


def _free(stem: str, taken: set[str]) -> str:
    """A name that clients and units can have, and that no other model has."""
    plain = re.sub(r"^[^A-Za-z0-9]+", "", re.sub(r"[^A-Za-z0-9._-]+", "-", stem)) or "model"
    name = plain if plain not in taken else f"{plain}-{len(taken) + 1}"
    taken.add(name)
    return name


def first_models(top: str, engines: Sequence[str], units: Sequence[Engine], found: Survey) -> str:
    """The text of the models.yml: the models of ``units``, then those that engines are for."""
    adopted = {launch.model for unit in units for launch in (unit.launch, *unit.scripts)}
    roots = [f"{unit.tabby.model_dir}/" for unit in units if unit.tabby and unit.tabby.model_dir]
    files = [path for path in gguf_files(top) if "llamacpp" in engines and path not in adopted]
    folders = [
        model
        for model in found.models
        if model.path.startswith(f"{top}/")
        and model.path not in adopted
        and not (model.path.startswith(tuple(roots)) and "tabby" in model.served_by)
        and engine_of(model, engines)
    ]
    mine = {*files, *(model.path for model in folders)}
    others = tuple(model for model in found.models if model.path not in mine)
    proposal = Proposal(())
    if units:
        proposal = propose(Survey(tuple(units), others, found.searched, found.unread))
    taken = {entry.name for entry in proposal.entries}
    entries = [
        *proposal.entries,
        *gguf_entries(files, taken),
        *folder_entries(folders, engines, taken),
    ]
    text = render(Proposal(tuple(entries), proposal.notes), notes_title=DECIDE)
    told = mine | {model.path for model in others if units}
    # which engine serves one of these only its owner knows
    left = [folder for folder, names in walk(top) if "config.json" in names and folder not in told]
    also = "".join(f"  # there is also {folder}\n" for folder in sorted(left, key=os.fsencode))
    return HEAD + text[text.index("schema: 1\n") :] + also


def main() -> None:
    what, top = sys.argv[1], sys.argv[2].rstrip("/") or "/"
    found = survey([top])
    if what == "units":
        sys.stdout.writelines(f"{described(engine)}\n" for engine in foreign(found))
    else:
        engines = [name for name in sys.argv[3].split(",") if name]
        units = foreign(found) if "adopt" in sys.argv[4:] else []
        sys.stdout.write(first_models(top, engines, units, found))


if __name__ == "__main__":
    main()
