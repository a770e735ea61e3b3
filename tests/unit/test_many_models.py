"""What 1,000 models cost. Times are those of the process: other work of the machine is not in them.

Each limit is several times what is measured, and below what was measured before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_router import yaml_edit
from llm_router.cli import main
from llm_router.config.load import load_settings

COUNT = 1000
ENTRY = """\
  model-{n}:
    backend: llamacpp
    service: llamacpp@model-{n}.service
    model_path: /srv/models/model-{n}.gguf
    args: ["--ctx-size", "4096"]
    aliases: [alias-{n}]
    display_name: Model {n}

"""


def models_yml(count: int = COUNT) -> str:
    return "schema: 1\nmodels:\n" + "".join(ENTRY.format(n=n) for n in range(count))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "models.yml").write_text(models_yml())
    path = tmp_path / "config.yml"
    path.write_text(f"admin_socket: {tmp_path}/no.sock\n")
    return path


def seconds(action: Callable[[], object]) -> float:
    """The least of two runs."""
    times = []
    for _ in range(2):
        began = time.process_time()
        action()
        times.append(time.process_time() - began)
    return min(times)


def test_a_configuration_is_checked_within_a_second(config: Path) -> None:
    assert len(load_settings(config).models) == COUNT
    assert seconds(lambda: load_settings(config)) < 1.0


def test_a_model_is_added_and_removed_within_a_second(config: Path) -> None:
    entry = ["--backend", "llamacpp", "--service", "llamacpp@new.service"]
    entry += ["--model-path", "/srv/new.gguf"]

    def add_and_remove() -> None:
        assert main(["models", "add", "new", *entry, "--config", str(config)]) == 0
        assert main(["models", "remove", "new", "--config", str(config)]) == 0

    assert seconds(add_and_remove) < 2.0
    assert (config.parent / "models.yml").read_text() == models_yml()


def test_a_models_yml_of_five_thousand_models_is_not_refused_for_its_size() -> None:
    assert len(yaml_edit.mapping(models_yml(5000))["models"]) == 5000
