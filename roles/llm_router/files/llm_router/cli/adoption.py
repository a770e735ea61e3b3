"""``llm-router discover`` and ``import``: a models.yml out of what is there already, on stdout.

Nothing is written. What comes out has passed the checker, or the command says what keeps it from
that.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from llm_router.cli.exits import Exit, Failed
from llm_router.cli.settings import problem_json, settings_of
from llm_router.config.errors import ConfigError, Problem
from llm_router.config.load import load_models
from llm_router.config.schema import Config
from llm_router.discovery.answer import answer_of
from llm_router.discovery.keys import KeyUser, adopted_keys
from llm_router.discovery.proposal import render
from llm_router.discovery.survey import engines, read_key_of, survey
from llm_router.engine_keys import key_file
from llm_router.file_edits import EngineFileError, FileEdit, WholeFile, apply
from llm_router.foreign import Units, Unreadable, read_foreign
from llm_router.json_codec import json_text

GROUP = "llm-router"
IMPORTED = "Made by `llm-router import` from {file}."
LEFT_OUT = "Not carried over, or for you to do:"


def discover(options: argparse.Namespace) -> int:
    """Propose a models.yml from what this host has."""
    answer = answer_of(survey(options.models_dirs))
    unread = [f"could not read {item['path']}: {item['reason']}" for item in answer["unread"]]
    return _print(answer, unread, "systemd", as_json=options.json)


def adopt_keys(options: argparse.Namespace) -> int:
    """Write the keys of the models' engines to where the router reads them.

    A file that is there already stays as it is: somebody wanted it so.
    """
    settings = settings_of(options)
    users = [
        KeyUser(model.unit, path, model.residency == "unload")
        for model in settings.models.values()
        if (path := key_file(model, settings.config)) is not None and not Path(path).exists()
    ]
    wanted, problems = adopted_keys(users, engines(), read_key_of)
    if problems:
        raise Failed(problems[0])
    edits = [
        FileEdit(path, WholeFile(f"{key}\n"), reader=GROUP, secret=True)
        for path, key in wanted.items()
    ]
    try:
        apply(edits, check=options.check)
    except EngineFileError as error:
        raise Failed(str(error)) from error
    if options.json:
        print(json_text({"changed": bool(wanted), "files": list(wanted)}))
    else:
        print(
            "".join(f"{'would write' if options.check else 'wrote'} {path}\n" for path in wanted),
            end="",
        )
    return Exit.DONE


def import_models(options: argparse.Namespace) -> int:
    """Turn another router's configuration into a models.yml."""
    path = Path(options.file)
    try:
        proposal = read_foreign(path, options.units)
    except Unreadable as error:
        raise Failed(f"{path}: {error}") from error
    answer = {
        "models_yml": render(proposal, IMPORTED.format(file=path.name), LEFT_OUT),
        "models": proposal.models,
        "notes": proposal.notes,
    }
    said = [f"not carried over: {note}" for note in proposal.notes]
    return _print(answer, said, options.units, as_json=options.json)


def _print(answer: dict[str, Any], said: list[str], units: Units, *, as_json: bool) -> int:
    """The text on stdout and what there is to say of it on stderr; or both as JSON."""
    problems = _problems(answer["models_yml"], units)
    if as_json:
        found = [problem_json(problem) for problem in problems]
        print(json_text({**answer, "valid": not problems, "problems": found}))
    else:
        print(answer["models_yml"], end="")
        said = [*said, *(f"to be put right first: {problem}" for problem in problems)]
        print("".join(f"{line}\n" for line in said), end="", file=sys.stderr)
    return Exit.NOT_DONE if problems else Exit.DONE


def _problems(text: str, units: Units) -> list[Problem]:
    """What the router would say of ``text`` as its models.yml."""
    with tempfile.TemporaryDirectory(prefix="llm-router-") as directory:
        path = Path(directory) / "models.yml"
        path.write_text(text, encoding="utf-8")
        try:
            load_models(path, Config.model_validate({"units": units}))
        except ConfigError as error:
            return [
                Problem("models.yml", problem.line, problem.key, problem.what, problem.remedy)
                for problem in error.problems
            ]
    return []
