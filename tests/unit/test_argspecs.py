"""Each role's defaults and its meta/argument_specs.yml say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = sorted((Path(__file__).resolve().parents[2] / "roles").iterdir())


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def specs(role: Path) -> Any:
    return read(role / "meta/argument_specs.yml")["argument_specs"]


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
class TestRole:
    def test_defaults_are_the_specs_defaults(self, role: Path) -> None:
        options = specs(role)["main"]["options"]
        # every option has one: Ansible validates roles on runs that have nothing to do with them
        assert {name: option["default"] for name, option in options.items()} == read(
            role / "defaults/main.yml"
        )

    def test_every_option_is_described(self, role: Path) -> None:
        for entry in specs(role).values():
            assert entry["short_description"]
            for name, option in entry["options"].items():
                assert option["type"], name
                assert option["description"], name

    def test_public_variables_begin_with_the_roles_name(self, role: Path) -> None:
        assert all(name.startswith(f"{role.name}_") for name in read(role / "defaults/main.yml"))

    def test_private_variables_begin_with_two_underscores(self, role: Path) -> None:
        assert all(name.startswith(f"__{role.name}_") for name in read(role / "vars/main.yml"))

    def test_the_preflight_entry_takes_what_the_role_takes(self, role: Path) -> None:
        assert specs(role)["preflight"]["options"] == specs(role)["main"]["options"]
