"""What the role open_webui writes, as Ansible makes it, and what its documentation says of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.plays import run_plays

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/open_webui"
PAGE = (ROOT / "docs/open-webui.md").read_text()
ODD = """a "key" with \\ and $HOME and `x` and 'y' #z"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By case: environment, secrets, unit; in one run of Ansible."""
    directory = tmp_path_factory.mktemp("open-webui")
    cases: dict[str, dict[str, Any]] = {
        "plain": {},
        "keyed": {"llm_router_api_keys": [{"name": "x"}, {"name": "open-webui", "key": ODD}]},
        "outside": {
            "open_webui_host": "0.0.0.0",
            "open_webui_url": "https://chat.example.org/",
            "open_webui_admin_email": "a@example.org",
            "open_webui_admin_password": "secret",
            "open_webui_environment": {"WEBUI_NAME": "50 % $off"},
        },
        "elsewhere": {"open_webui_router_url": "http://gpu1:8002/v1"},
        # as -e NAME=VALUE gives them
        "words": {
            "open_webui_title": "false",
            "open_webui_tags": "yes",
            "open_webui_offline": "no",
        },
        "any address": {"llm_router_host": "0.0.0.0", "llm_router_port": 8003},
        "any of IPv6": {"llm_router_host": "::"},
        "one address": {"llm_router_host": "192.0.2.7"},
        "one of IPv6": {"llm_router_host": "2001:db8::7"},
        # the role uv asks for what it installs, and there role_path is its own
        "within uv": {"role_path": str(ROOT / "roles/uv")},
    }
    plays = []
    for case, given in cases.items():
        extra = directory / f"{case}.yml"
        extra.write_text(yaml.safe_dump({"role_path": str(ROLE), **given}))
        files = [str(ROLE / f"{part}/main.yml") for part in ("defaults", "vars")]
        content = (
            "{{ {'environment': __open_webui_environment, 'version': __open_webui_version,"
            " 'models': __open_webui_models_url, 'lock': __open_webui_lock_text,"
            " 'check': __open_webui_check,"
            f" 'secrets': lookup('template', '{ROLE}/templates/secrets.env.j2'),"
            f" 'unit': lookup('template', '{ROLE}/templates/open-webui.service.j2')}}"
            " | to_json }}"
        )
        plays.append(
            {
                "hosts": "localhost",
                "connection": "local",
                "gather_facts": False,
                "vars_files": [*files, str(extra)],
                "vars": {"__open_webui_current": {"stdout": "0123456789ab"}},
                "tasks": [
                    {
                        "ansible.builtin.copy": {
                            "content": content,
                            "dest": str(directory / f"{case}.json"),
                            "mode": "0600",
                        }
                    }
                ],
            }
        )
    run_plays(directory, plays)
    return {case: json.loads((directory / f"{case}.json").read_text()) for case in cases}


def test_the_version_is_the_locks(made: dict[str, Any]) -> None:
    (version,) = re.findall(
        r"^open-webui==(\S+)", (ROLE / "files/requirements.in").read_text(), re.MULTILINE
    )
    assert made["plain"]["version"] == version
    assert f"Open WebUI {version}" in PAGE
    assert f"/keep-database.sh {version}\n" in made["plain"]["unit"]


def test_what_is_installed_is_the_same_wherever_it_is_asked_for(made: dict[str, Any]) -> None:
    assert made["plain"]["lock"] == (ROLE / "files/requirements.lock").read_text()
    assert made["within uv"] == made["plain"]


def test_the_router_is_asked_as_its_documentation_says(made: dict[str, Any]) -> None:
    environment = made["plain"]["environment"]
    assert environment["OPENAI_API_BASE_URLS"] == "http://127.0.0.1:8002/v1"
    (connection,) = json.loads(environment["OPENAI_API_CONFIGS"]).values()
    assert connection["headers"] == {"X-LLM-Router-Status": "event"}
    metadata = json.loads(environment["DEFAULT_MODEL_METADATA"])
    assert metadata == {"capabilities": {"usage": True, "builtin_tools": False}}
    assert environment["ENABLE_TITLE_GENERATION"] == "True"
    assert environment["ENABLE_PERSISTENT_CONFIG"] == "False"
    assert all(isinstance(value, str) for value in environment.values())


def test_yes_and_no_may_be_words(made: dict[str, Any]) -> None:
    environment = made["words"]["environment"]
    assert environment["ENABLE_TITLE_GENERATION"] == "False"
    assert environment["ENABLE_TAGS_GENERATION"] == "True"
    assert "OFFLINE_MODE" not in environment


def test_no_secret_stands_in_the_unit(made: dict[str, Any]) -> None:
    assert 'OPENAI_API_KEYS="none"' in made["plain"]["secrets"]
    (line,) = re.findall(r'^OPENAI_API_KEYS="(.*)"$', made["keyed"]["secrets"], re.MULTILINE)
    assert re.sub(r"\\(.)", r"\1", line) == ODD
    assert 'WEBUI_ADMIN_PASSWORD="secret"' in made["outside"]["secrets"]
    for case in made.values():
        assert "OPENAI_API_KEYS" not in case["unit"]
        assert "WEBUI_ADMIN_PASSWORD" not in case["unit"]
        assert "OPEN_WEBUI_GENERATION" not in case["unit"], "it is made from the secrets"


def test_who_is_shut_in(made: dict[str, Any]) -> None:
    shut_in = {name for name, case in made.items() if "IPAddressDeny=any" in case["unit"]}
    assert shut_in == {"plain", "keyed", "within uv", "any address", "any of IPv6"}


@pytest.mark.parametrize(
    ("case", "url"),
    [
        ("plain", "http://127.0.0.1:8002/v1"),
        ("any address", "http://127.0.0.1:8003/v1"),
        ("any of IPv6", "http://[::1]:8002/v1"),
        ("one address", "http://192.0.2.7:8002/v1"),
        ("one of IPv6", "http://[2001:db8::7]:8002/v1"),
    ],
)
def test_it_asks_where_the_router_of_its_host_listens(
    made: dict[str, Any], case: str, url: str
) -> None:
    assert made[case]["environment"]["OPENAI_API_BASE_URLS"] == url
    assert made[case]["models"] == f"{url}/models"


def test_an_address_of_its_own(made: dict[str, Any]) -> None:
    environment = made["outside"]["environment"]
    assert environment["CORS_ALLOW_ORIGIN"] == "https://chat.example.org"
    assert environment["WEBUI_SESSION_COOKIE_SECURE"] == "True"
    assert 'Environment="WEBUI_NAME=50 %% $off"' in made["outside"]["unit"]


def test_every_restart_is_told_by_what_it_was_started_with(made: dict[str, Any]) -> None:
    told = {
        re.findall(r"GENERATION=(.{12})$", case["secrets"], re.MULTILINE)[0]
        for case in made.values()
    }
    assert len(told) == len(made) - 1, "and one is the same as another"


def test_what_is_documented_is_there(made: dict[str, Any]) -> None:
    variables = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    told = set(re.findall(r"\bopen_webui_[a-z_]+", PAGE))
    assert told
    assert told <= set(variables)
    settings = set(re.findall(r"^\| `([A-Z_]+)`", PAGE, re.MULTILINE)) | set(
        re.findall(r"^\| `open_webui_.*\| `([A-Z_]+)`", PAGE, re.MULTILINE)
    )
    assert {"TASK_MODEL"} == settings - set(made["plain"]["environment"])
