"""What writes docs/reference: all that is there gets its page, and a stale page is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from llm_router.config import schema
from tools.docs import __main__ as docs
from tools.docs.ansible_pages import plugin_pages, role_pages
from tools.docs.config_pages import config_pages
from tools.docs.markup import cell, markdown

ROOT = Path(__file__).parents[2]
NO_FRAGMENTS = Path("/nonexistent")
MODULE = '''
DOCUMENTATION = r"""
module: greet
short_description: Greets
description: Says O(greeting=hello) to C(someone).
options:
  greeting: {description: What to say., type: str, choices: [hello, bye], default: hello}
  to:
    description: To whom.
    type: list
    elements: dict
    options:
      name: {description: The name., type: str, required: true}
extends_documentation_fragment: [roundhouse.llm.shared]
"""
EXAMPLES = """
- roundhouse.llm.greet:
"""
RETURN = r"""
said: {description: What was said., type: str, returned: always}
"""
'''
FRAGMENT = '''
class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  socket: {description: Where., type: path, default: /run/x.sock}
"""
'''
ROLE = """
argument_specs:
  main:
    short_description: Does a new thing
    options:
      fresh_one: {type: int, default: 3, description: 'A | in a cell.'}
"""


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("C(a.yml) and O(x=1), RV(y)", "`a.yml` and `x=1`, `y`"),
        (r"V(f(x\)) B(bold) I(lean)", "`f(x)` **bold** *lean*"),
        ("L(text, https://x.invalid/)", "[text](https://x.invalid/)"),
        ("M(roundhouse.llm.model_info)", "[`model_info`](../plugins/model_info.md)"),
        ("P(roundhouse.llm.uv#role)", "[`uv`](../roles/uv.md)"),
        ("M(ansible.builtin.copy), TABLE(x)", "`ansible.builtin.copy`, TABLE(x)"),
    ],
)
def test_markup(said: str, shown: str) -> None:
    assert markdown(said) == shown


def test_a_cell_stays_one_cell() -> None:
    assert cell(["a | b", "c\n  d"]) == "a \\| b c d"


def test_a_new_module_gets_its_page(tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/greet.py").write_text(MODULE)
    (tmp_path / "modules/no_docs.py").write_text("x = 1\n")
    (tmp_path / "shared.py").write_text(FRAGMENT)
    pages = plugin_pages(tmp_path, tmp_path)
    assert set(pages) == {"plugins/README.md", "plugins/greet.md"}
    assert "| [greet](greet.md) | module | Greets |" in pages["plugins/README.md"]
    page = pages["plugins/greet.md"]
    assert "| `greeting` | str | `hello` | One of `hello`, `bye`. What to say. |" in page
    assert "| `to[].name` | str | required | The name. |" in page
    assert "| `socket` | path | `/run/x.sock` | Where. |" in page
    assert "| `said` | str | always | What was said. |" in page
    assert "```yaml\n- roundhouse.llm.greet:\n```" in page


def test_a_new_role_gets_its_page(tmp_path: Path) -> None:
    (tmp_path / "fresh/meta").mkdir(parents=True)
    (tmp_path / "fresh/meta/argument_specs.yml").write_text(ROLE)
    pages = role_pages(tmp_path)
    assert "[fresh](fresh.md) | Does a new thing" in pages["roles/README.md"]
    assert "| `fresh_one` | int | `3` | A \\| in a cell. |" in pages["roles/fresh.md"]


def test_every_key_of_every_file_is_told() -> None:
    told = "".join(config_pages().values())
    sections = [
        one
        for one in vars(schema).values()
        if isinstance(one, type)
        and issubclass(one, BaseModel)
        and one.__module__ == schema.__name__
    ]
    for section in sections:
        for name, field in section.model_fields.items():
            if section is not schema.Model:
                said = f"| `{field.alias or name}` |" in told or f"## `{name}`" in told
                assert said or section.__name__ == "_Section", f"{section.__name__}.{name}"


def test_what_is_stale_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "REFERENCE", tmp_path)
    (tmp_path / "same.md").write_text("a")
    (tmp_path / "changed.md").write_text("a")
    (tmp_path / "gone.md").write_text("a")
    wanted = {"same.md": "a", "changed.md": "b", "new.md": "c"}
    assert docs.stale(wanted) == ["changed.md", "gone.md", "new.md"]


def test_every_role_and_module_that_is_there_has_a_page() -> None:
    pages = docs.pages()
    for role in (ROOT / "roles").iterdir():
        assert f"roles/{role.name}.md" in pages
    for module in (ROOT / "plugins/modules").glob("*.py"):
        assert f"plugins/{module.stem}.md" in pages
