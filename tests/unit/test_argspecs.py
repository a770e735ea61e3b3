"""Each role's defaults and its meta/argument_specs.yml say the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from llm_router.config.schema import (
    Background,
    Config,
    Listen,
    Recent,
    RequestLimits,
    SchedulerConfig,
    Status,
    SwitchConfig,
)

ROLES = sorted((Path(__file__).resolve().parents[2] / "roles").iterdir())


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def specs(role: Path) -> Any:
    return read(role / "meta/argument_specs.yml")["argument_specs"]


SECRET = re.compile(
    r"(^|_)(api_?)?(keys?|passwords?|passphrases?|secrets?|tokens?|credentials?)(_|$)"
)
NOT_SECRET = {
    "engine_key_file": "the path of a file",
    "gateway_max_connections_without_key": "a number",
    "llm_router_api_keys": "a list with names and scopes; its option 'key' is masked",
}


def options(found: Any) -> Iterator[tuple[str, Any]]:
    """The name and the specification of each option, options inside options included."""
    for name, option in found.items():
        yield name, option
        yield from options(option.get("options", {}))


def test_ansible_masks_every_option_with_a_secret() -> None:
    secrets = [
        (name, option.get("no_log"))
        for role in ROLES
        for entry in specs(role).values()
        for name, option in options(entry["options"])
        if SECRET.search(name) and name not in NOT_SECRET
    ]
    assert [name for name, masked in secrets if masked is not True] == []
    assert {"key", "open_webui_secrets", "models_token"} <= {name for name, _ in secrets}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
class TestRole:
    def test_defaults_are_the_specs_defaults(self, role: Path) -> None:
        defaults = {
            name: option["default"]
            for entry in specs(role).values()
            for name, option in entry["options"].items()
            if "default" in option
        }
        assert defaults == read(role / "defaults/main.yml")

    def test_every_option_of_the_role_itself_has_a_default(self, role: Path) -> None:
        # Ansible validates roles on runs that have nothing to do with them
        options = specs(role).get("main", {"options": {}})["options"]
        assert all("default" in option for option in options.values())

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
        entries = specs(role)
        assert entries.get("preflight", {}).get("options") == entries.get("main", {}).get("options")


ROUTER = next(role for role in ROLES if role.name == "llm_router")


def spoken(value: object) -> str:
    """A default as YAML and the documentation say it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


@pytest.mark.parametrize(
    ("variable", "section"),
    [
        ("llm_router_background", Background),
        ("llm_router_requests", RequestLimits),
        ("llm_router_recent", Recent),
    ],
)
def test_a_section_that_is_given_as_one_dict_has_every_key_and_its_default(
    variable: str, section: type[BaseModel]
) -> None:
    options = specs(ROUTER)["main"]["options"][variable]["options"]
    fields = section.model_fields
    assert list(options) == list(fields)
    for name, field in fields.items():
        assert f"V({spoken(field.default)})" in " ".join(options[name]["description"]), name


def test_every_key_of_config_yml_can_be_set_by_a_variable() -> None:
    template = (ROUTER / "templates/config.yml.j2").read_text(encoding="utf-8")
    written = set(re.findall(r"'(\w+)':", template))
    # for child units, or where the distribution puts it: what llm_router_config_extra is for
    wanted = {field.alias or name for name, field in Config.model_fields.items()} - {
        "engine_files",
        "engine_keys",
        "llamacpp_binary",
    }
    for section in (Listen, Status, SchedulerConfig, SwitchConfig):
        wanted |= set(section.model_fields)
    assert wanted <= written


def test_no_task_logs_a_models_variables() -> None:
    """A module writes its parameters into the journal of its host: for all in the group adm."""
    found = set()
    for path in sorted((Path(__file__).parents[2] / "roles/llm_router/tasks").glob("*.yml")):
        for task in yaml.safe_load(path.read_text(encoding="utf-8")):
            if "stdin" in str(task) and "__llm_router_models_text" in str(task):
                found.add(task["name"])
                assert task.get("no_log") is True, (path.name, task["name"])
    assert len(found) == 2
