"""What the pages tell people to type, and which of it `on_host.py` does not run, and why not.

Each line of a block of ``sh`` is run on the host of tests/install/run, in the order of the pages,
unless `ELSEWHERE` says that another test runs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A line that somebody may type; ``page`` is relative to the repository."""

    page: str
    text: str


@dataclass(frozen=True)
class Elsewhere:
    """Commands that are not run there. ``evidence`` stands in ``test``, which runs the same."""

    pattern: str
    why: str
    test: str
    evidence: str

    def matches(self, command: Command) -> bool:
        """Whether the command, without its comment, is one of these."""
        return re.fullmatch(self.pattern, command.text.partition("  #")[0].strip()) is not None


_CONTROL = "it is typed where Ansible is, and not on a server"
_PLAYBOOK = r"(\.cache/venvs/control/bin/)?ansible-playbook -i my-server/inventory\.yml playbooks"
_ADOPTED = "it is for a host whose engines were there before"
_DEMO = "it is the demo, or the tests themselves"
ELSEWHERE = (
    Elsewhere(r"ROUNDHOUSE=.* make -C roundhouse demo", _DEMO, "tests/demo", "make demo"),
    Elsewhere(r"ROUNDHOUSE=.* make -C roundhouse test", _DEMO, "Makefile", "tools/gate.py test"),
    Elsewhere(
        r"git clone https://github\.com/\S+ && cd roundhouse",
        "tests have the checkout that they are in",
        "tests/install/run",
        "tools/export-tree",
    ),
    Elsewhere(
        r"sudo \./install\.sh( --check)?",
        "that test has done so before",
        "tests/install/run",
        "$install --check --answers /work/answers",
    ),
    Elsewhere(r"tools/bootstrap control", _CONTROL, "demo/run", "tools/bootstrap control model"),
    Elsewhere(
        r"cp -r examples/one-host my-server",
        _CONTROL,
        "tests/unit/test_docs_commands.py",
        'READERS = {"my-server": "examples/one-host"}',
    ),
    Elsewhere(
        rf"{_PLAYBOOK}/site\.yml( --check --diff)?",
        _CONTROL,
        "demo/demo.py",
        "playbooks/site.yml",
    ),
    Elsewhere(
        rf"{_PLAYBOOK}/site\.yml --tags switch -e llm_model=\S+",
        _CONTROL,
        "molecule/default/verify/operator.yml",
        "llm_model",
    ),
    Elsewhere(
        rf"{_PLAYBOOK}/site\.yml -e llm_router_adopt=true( --check)?",
        _ADOPTED,
        "tests/adopt/adopt.py",
        "ansible-playbook -i my-server/inventory.yml playbooks/site.yml (.*)$",
    ),
    Elsewhere(
        rf"{_PLAYBOOK}/site\.yml --tags llm_router,open_webui",
        _CONTROL,
        "tests/open_webui/run",
        "play roundhouse.llm.site --tags llm_router,open_webui",
    ),
    Elsewhere(
        r"systemctl stop open-webui\.service|cd /var/lib/open-webui && .*",
        "the host has no Open WebUI",
        "tests/open_webui/run",
        "sed -n '/^cd .var.lib.open-webui/",
    ),
    Elsewhere(
        rf"{_PLAYBOOK}/rollback\.yml", _CONTROL, "tests/fleet/fleet.py", 'play("rollback.yml"'
    ),
    Elsewhere(
        r"systemctl (disable --now llm-router\.service .*|daemon-reload)|rm -f /etc/systemd/.*",
        _ADOPTED,
        "tests/adopt/adopt.py",
        'BACK = PAGE.rpartition("```sh\\n")[2]',
    ),
    Elsewhere(
        r"tar -C / -[cx]zf /root/llm-router\.tar\.gz.*|systemctl (stop|start) llm-router\.service",
        "it would replace the configuration of the host that the other pages' commands run on",
        "tests/integration/test_moving.py",
        'tar("Restore", router.dir, archive)',
    ),
    Elsewhere(
        r"llm-router models remove \S+",
        "the line before it adds the model with --dry-run, for the sake of the page",
        "tests/unit/test_cli_models.py",
        '"remove"',
    ),
    Elsewhere(
        r"llm-router qualify .*",
        "it loads and unloads each model again and again",
        "tests/integration/test_qualify.py",
        'module, "qualify"',
    ),
    Elsewhere(
        rf"{_PLAYBOOK}/qualify\.yml",
        _CONTROL,
        "molecule/default/verify/qualify.yml",
        "playbooks/qualify.yml",
    ),
    Elsewhere(
        r"llm-router import /etc/llama-swap/config\.yaml >models\.yml",
        "the host has no llama-swap",
        "tests/unit/test_cli_adoption.py",
        "import",
    ),
    Elsewhere(
        r"llm-router completion (bash|zsh|fish) >/\S+",
        "the host need not have these shells",
        "tests/integration/test_cli_completion.py",
        "completion",
    ),
)


def commands() -> Iterator[Command]:
    """All of them, page by page; what is said of failures comes while there is one."""
    reference = ROOT / "docs/reference"
    first = ROOT / "docs/operations.md"
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    pages = [page for page in pages if reference not in page.parents and page != first]
    for page in (first, *pages):
        for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip():
                    yield Command(str(page.relative_to(ROOT)), line.strip())


def on_host() -> list[Command]:
    """Those that no other test runs."""
    return [
        command
        for command in commands()
        if not any(reason.matches(command) for reason in ELSEWHERE)
    ]
