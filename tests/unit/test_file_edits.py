"""Root edits files in directories of other users, who try to send it elsewhere."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from llm_router.engine_files import read_key
from llm_router.file_edits import (
    EngineFileError,
    FileEdit,
    WholeFile,
    YamlKeys,
    YamlValue,
    apply,
    copy,
    locked,
    read,
)

ALICE, BOB = 12345, 23456
ROLE = Path(__file__).parents[2] / "roles/llm_router"
EDITS = 2000

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")


def owned(path: Path, uid: int, mode: int = 0o755) -> Path:
    path.mkdir()
    path.chmod(mode)
    os.chown(path, uid, uid)
    return path


def edit(path: Path, text: str = "model:\n  model_name: b\n") -> FileEdit:
    return FileEdit(str(path), WholeFile(text))


@contextmanager
def swapping(folder: Path, target: Path) -> Iterator[None]:
    """As its owner: ``folder`` is by turns a directory and a link to ``target``."""
    script = (
        "import os, sys\n"
        "folder, target, away, link = sys.argv[2:]\n"
        "os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))\n"
        "print('ready', flush=True)\n"
        "def attempt(step, *names):\n"
        "    try: step(*names)\n"  # some file systems refuse a rename under a lookup
        "    except OSError: pass\n"
        "while True:\n"
        "    attempt(os.rename, folder, away); attempt(os.symlink, target, link)\n"
        "    attempt(os.rename, link, folder); attempt(os.rename, folder, link)\n"
        "    attempt(os.rename, away, folder); attempt(os.unlink, link)\n"
    )
    name = folder.name  # relative: pytest closes its directories to others at each start
    arguments = [str(ALICE), name, str(target), f"{name}.away", f"{name}.link"]
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", script, *arguments],
        stdout=subprocess.PIPE,
        cwd=folder.parent,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield
        assert process.poll() is None, "the swapping ended early"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory of Alice's, below directories that she may pass through."""
    for each in (tmp_path, *tmp_path.parents):
        if str(each).startswith("/tmp/pytest"):
            each.chmod(0o755)
    return owned(tmp_path / "home", ALICE)


@as_root
def test_a_race_between_directory_and_link_never_leaves_the_directory(
    home: Path, tmp_path: Path
) -> None:
    folder = owned(home / "tabby", ALICE)
    config = folder / "config.yml"
    config.write_text("model:\n  model_name: a\n")
    os.chown(config, ALICE, ALICE)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "config.yml").write_text("root's own\n")
    before = (outside / "config.yml").stat()
    written = refused = 0
    with swapping(folder, outside):
        for number in range(EDITS):
            try:
                text = WholeFile(f"model:\n  model_name: n{number}\n")
                apply([FileEdit(str(config), text, directory=False)])
                written += 1
            except EngineFileError:
                refused += 1
            assert [each.name for each in outside.iterdir()] == ["config.yml"]
            assert (outside / "config.yml").read_text() == "root's own\n"
    after = (outside / "config.yml").stat()
    assert (before.st_ino, before.st_uid, before.st_mode) == (
        after.st_ino,
        after.st_uid,
        after.st_mode,
    )
    assert written > 0
    assert refused > 0


@as_root
def test_a_users_link_among_the_directories_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (home / "tabby").symlink_to(tmp_path / "etc")
    os.lchown(home / "tabby", ALICE, ALICE)
    with pytest.raises(EngineFileError, match=r"tabby is a symbolic link that user 12345"):
        apply([edit(home / "tabby" / "config.yml")])
    assert list((tmp_path / "etc").iterdir()) == []


@as_root
def test_roots_own_link_in_a_users_directory_is_refused(home: Path, tmp_path: Path) -> None:
    """He can move it, though he did not make it."""
    (home / "tabby").symlink_to(tmp_path)
    with pytest.raises(EngineFileError, match="is a symbolic link"):
        apply([edit(home / "tabby" / "config.yml")])


def test_an_operators_link_among_the_directories_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "etc").symlink_to("real")
    apply([edit(tmp_path / "etc" / "config.yml", "x\n")])
    assert (tmp_path / "real" / "config.yml").read_text() == "x\n"


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(EngineFileError, match="Too many levels"):
        apply([edit(tmp_path / "a" / "config.yml")])


