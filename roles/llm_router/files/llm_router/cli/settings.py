"""The configuration as commands get it: what is wrong with it ends the command."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llm_router.cli.exits import Failed
from llm_router.config import Config, ConfigError, Problem, Settings, load_settings
from llm_router.config.load import load_config


def settings_of(options: argparse.Namespace) -> Settings:
    """All three files. Raises `Failed`."""
    with failing():
        return load_settings(options.config, options.models, options.keys)


def config_of(options: argparse.Namespace) -> Config:
    """config.yml alone: a mistake in models.yml must not keep an operator from the running router.

    Raises `Failed`.
    """
    with failing():
        return load_config(options.config)


@contextmanager
def failing() -> Iterator[None]:
    """What the checker raises, as `Failed`."""
    try:
        yield
    except ConfigError as error:
        problems = [problem_json(problem) for problem in error.problems]
        raise Failed(str(error), error={"code": "config_invalid", "problems": problems}) from error


def problem_json(problem: Problem) -> dict[str, Any]:
    """A problem in the form of ``--json``."""
    return {
        "file": problem.file,
        "line": problem.line,
        "key": problem.key,
        "message": problem.what,
        "remedy": problem.remedy,
    }
