"""The config writer: what it wants on disk, how it quotes, what it leaves alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from llm_router.engine_files import (
    DROP_IN,
    EngineDirs,
    EngineSpec,
    desired_files,
    join_arguments,
)
from llm_router.file_edits import (
    EngineFileError,
    EnvironmentKey,
    FileEdit,
    NoFile,
    WholeFile,
    apply,
    environment_line,
    render,
)

GEMMA = EngineSpec(
    name="gemma",
    backend="llamacpp",
    unit="llamacpp@gemma.service",
    model_path="/srv/models/gemma.gguf",
    port=8081,
    args=("--ctx-size", "4096"),
)


def systemd_environment(text: str) -> dict[str, str]:
    """A second, independent reading of systemd's EnvironmentFile rules (man systemd.exec)."""
    result: dict[str, str] = {}
    i = 0
    while i < len(text):
        if text[i] in " \t\n\r":
            i += 1
            continue
        if text[i] in "#;":
            while i < len(text) and text[i] not in "\n\r":
                i += 1
            continue
        key = ""
        while i < len(text) and text[i] not in "=\n\r":
            key += text[i]
            i += 1
        if i >= len(text) or text[i] != "=":
            continue
        i += 1
        value, pending, state = "", "", "begin"
        while i < len(text) and not (text[i] in "\n\r" and state in ("begin", "plain")):
            char = text[i]
            i += 1
            if state == "begin" and char in "'\"":
                state = char
            elif state == "'":
                state, value = ("begin", value) if char == "'" else (state, value + char)
            elif state == '"':
                if char == '"':
                    state = "begin"
                elif char == "\\" and i < len(text):
                    escaped = text[i]
                    i += 1
                    if escaped in '"\\`$':
                        value += escaped
                    elif escaped != "\n":
                        value += "\\" + escaped
                else:
                    value += char
            elif char == "\\" and i < len(text):
                value, pending, state = value + pending, "", "plain"
                if text[i] not in "\n\r":
                    value += text[i]
                i += 1
            elif char in " \t":
                if state == "plain":
                    pending += char
            else:
                value, pending, state = value + pending + char, "", "plain"
        result[key.strip()] = value
    return result


def systemd_split(value: str) -> list[str]:
    """How systemd splits ``$VARIABLE`` (extract_first_word with UNQUOTE and RELAX)."""
    words: list[str] = []
    word: str | None = None
    quote = ""
    chars = iter(value)
    for char in chars:
        if char == "\\":
            word = (word or "") + next(chars, "")
        elif quote:
            if char == quote:
                quote = ""
            else:
                word = (word or "") + char
        elif char in "'\"":
            quote, word = char, word or ""
        elif char in " \t\n\r":
            if word is not None:
                words.append(word)
            word = None
        else:
            word = (word or "") + char
    return [*words, word] if word is not None else words


AWKWARD = [
    "",
    " ",
    "a b",
    "\ttab",
    "it's",
    'say "hi"',
    "back\\slash",
    "trailing\\",
    "$HOME",
    "${HOME}",
    "%i %% %h",
    "# no comment",
    "; either",
    "`id`",
    "ünï ⚡",
    '{"a": [1, "b\'c"]}',
    "\\n",
    "\\\\'\"$`",
    "*?[x]",
    "~",
]

arguments = st.lists(
    st.one_of(
        st.sampled_from(AWKWARD),
        st.text(
            st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])
            | st.sampled_from("\t '\"\\$`#")
        ),
    )
)


@given(arguments)
def test_every_argument_list_comes_back_as_it_was(argv: list[str]) -> None:
    text = "# a comment\n" + environment_line("ARGS", join_arguments(argv)) + "\nOTHER=1\n"
    environment = systemd_environment(text)
    assert systemd_split(environment["ARGS"]) == argv
    assert environment["OTHER"] == "1"


