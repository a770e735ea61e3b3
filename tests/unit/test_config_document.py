"""Whatever is in a configuration file: a problem with file and line, never a traceback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_router.cli import main
from llm_router.config.errors import ConfigError
from llm_router.config.load import load_settings

ENTRY = """\
models:
  a:
    backend: command
    service: x.service
    port: 9000
    description: {}
"""
QUOTES = "put it in quotes if it is text"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("2026-02-31", f"'2026-02-31' is not a valid date; {QUOTES}"),
        ("2026-02-01T25:00:00Z", f"'2026-02-01T25:00:00Z' is not a valid date; {QUOTES}"),
        ("2026-02-01", "is the date 2026-02-01; should be text"),
        ("9" * 5000, f"'{'9' * 40}…' is not a valid whole number; {QUOTES}"),
        ("0x" + "f" * 5000, f"is a number with too many digits; {QUOTES}"),
        ("!!int x", f"'x' is not a valid whole number; {QUOTES}"),
        ("._", f"'._' is not a valid number; {QUOTES}"),
        (
            "!!python/object/apply:os.system [id]",
            "has the tag '!!python/object/apply:os.system', which is not supported; remove it",
        ),
        ("!!omap x", "has the tag '!!omap', which is not supported; remove it"),
        (
            '"\\ud800"',
            "has half of a surrogate pair, which is not a character; write it in another way",
        ),
    ],
    ids=lambda text: text[:30],
)
def test_a_value_that_no_key_can_have(tmp_path: Path, value: str, says: str) -> None:
    (tmp_path / "config.yml").touch()
    (tmp_path / "models.yml").write_text(ENTRY.format(value))
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path / "config.yml")
    (problem,) = caught.value.problems
    assert str(problem) == f"{tmp_path}/models.yml:6: models.a.description: {says}"


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        (b"# one\n# two\nx: \xff\n", 3, "is not UTF-8 at byte 15; save it as UTF-8"),
        (b"x: 1\ny: \x07\n", 2, "is not valid YAML: unacceptable character #x0007"),
        (b'x: 1\ny: "\\UFFFFFFFF"\n', 2, "is not valid YAML: found text that cannot be read"),
        (b"x: 1\ny: " + b"[" * 5000, 2, "has more than 64 levels"),
        (b"x: 1\n2026-02-31: 1\n", 2, "'2026-02-31' is not a valid date"),
    ],
)
@pytest.mark.parametrize("name", ["config.yml", "models.yml", "keys.yml"])
def test_a_file_that_is_no_configuration(
    tmp_path: Path, name: str, content: bytes, line: int, says: str
) -> None:
    (tmp_path / "config.yml").touch()
    (tmp_path / "models.yml").write_text("models: {}\n")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path / "config.yml")
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (str(tmp_path / name), line)
    assert says in str(problem)


def test_text_that_is_tagged_as_text_is_text(tmp_path: Path) -> None:
    (tmp_path / "config.yml").touch()
    (tmp_path / "models.yml").write_text(ENTRY.format("!!str 2026"))
    assert load_settings(tmp_path / "config.yml").models["a"].description == "2026"


KEYS = st.sampled_from(
    [
        "models",
        "schema",
        "a",
        "backend",
        "service",
        "port",
        "args",
        "defaults",
        "settings",
        "variants",
        "aliases",
        "keys",
        "sha256",
        "name",
        "listen",
        "host",
        "group",
        "1",
        "null",
        "2026-01-01",
        "[x]",
        "{x: y}",
    ]
)
SCALARS = st.one_of(
    st.sampled_from(
        [
            "2026-02-31",
            "2026-02-28",
            "!!python/name:os.system",
            "!!set",
            "!!binary",
            "!x",
            "1e999",
            ".nan",
            "0o9",
            "0x",
            "1_0",
            "~",
            "*a",
            "&a",
            "<<:",
            "yes",
            "sglang",
            "sglang.service",
            "llamacpp@x.service",
            "99999999999999999999",
            "-1",
            "8002",
            '"\\ud800"',
            '"\\UFFFFFFFF"',
            "!!timestamp",
            "!!int",
            "!!float",
            "!!bool",
            "!!null",
        ]
    ),
    st.text(max_size=8),
    st.integers(-5, 70000).map(str),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(st.tuples(KEYS, inner), max_size=3).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items) + "}"
        ),
    ),
    max_leaves=6,
)
TEXTS = st.one_of(
    VALUES,
    st.builds("{}: {}\n".format, KEYS, VALUES),
    st.builds("models:\n  a:\n    backend: sglang\n    {}: {}\n".format, KEYS, VALUES),
    st.builds("models:\n  a: {}\n  {}: {}\n".format, VALUES, KEYS, VALUES),
).map(lambda text: text.encode("utf-8", "surrogatepass"))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    content=st.one_of(TEXTS, st.binary(max_size=40)),
    name=st.sampled_from(["config", "models", "keys"]),
)
def test_no_content_gives_more_than_problems_with_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, name: str
) -> None:
    for other in ("config", "models", "keys"):
        (tmp_path / f"{other}.yml").write_text("models: {}\n" if other == "models" else "")
    (tmp_path / f"{name}.yml").write_bytes(content)
    code = main(["check", "--config", str(tmp_path / "config.yml")])
    out, err = capsys.readouterr()
    (out + err).encode()  # can be printed
    if code == 0:
        assert out.startswith("valid: ")
        return
    assert code == 1
    assert re.match(rf"{re.escape(str(tmp_path))}/\w+\.yml(:[1-9]\d*: |: does not exist)", err)
