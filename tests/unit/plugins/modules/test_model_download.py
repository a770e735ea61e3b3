"""model_download with the real huggingface_hub against a hub on loopback (tests.hub.hub.py)."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.roundhouse.llm.plugins.module_utils import model_files
from ansible_collections.roundhouse.llm.plugins.modules import model_download

from tests.hub.hub import Hub, Repository

WEIGHTS = os.urandom(3_000_000)
OTHER = os.urandom(1_500_000)
FILES = {
    "config.json": b'{"architectures": ["Tiny"]}',
    "same.json": b'{"architectures": ["Tiny"]}',
    "model-00001-of-00002.safetensors": WEIGHTS,
    "model-00002-of-00002.safetensors": OTHER,
    "sub/notes.txt": b"notes",
}
SIZE = sum(map(len, FILES.values()))
REPO = "org/awq"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        repository = running.repositories[REPO] = Repository()
        repository.commit(FILES)
        yield running


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the module; what it said. The temporary directory is for everybody, as a host's is."""
    for path in [tmp_path, *tmp_path.parents]:
        if path.is_relative_to(tempfile.gettempdir()) and path != Path(tempfile.gettempdir()):
            path.chmod(0o755)

    def call(*, check: bool = False, entry: dict[str, Any] | None = None, **given: Any) -> Any:
        models = given.pop("models", {"awq": entry or {"repo": REPO}})
        arguments = {
            "models": models,
            "models_dir": str(tmp_path / "models"),
            "endpoint": hub.url,
            "keep_free": 0,
            "interval": 60,
            "_ansible_check_mode": check,
            **given,
        }
        capsys.readouterr()
        with patch_module_args(arguments), pytest.raises(SystemExit):
            model_download.main()
        said = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        assert isinstance(said, dict)
        if said.get("failed"):
            assert "Traceback" not in json.dumps(said)
            assert said["msg"].count("\n") == 0
        return said

    return call


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "models" / REPO


def contents(place: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in place.rglob("*")
        if path.is_file() and path.name != model_files.RECORD
    }


def in_place(place: Path) -> dict[str, bytes]:
    """What an engine would find."""
    return {name: data for name, data in contents(place).items() if ".partial/" not in name}


def test_a_repository_is_downloaded_once(run: Run, hub: Hub, place: Path) -> None:
    first = run()
    assert (first["changed"], first["finished"], first["missing_bytes"]) == (True, True, 0)
    assert first["models"]["awq"]["bytes"] == first["total_bytes"] == SIZE
    assert first["models"]["awq"]["directory"] == str(place)
    assert contents(place) == FILES
    hub.asked.clear()
    second = run()
    assert (second["changed"], second["finished"], hub.asked) == (False, True, [])
    assert second["models"]["awq"]["commit"] == first["models"]["awq"]["commit"]