@given(arguments, st.text(st.sampled_from("\"'\\ \t\n\rA=#;$`x"), max_size=30))
def test_an_edit_sets_the_variable_and_keeps_the_others(argv: list[str], before: str) -> None:
    value = join_arguments(argv)
    edit = FileEdit("/x.env", EnvironmentKey("ARGS", value, "# ours\n"))
    text = f"{before}\nARGS=old \\\n  line\nAFTER='kept # \n whole'\n"
    try:
        once = render(edit, text)
    except EngineFileError:
        reject()  # `before` left a quote open, or has a comment that ends with a backslash
    assert once is not None
    assert render(edit, once) == once
    found, wanted = systemd_environment(once), systemd_environment(text)
    assert found["ARGS"] == value
    assert {**found, "ARGS": ""} == {**wanted, "ARGS": ""}


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "nul\0", "\x7f", "\x1b[0m", "\ud800"])
def test_what_a_variable_cannot_carry_is_refused(bad: str) -> None:
    spec = EngineSpec("m", "llamacpp", "llamacpp@m.service", "/m.gguf", args=("--alias", bad))
    with pytest.raises(EngineFileError, match=r"^model m: argument .* has the control character"):
        desired_files(spec, EngineDirs())


def test_llamacpp_instance_gets_its_arguments_file() -> None:
    env, drop_in = desired_files(GEMMA, EngineDirs())
    assert env.path == "/etc/llamacpp/gemma.env"
    assert not env.daemon_reload
    text = render(env, None)
    assert text is not None
    assert text.splitlines()[-1] == (
        'LLAMACPP_ARGS="--model /srv/models/gemma.gguf --alias gemma --host 127.0.0.1'
        ' --port 8081 --metrics --ctx-size 4096"'
    )
    assert drop_in == FileEdit(
        f"/etc/systemd/system/llamacpp@gemma.service.d/{DROP_IN}", NoFile(), daemon_reload=True
    )


def test_the_engines_own_name_is_the_alias() -> None:
    spec = EngineSpec("m", "llamacpp", "llamacpp@m.service", "/m.gguf", model_name="other name")
    env = desired_files(spec, EngineDirs())[0]
    assert "--alias 'other name' --host" in (render(env, None) or "")


def test_a_script_becomes_the_only_execstart() -> None:
    spec = EngineSpec("big", "sglang", "sglang.service", script="/opt/llm/big.sh --fast")
    (edit,) = desired_files(spec, EngineDirs(units="/units"))
    assert edit.path == f"/units/sglang.service.d/{DROP_IN}"
    assert edit.daemon_reload
    assert isinstance(edit.content, WholeFile)
    assert edit.content.text.splitlines()[1:] == [
        "[Service]",
        "ExecStart=",
        "ExecStart=/opt/llm/big.sh --fast",
    ]


def test_an_adopted_llamacpp_instance_with_a_script_needs_no_arguments_file() -> None:
    spec = EngineSpec("g", "llamacpp", "llamacpp@g.service", script="/opt/g.sh")
    assert [Path(edit.path).name for edit in desired_files(spec, EngineDirs())] == [DROP_IN]


def test_a_child_process_needs_no_file() -> None:
    assert desired_files(EngineSpec("g", "llamacpp", "child:g", "/g.gguf"), EngineDirs()) == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (EngineSpec("m", "vllm", "../x.service"), "is not the name of a systemd service"),
        (EngineSpec("m", "vllm", "a/b.service"), "is not the name of a systemd service"),
        (EngineSpec("m", "vllm", "a\n.service"), "is not the name of a systemd service"),
        (EngineSpec("m", "llamacpp", "llamacpp@m.service"), "model_path is missing"),
        (EngineSpec("m", "llamacpp", "llamacpp@a\\x2fb.service", "/m"), "has a backslash"),
        (EngineSpec("m", "vllm", "v.service", script="x.sh"), "does not begin with /"),
        (EngineSpec("m", "vllm", "v.service", script="/x\n[Service]"), "stay one line"),
        (EngineSpec("m", "vllm", "v.service", script="/x \\"), "stay one line"),
    ],
)
def test_what_cannot_be_written_down_is_refused(spec: EngineSpec, message: str) -> None:
    with pytest.raises(EngineFileError, match=message):
        desired_files(spec, EngineDirs())


