"""Commands of the host: check the configuration, run the router or the helper, write files."""

from __future__ import annotations

import argparse
import asyncio
import contextlib

from llm_router.cli.exits import Exit, Failed
from llm_router.cli.settings import problem_json, settings_of
from llm_router.config import ConfigError, load_settings
from llm_router.config.load import load_config
from llm_router.json_codec import json_text
from llm_router.logs import log_to_stderr, use_format
from llm_router.model_gpus import notes_on_groups


def check(options: argparse.Namespace) -> int:
    """Say what is wrong with the configuration, if anything."""
    if options.json:
        return _check_json(options)
    settings = settings_of(options)
    models, keys = len(settings.models), len(settings.keys)
    print(f"valid: {models} model{'s' * (models != 1)}, {keys} key{'s' * (keys != 1)}")
    for note in notes_on_groups(settings.models):
        print(f"note: {note}")
    return Exit.DONE


def _check_json(options: argparse.Namespace) -> int:
    """The problems are the answer here, not an error."""
    models, keys, problems = 0, 0, []
    notes: list[str] = []
    try:
        settings = load_settings(options.config, options.models, options.keys)
        models, keys = len(settings.models), len(settings.keys)
        notes = notes_on_groups(settings.models)
    except ConfigError as error:
        problems = [problem_json(problem) for problem in error.problems]
    valid = not problems
    counts = {"models": models, "keys": keys}
    print(json_text({"valid": valid, **counts, "problems": problems, "notes": notes}))
    return Exit.DONE if valid else Exit.NOT_DONE


def serve(options: argparse.Namespace) -> int:
    """Run the router."""
    from llm_router.serve import serve as run

    settings = settings_of(options)
    log_to_stderr(settings.config.log.format)
    return run(settings)


def helper(options: argparse.Namespace) -> int:
    """Run the root helper."""
    from llm_router.helper.server import serve_helper
    from llm_router.units.base import UnitError

    log_to_stderr()
    # what is wrong with the file is for the router to say: the helper refuses, and says why
    with contextlib.suppress(ConfigError):
        use_format(load_config(options.config).log.format)
    try:
        asyncio.run(serve_helper(options.config))
    except UnitError as error:
        raise Failed(str(error)) from error
    except ConfigError as error:
        raise Failed(str(error)) from error
    return Exit.DONE


def activate(options: argparse.Namespace) -> int:
    """Write what the engines' units read."""
    from llm_router.activation import run_activate
    from llm_router.engine_files import EngineFileError

    settings = settings_of(options)
    if options.model is not None and options.model not in settings.models:
        known = ", ".join(sorted(settings.models))
        raise Failed(f"unknown model {options.model}; known models: {known}")
    names = None if options.all else [options.model]
    try:
        result = run_activate(settings, names, options.check)
    except EngineFileError as error:
        raise Failed(str(error)) from error
    if options.json:
        print(json_text(result))
    else:
        for file in result["files"]:
            print(("changed " if file["changed"] else "ok      ") + file["path"])
    return Exit.DONE