def test_engines_may_read_it_and_write_nothing(run: Run, place: Path) -> None:
    old = os.umask(0o077)
    try:
        run()
    finally:
        os.umask(old)
    for path in [place.parent, place, *place.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path


def test_nothing_is_changed_in_check_mode(run: Run, tmp_path: Path) -> None:
    said = run(check=True)
    assert (said["changed"], said["finished"], said["missing_bytes"]) == (True, False, SIZE)
    assert not (tmp_path / "models").exists()
    run()
    assert not run(check=True)["changed"]


def test_only_the_files_that_are_named(run: Run, place: Path) -> None:
    run(entry={"repo": REPO, "files": ["config.json", "sub/*"]})
    assert set(contents(place)) == {"config.json", "sub/notes.txt"}
    more = run(entry={"repo": REPO, "files": ["config.json", "model-00002*"]})
    assert more["total_bytes"] == len(OTHER) + len(FILES["config.json"])
    assert set(contents(place)) == {
        "config.json",
        "sub/notes.txt",
        "model-00002-of-00002.safetensors",
    }
    assert (
        "has no file nothing.gguf (for awq)"
        in run(entry={"repo": REPO, "files": ["nothing.gguf"]})["msg"]
    )


def test_two_models_share_what_both_want(run: Run, hub: Hub, place: Path) -> None:
    said = run(
        models={
            "all": {"repo": REPO},
            "part": {"repo": REPO, "revision": "main", "files": ["*.json"]},
        }
    )
    assert (said["total_bytes"], hub.sent) == (SIZE, SIZE)
    assert said["models"]["part"]["files"] == ["config.json", "same.json"]
    assert contents(place) == FILES


def test_a_connection_that_is_cut_is_taken_up_again(run: Run, hub: Hub, place: Path) -> None:
    hub.faults.cut_after, hub.faults.cuts = 1_100_000, 2
    assert run(parallel=1)["finished"]
    assert contents(place) == FILES
    assert [line for line in hub.asked if line.endswith(" bytes=1048576-")]


def test_an_interrupted_run_goes_on_where_it_was(run: Run, hub: Hub, place: Path) -> None:
    hub.faults.slow = 0.05
    first = run(interval=1, parallel=1)
    assert (first["changed"], first["finished"]) == (True, False)
    assert 0 < first["missing_bytes"] < SIZE
    assert (
        set(contents(place)) - {name for name in contents(place) if name.startswith(".partial/")}
        == set()
    )  # no name before all are whole
    hub.faults.slow, before = 0.0, hub.sent
    hub.asked.clear()
    second = run()
    assert second["finished"]
    assert contents(place) == FILES
    assert not [line for line in hub.asked if "/api/" in line]
    # what was not written yet when it paused is sent again: a piece, and what was on its way
    assert hub.sent - before < first["missing_bytes"] + 3_000_000
    assert [line for line in hub.asked if " bytes=" in line]


def test_a_hub_without_ranges_sends_all_again(run: Run, hub: Hub, place: Path) -> None:
    hub.faults.slow = 0.05
    assert not run(interval=1, parallel=1)["finished"]
    hub.faults.slow, hub.faults.no_ranges = 0.0, True
    assert run()["finished"]
    assert contents(place) == FILES


def test_what_arrives_damaged_is_refused(run: Run, hub: Hub, place: Path) -> None:
    hub.faults.corrupt = True
    said = run()
    assert said["failed"]
    assert "has the checksum sha256:" in said["msg"]
    assert in_place(place) == {}
    hub.faults.corrupt = False
    assert run()["finished"]
    assert contents(place) == FILES


def test_a_damaged_part_of_an_earlier_run_is_fetched_anew(run: Run, hub: Hub, place: Path) -> None:
    hub.faults.corrupt, hub.faults.slow = True, 0.1
    assert not run(interval=1, parallel=1)["finished"]
    hub.faults.corrupt, hub.faults.slow = False, 0.0
    assert run()["finished"]
    assert contents(place) == FILES


def test_a_file_that_went_bad_is_found_and_mended(run: Run, hub: Hub, place: Path) -> None:
    run()
    name = "model-00002-of-00002.safetensors"
    (place / name).write_bytes(bytes(len(OTHER)))
    said = run()
    assert not said["changed"], said
    hub.sent = 0
    assert run(verify=True, check=True)["missing_bytes"] == len(OTHER)
    said = run(verify=True)
    assert (said["changed"], said["finished"], hub.sent) == (True, True, len(OTHER))
    assert contents(place) == FILES
    assert not run(verify=True)["changed"]


def test_a_file_that_is_gone_comes_back(run: Run, hub: Hub, place: Path) -> None:
    run()
    (place / "config.json").unlink()
    hub.sent = 0
    assert run()["changed"]
    assert (contents(place), hub.sent) == (FILES, len(FILES["config.json"]))


def test_what_somebody_put_there_is_not_downloaded(run: Run, hub: Hub, place: Path) -> None:
    for name, data in FILES.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    said = run()
    assert (said["changed"], said["finished"], hub.sent) == (True, True, 0)
    assert not run()["changed"]


NEW = {**FILES, "model-00001-of-00002.safetensors": OTHER, "new.json": b"new"}
del NEW["sub/notes.txt"]


def test_a_branch_that_moves_is_followed_when_asked(run: Run, hub: Hub, place: Path) -> None:
    old = run()["models"]["awq"]["commit"]
    new = hub.repositories[REPO].commit(NEW)
    assert not run()["changed"]
    hub.sent = 0
    said = run(update=True)
    assert (said["models"]["awq"]["commit"], said["changed"]) == (new, True)
    assert new != old
    assert contents(place) == NEW  # what the commit has no more is gone
    assert hub.sent == len(OTHER) + len(b"new")
    assert not run(update=True)["changed"]


def test_a_pinned_commit_is_what_is_there(run: Run, hub: Hub, place: Path) -> None:
    old = hub.repositories[REPO].names["main"]
    new = hub.repositories[REPO].commit(NEW)
    run(entry={"repo": REPO, "revision": old})
    assert contents(place) == FILES
    hub.faults.slow = 0.1
    assert not run(entry={"repo": REPO, "revision": new}, interval=1)["finished"]
    assert in_place(place) == FILES  # whole, until the other is whole
    hub.faults.slow = 0.0
    assert run(entry={"repo": REPO, "revision": new})["finished"]
    assert contents(place) == NEW
    hub.asked.clear()
    assert not run(entry={"repo": REPO})["changed"]  # and unpinned, it stays
    assert not hub.asked


def test_a_branch_has_a_place_of_its_own(run: Run, hub: Hub, place: Path) -> None:
    hub.repositories[REPO].commit({"small.bin": b"4"}, "4.0bpw")
    said = run(entry={"repo": REPO, "revision": "4.0bpw"})
    assert said["models"]["awq"]["directory"] == f"{place}@4.0bpw"


def test_offline_asks_nobody(run: Run, hub: Hub, place: Path) -> None:
    said = run(offline=True)
    assert said["failed"]
    assert f"{place} has not got org/awq for awq" in said["msg"]
    run(entry={"repo": REPO, "files": ["config.json"]})
    hub.asked.clear()
    assert run(entry={"repo": REPO, "files": ["config.json"]}, offline=True)["finished"]
    assert "has not got all of org/awq for awq, and nothing" in run(offline=True)["msg"]
    assert not hub.asked


def test_no_room_is_said_before_the_first_byte(run: Run, hub: Hub, place: Path) -> None:
    said = run(keep_free=1 << 60)
    assert said["failed"]
    assert said["msg"].startswith("awq need 4.5 MB more, and ")
    assert " free, of which 1152921.5 TB are to stay free (models_keep_free)" in said["msg"]
    assert (hub.sent, place.exists()) == (0, False)


def test_a_file_that_is_too_large_for_http_is_refused(
    run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "MAX_HTTP_DOWNLOAD_SIZE", 2_000_000)
    said = run()
    assert "has model-00001-of-00002.safetensors in one piece of 3.0 MB" in said["msg"]
    assert hub.sent == 0


TOKEN = "hf_0123456789secret"


def test_a_token_opens_what_is_closed_and_goes_nowhere_else(
    run: Run, hub: Hub, place: Path
) -> None:
    repository = hub.repositories[REPO]
    repository.token, repository.gated = TOKEN, True
    assert "org/awq is gated, and not for whoever has no token: accept its terms" in run()["msg"]
    wrong = run(token="hf_wrong-and-secret")
    assert "not for the token's account" in wrong["msg"]
    assert "hf_wrong" not in json.dumps({**wrong, "invocation": None})
    assert run(token=TOKEN)["finished"]
    assert contents(place) == FILES
    assert hub.cdn_tokens == []
    assert TOKEN not in (place / model_files.RECORD).read_text()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"repo": "org/none"}, "has no repository org/none, or it is private and wants a token"),
        ({"repo": REPO, "revision": "v9"}, "org/awq on http://127.0.0.1"),
        ({"revision": "v9"}, "awq names no repo."),
    ],
)
def test_what_is_not_there_is_said(run: Run, entry: dict[str, Any], said: str) -> None:
    answer = run(entry=entry)
    assert answer["failed"]
    assert said in answer["msg"]