def test_apply_writes_once_and_says_what_changed(tmp_path: Path) -> None:
    edits = desired_files(GEMMA, EngineDirs(str(tmp_path / "llamacpp"), str(tmp_path)))
    env, drop_in = apply(edits)
    assert (env.changed, drop_in.changed) == (True, False)
    assert env.diff.startswith(f"--- /dev/null\n+++ {env.path}\n@@")
    assert "+LLAMACPP_ARGS=" in env.diff
    path = Path(env.path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert [result.changed for result in apply(edits)] == [False, False]
    assert [entry.name for entry in path.parent.iterdir()] == ["gemma.env"]


def test_check_says_the_same_and_writes_nothing(tmp_path: Path) -> None:
    edits = desired_files(GEMMA, EngineDirs(str(tmp_path / "llamacpp"), str(tmp_path)))
    foretold = apply(edits, check=True)
    assert list(tmp_path.iterdir()) == []
    assert apply(edits) == foretold


def test_a_drop_in_of_another_model_is_taken_away(tmp_path: Path) -> None:
    dirs = EngineDirs(units=str(tmp_path))
    scripted = EngineSpec("a", "sglang", "sglang.service", script="/a.sh")
    plain = EngineSpec("b", "sglang", "sglang.service")
    assert [(r.changed, r.daemon_reload) for r in apply(desired_files(scripted, dirs))] == [
        (True, True)
    ]
    (result,) = apply(desired_files(plain, dirs))
    assert (result.changed, result.daemon_reload) == (True, True)
    assert "-ExecStart=/a.sh" in result.diff
    assert not Path(result.path).exists()
    (result,) = apply(desired_files(plain, dirs))
    assert (result.changed, result.daemon_reload) == (False, False)


def test_the_operators_variables_comments_and_line_ends_stay(tmp_path: Path) -> None:
    directory = tmp_path / "llamacpp"
    directory.mkdir()
    path = directory / "gemma.env"
    path.write_bytes(
        b"# my own\r\nGGML_CUDA_FORCE_MMQ=1\r\n  LLAMACPP_ARGS='old\r\nstill'\r\n; mine\r\n"
        b'X="a"\r\n'
        b"LLAMACPP_ARGS=second\r\nY=2"
    )
    path.chmod(0o640)
    apply(desired_files(GEMMA, EngineDirs(str(directory), str(tmp_path))))
    lines = path.read_bytes().split(b"\r\n")
    assert [line for line in lines if b"LLAMACPP_ARGS" not in line] == [
        b"# my own",
        b"GGML_CUDA_FORCE_MMQ=1",
        b"; mine",
        b'X="a"',
        b"Y=2",
    ]
    assert lines[2].lstrip().startswith(b'LLAMACPP_ARGS="--model')
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_an_existing_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "gemma.env"
    path.write_text("X=1\n")
    os.chown(path, 12345, 23456)
    apply(desired_files(GEMMA, EngineDirs(str(tmp_path), str(tmp_path))))
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"A=1\nB='never\nclosed\n", r"gemma\.env:2: a quote is opened here and never closed"),
        (b"A=1\n\n# comment \\\nB=2\n", r"gemma\.env:3: a comment ends with a backslash"),
        (b"A=1\nB=\xff\n", r"gemma\.env:2: is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_parsed_is_left_alone(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "gemma.env"
    path.write_bytes(content)
    with pytest.raises(EngineFileError, match=message):
        apply(desired_files(GEMMA, EngineDirs(str(tmp_path), str(tmp_path))))
    assert path.read_bytes() == content


def test_nothing_is_written_when_one_file_is_refused(tmp_path: Path) -> None:
    first = FileEdit(str(tmp_path / "first"), WholeFile("1\n"))
    (tmp_path / "second").mkdir()
    second = FileEdit(str(tmp_path / "second"), WholeFile("2\n"))
    with pytest.raises(EngineFileError, match="is not a regular file"):
        apply([first, second])
    assert not (tmp_path / "first").exists()


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("X=1\n")
    (tmp_path / "gemma.env").symlink_to(target)
    with pytest.raises(EngineFileError, match="is a symbolic link"):
        apply(desired_files(GEMMA, EngineDirs(str(tmp_path), str(tmp_path))))
    assert target.read_text() == "X=1\n"


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_text("old\n")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EngineFileError, match="cannot be written: No space left on device"):
        apply([FileEdit(str(path), WholeFile("new\n"))])
    assert path.read_text() == "old\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_a_directory_that_is_two_levels_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineFileError, match="f cannot be written: No such file or directory"):
        apply([FileEdit(str(tmp_path / "a" / "b" / "f"), WholeFile("x\n"))])