@as_root
def test_directories_of_two_users_are_refused(home: Path) -> None:
    owned(home / "tabby", BOB)
    with pytest.raises(EngineFileError, match="tabby belongs to user 23456 and a directory above"):
        apply([edit(home / "tabby" / "config.yml")])


@as_root
def test_a_file_of_another_user_than_its_directory_is_refused(home: Path) -> None:
    path = home / "config.yml"
    path.write_text("x\n")
    os.chown(path, BOB, BOB)
    with pytest.raises(EngineFileError, match=r"config\.yml belongs to user 23456 and lies in"):
        apply([edit(path)])


@as_root
def test_a_hard_link_to_roots_file_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("root's own\n")
    os.link(tmp_path / "secret", home / "config.yml")
    with pytest.raises(EngineFileError, match="hard link"):
        apply([edit(home / "config.yml")])


def test_a_directory_that_all_may_write_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(EngineFileError, match="open is open to all users for writing"):
        apply([edit(folder / "config.yml")])
    folder.chmod(0o1777)
    assert apply([edit(folder / "config.yml")])[0].changed


@pytest.mark.parametrize("what", ["edit", "key"])
def test_a_fifo_does_not_block(what: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    path = str(tmp_path / "fifo")
    attempts: dict[str, Callable[[], object]] = {
        "edit": lambda: apply([edit(Path(path))]),
        "key": lambda: read_key(path),
    }
    with pytest.raises(EngineFileError, match="is not a regular file"):
        attempts[what]()


@as_root
def test_a_users_file_keeps_owner_and_mode_and_a_new_one_is_his(home: Path) -> None:
    path = home / "config.yml"
    path.write_text("model:\n  model_name: a # mine\n")
    path.chmod(0o600)
    os.chown(path, ALICE, BOB)
    keys = YamlKeys((YamlValue(("model", "model_name"), "b"),))
    apply([FileEdit(str(path), keys), edit(home / "new.yml")])
    assert path.read_text() == "model:\n  model_name: b # mine\n"
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (ALICE, BOB, 0o600)
    assert (home / "new.yml").stat().st_uid == ALICE
    assert sorted(each.name for each in home.iterdir()) == ["config.yml", "new.yml"]


@as_root
def test_a_key_file_that_is_a_users_link_is_not_read(home: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("root-secret\n")
    (home / "key").symlink_to(tmp_path / "secret")
    os.lchown(home / "key", ALICE, ALICE)
    with pytest.raises(EngineFileError, match="key is a symbolic link") as caught:
        read_key(str(home / "key"))
    assert "root-secret" not in str(caught.value)


def test_a_key_file_that_is_the_operators_link_is_read(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("abc\n")
    (tmp_path / "key").symlink_to("real")
    assert read_key(str(tmp_path / "key")) == "abc"


@as_root
def test_a_backup_follows_no_link(home: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("root-secret\n")
    (home / "config.yml").symlink_to(tmp_path / "secret")
    with pytest.raises(EngineFileError, match="is a symbolic link"):
        copy(str(home / "config.yml"), "config.yml.1~")
    (home / "config.yml").unlink()
    (home / "config.yml").write_text("text\n")
    made = copy(str(home / "config.yml"), "config.yml.1~")
    assert made == str(home / "config.yml.1~")
    assert read(Path(made)) == "text\n"


def test_a_lock_that_another_program_holds_is_waited_for_no_longer_than_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_router.file_edits.LOCK_TIMEOUT", 0.1)
    with (
        locked(tmp_path),
        pytest.raises(EngineFileError, match="has been locked"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


@as_root
def test_no_link_of_another_user_gets_into_the_helpers_write_paths(
    home: Path, tmp_path: Path
) -> None:
    tasks = yaml.safe_load((ROLE / "tasks/preflight.yml").read_text())
    (script,) = [
        task["vars"]["__llm_router_links_of_others"]
        for task in tasks
        if "__llm_router_links_of_others" in task.get("vars", {})
    ]
    (home / "link").symlink_to("/etc")
    os.lchown(home / "link", ALICE, ALICE)
    (home / "of-root").symlink_to("/etc")
    (tmp_path / "operators").symlink_to(home)
    paths = [home / "link" / "x", home / "of-root", tmp_path / "operators" / "tabby", home / "new"]
    said = subprocess.run(
        ["/bin/sh", "-c", script, "sh", *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.splitlines() == [str(home / "link"), str(home / "of-root")]