def test_a_hub_that_is_ill_is_said(run: Run, hub: Hub) -> None:
    hub.faults.status = 500
    assert f"{hub.url} answers status 500 for org/awq" in run()["msg"]


def test_a_hub_that_is_away_is_said(run: Run) -> None:
    said = run(endpoint="http://127.0.0.1:1")
    assert "http://127.0.0.1:1 cannot be reached for org/awq (ConnectError" in said["msg"]


def test_names_that_lead_elsewhere_are_refused(run: Run, hub: Hub, tmp_path: Path) -> None:
    hub.repositories[REPO].commit({"../../evil": b"x"})
    assert "has the file name ../../evil" in run()["msg"]
    assert not (tmp_path / "evil").exists()


def test_a_record_that_is_none_is_said(run: Run, place: Path) -> None:
    run()
    (place / model_files.RECORD).write_text("{")
    assert f"{place}/.downloaded.json is not a record of a download" in run()["msg"]
    (place / model_files.RECORD).unlink()
    assert run()["finished"]


def test_a_directory_that_engines_may_not_enter_is_said(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # where Ansible's own controller side was imported before, warnings go to its display
    warned: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _, text: warned.append(text))
    (tmp_path / "models").mkdir(mode=0o700)
    run()
    closed = f"{tmp_path}/models is closed to engines' users: they cannot read the models in it"
    assert warned == [closed]


HOSTILE = [
    "../../evil",
    "/evil",
    "sub/../../../evil",
    "sub//evil",
    "./evil",
    ".downloaded.json",
    ".Downloaded.JSON",
    ".downloaded.json.new",
    ".partial/listing.json",
    ".PARTIAL/x",
    ".partial",
    "sub/\nevil",
    "a\x1b[2Jevil",
    "sub\\..\\evil",
    "x" * 250,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_of_a_hostile_hub_writes_and_deletes_nothing(
    name: str, run: Run, hub: Hub, tmp_path: Path
) -> None:
    hub.repositories[REPO].commit({name: b"{}", "config.json": b"{}"})
    said = run()
    assert said.get("failed"), said
    assert "has the file name" in said["msg"]
    assert not list((tmp_path / "models").rglob("*"))


@pytest.mark.parametrize("name", [*HOSTILE[:8], "../../../victim"])
def test_a_record_with_a_hostile_name_deletes_nothing(
    name: str, run: Run, place: Path, tmp_path: Path
) -> None:
    run()
    victim = tmp_path / "victim"
    victim.write_text("root's own")
    record = json.loads((place / model_files.RECORD).read_text())
    record["commit"] = "0" * 40
    record["listing"][name] = [1, "sha256:" + "0" * 64]
    record["there"].append(name)
    (place / model_files.RECORD).write_text(json.dumps(record))
    said = run(update=True)
    assert said.get("failed"), said
    assert "is not a record of a download" in said["msg"]
    assert victim.read_text() == "root's own"


def test_a_checksum_that_is_a_path_is_refused(run: Run, place: Path) -> None:
    run()
    record = json.loads((place / model_files.RECORD).read_text())
    record["listing"]["config.json"][1] = "sha256:/../../../../x"
    (place / model_files.RECORD).write_text(json.dumps(record))
    assert "has the checksum" in run()["msg"]


@pytest.mark.parametrize("link", ["sub", ".partial", "config.json"])
def test_a_link_in_the_directory_leads_nowhere(
    link: str, run: Run, place: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    place.mkdir(parents=True)
    (place / link).symlink_to(outside / "new" if link == "config.json" else outside)
    said = run()
    assert list(outside.iterdir()) == []
    if link == "config.json":
        assert (place / link).read_bytes() == FILES[link]
        assert not (place / link).is_symlink()
    else:
        assert "is a link or a file where a directory is needed" in said["msg"]


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def library() -> None:
    """The library is imported beforehand: this checkout may be closed to other users."""
    pytest.importorskip("huggingface_hub.file_download")
    pytest.importorskip("httpx2")


@as_root
@pytest.mark.usefixtures("library")
def test_the_download_runs_as_an_account_of_its_own(run: Run, hub: Hub, place: Path) -> None:
    said = run(user="nobody")
    assert said["finished"], said
    assert in_place(place) == FILES
    owners = {each.stat().st_uid for each in [place, *place.rglob("*")]}
    assert owners == {65534}
    assert run(user="nobody")["changed"] is False


@as_root
@pytest.mark.usefixtures("library")
def test_a_store_that_root_has_filled_goes_on(run: Run, hub: Hub, place: Path) -> None:
    run()
    assert run(user="nobody")["changed"] is False
    kept = (place / "model-00002-of-00002.safetensors").stat()
    assert kept.st_uid == 0
    hub.repositories[REPO].commit({**FILES, "config.json": b"new", "sub/notes.txt": b"new"})
    said = run(user="nobody", update=True)
    assert said["finished"], said
    assert (place / "sub/notes.txt").read_bytes() == b"new"
    assert (place / "model-00002-of-00002.safetensors").stat().st_ino == kept.st_ino


@as_root
def test_an_account_that_is_missing_is_said(run: Run) -> None:
    assert run(user="no-such-account")["msg"].startswith("There is no user no-such-account")


def test_no_value_of_a_variable_is_shown(
    hub: Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logged: list[Any] = []
    monkeypatch.setattr(
        AnsibleModule, "log", lambda _self, *words, **more: logged.append((words, more))
    )
    entry = {"repo": REPO, "environment": {"DB": "very-secret"}}
    given: dict[str, Any] = {
        "models": {"a": entry},
        "models_dir": str(tmp_path),
        "endpoint": hub.url,
    }
    given |= {"_ansible_check_mode": True, "_ansible_inject_invocation": True}
    with patch_module_args(given), pytest.raises(SystemExit):
        model_download.main()
    said = capsys.readouterr().out
    assert json.loads(said)["invocation"]["module_args"]["models"]["a"]["repo"] == REPO
    assert "very-secret" not in said + repr(logged)
