#!/usr/bin/python
# Copyright: Roundhouse contributors
# MIT (see LICENSE)

from __future__ import annotations

DOCUMENTATION = r"""
module: model_download
short_description: Downloads models from a hub, and only what is missing
version_added: 0.2.0
author: [Roundhouse contributors (@roundhouse-llm)]
description:
  - Brings the files of repositories to the host, with C(huggingface_hub). Each repository has a
    directory below O(models_dir), C(ORG/NAME), and one more for each branch or tag that is asked
    for, C(ORG/NAME@BRANCH).
  - Every file is checked against the checksum that the hub has of it, and comes to its place when
    all that are wanted are whole. An interrupted download goes on where it was.
  - What is there, and checked, is neither asked for nor read again. A second run needs no network.
  - The task shows how far it is, every O(interval) seconds.
options:
  models:
    description:
      - What to download, by the names of the models. Each has a C(repo), and may have a C(revision)
        (a branch, a tag or a commit) and C(files) (names or patterns; without it, all).
    type: dict
    required: true
  models_dir:
    description: Where to.
    type: path
    default: /srv/models
  endpoint:
    description: Address of the hub or of a mirror that speaks as it does.
    type: str
    default: https://huggingface.co
  token:
    description: Token of the hub, for private and gated repositories.
    type: str
  offline:
    description: Whether to ask nobody, and fail if something is missing.
    type: bool
    default: false
  update:
    description:
      - Whether to ask the hub where branches and tags point to now. Otherwise the commit that is
        there stays.
    type: bool
    default: false
  verify:
    description: Whether to read all files again, and to mend what is not as the hub has it.
    type: bool
    default: false
  keep_free:
    description: Bytes that have to be left on the disk when everything is downloaded.
    type: int
    default: 1073741824
  parallel:
    description: How many files are fetched side by side.
    type: int
    default: 4
  interval:
    description:
      - Seconds of downloading after which the module returns, with RV(finished=false), if it is
        not done.
      - In a task it is then called again until it is done, and a line each time says how far it is.
    type: int
    default: 15
  user:
    description:
      - Account that downloads and owns what it writes; everybody may read it. Without it, the
        account of the task.
      - What root has of a directory below O(models_dir) is given to this account first. Model files
        that are there stay as they are.
      - In check mode an account that does not exist yet is replaced by C(nobody).
    type: str
    version_added: 0.3.0
attributes:
  check_mode:
    description: Says what would be downloaded.
    support: full
  diff_mode:
    description: Not supported, since there is no text to compare.
    support: none
notes:
  - One run at a time works below O(models_dir); a second one waits for a minute.
  - A file of more than 50 GB is refused, as the hub does not give it out over HTTP.
requirements:
  - Python 3.10 or newer on the host
  - huggingface_hub 2 (the role C(roundhouse.llm.models) makes an environment with it)
"""

EXAMPLES = r"""
- name: Have two models, one of them with nothing but its 4 bit file
  roundhouse.llm.model_download:
    models:
      qwen3-32b:
        repo: Qwen/Qwen3-32B-AWQ
      gemma-3-27b:
        repo: ggml-org/gemma-3-27b-it-GGUF
        revision: 0123456789abcdef0123456789abcdef01234567
        files: [gemma-3-27b-it-Q4_K_M.gguf]
    token: '{{ vault_hub_token }}'
  vars:
    ansible_python_interpreter: /opt/huggingface-hub/current/bin/python

- name: See that nothing on the disk has gone bad
  roundhouse.llm.model_download:
    models: '{{ models_wanted }}'
    verify: true
  vars:
    ansible_python_interpreter: /opt/huggingface-hub/current/bin/python
"""

RETURN = r"""
models:
  description: Of each model, where it is and what of it.
  type: dict
  returned: success
  sample:
    gemma-3-27b:
      directory: /srv/models/ggml-org/gemma-3-27b-it-GGUF
      commit: 0123456789abcdef0123456789abcdef01234567
      files: [gemma-3-27b-it-Q4_K_M.gguf]
      bytes: 16546404992
      missing_bytes: 0
finished:
  description: Whether everything is there.
  type: bool
  returned: success
total_bytes:
  description: Bytes of the models of which something was missing.
  type: int
  returned: success
missing_bytes:
  description: Bytes that are still, or in check mode would be, downloaded.
  type: int
  returned: success
"""

import fcntl
import json
import os
import pwd
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Optional, cast

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.roundhouse.llm.plugins.module_utils.model_files import (
    MODELS_DIR,
    directory,
    is_commit,
    unmatched,
    wanted,
)
from ansible_collections.roundhouse.llm.plugins.module_utils.model_hub import (
    ENVIRONMENT,
    DownloadError,
    Hub,
)
from ansible_collections.roundhouse.llm.plugins.module_utils.model_store import (
    Snapshot,
    Store,
    StoreError,
    free_bytes,
    give,
    make_directory,
    nearest,
)

LOCK_TIMEOUT = 60.0


class Paused(Exception):
    """The time is up, or another file has failed."""


@dataclass(frozen=True)
class Wish:
    """A model, and what of which repository it wants."""

    name: str
    repo: str
    revision: Optional[str]
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What is to be done in one directory."""

    store: Store
    snapshot: Snapshot
    """The commit that is wanted."""
    files: dict[str, list[str]]
    """Of each model, what it wants."""
    missing: list[str]
    record: Optional[Snapshot]
    """What the directory's record says; None where there is none."""
    sure: Snapshot
    """What it should say before anything is downloaded."""

    @property
    def changed(self) -> bool:
        new_commit = self.snapshot.commit != self.sure.commit
        return bool(self.missing) or new_commit or self.sure != self.record

    def total_bytes(self) -> int:
        """Of all files, if one of them is missing."""
        names = {name for files in self.files.values() for name in files}
        return sum(self.snapshot.listing[n].size for n in names) if self.missing else 0

    def missing_bytes(self, names: Optional[list[str]] = None) -> int:
        files = [(n, self.snapshot.listing[n]) for n in self.missing if not names or n in names]
        return sum(file.size - self.store.fetched(name, file) for name, file in files)


def wishes_by_directory(models: dict[str, Any], models_dir: str) -> dict[str, list[Wish]]:
    """What goes where. Raises `DownloadError` for entries that say nothing or too much."""
    found: dict[str, list[Wish]] = {}
    for name, entry in models.items():
        if not isinstance(entry, dict) or not entry.get("repo"):
            raise DownloadError(f"{name} names no repo")
        wish = Wish(name, entry["repo"], entry.get("revision"), tuple(entry.get("files") or ()))
        where = directory(models_dir, wish.repo, wish.revision)
        others = found.setdefault(where, [])
        for other in others:
            pins = {other.revision, wish.revision}
            if len(pins) > 1 and any(is_commit(pin) for pin in pins):
                raise DownloadError(f"{other.name} and {name} want two revisions in {where}")
        others.append(wish)
    return found


def plan(hub: Hub, params: dict[str, Any], where: str, wishes: list[Wish]) -> Plan:
    """What is to be done in a directory. Changes nothing.

    Raises `DownloadError`, `StoreError`, `OSError`, and ImportError where there is no library.
    """
    store = Store(where)
    record = store.record()
    snapshot = _choose(hub, params, store, wishes[0])
    files = {}
    for wish in wishes:
        for absent in unmatched(snapshot.listing, wish.patterns):
            raise DownloadError(
                f"{wish.repo} at {snapshot.commit[:12]} has no file {absent} (for {wish.name})"
            )
        files[wish.name] = wanted(snapshot.listing, wish.patterns)
    missing, right = [], set()
    for path in dict.fromkeys(path for paths in files.values() for path in paths):
        file = snapshot.listing[path]
        known = record.listing[path] if record and path in record.there else None
        if known and known != file:
            missing.append(path)  # the former commit's
        elif known and not params["verify"] and store.has(path, file):
            continue
        elif not store.fetched(path, file) and store.matches(path, file):
            right.add(path)  # somebody else has put it there, or it is to be verified
        else:
            missing.append(path)
    if missing and params["offline"]:
        raise DownloadError(_offline(store, f"all of {wishes[0].repo}", wishes))
    sure = record or snapshot
    if sure.commit == snapshot.commit:
        sure = replace(sure, there=sure.there - set(missing) | right)
    return Plan(store, snapshot, files, missing, record, sure)


def _choose(hub: Hub, params: dict[str, Any], store: Store, wish: Wish) -> Snapshot:
    """The commit that is wanted: what is there or on its way, as long as that is what is meant."""
    pinned = is_commit(wish.revision)
    if pinned or params["offline"] or not params["update"]:
        for known in (store.record(), store.pending()):
            if known and (not pinned or known.commit == wish.revision):
                return known
    if params["offline"]:
        what = f"{wish.repo} at {wish.revision}" if wish.revision else wish.repo
        raise DownloadError(_offline(store, what, [wish]))
    there = store.record()
    found = hub.snapshot(wish.repo, wish.revision)
    return there if there and there.commit == found.commit else found


def _offline(store: Store, what: str, wishes: list[Wish]) -> str:
    names = ", ".join(wish.name for wish in wishes)
    return (
        f"{store.path} has not got {what} for {names}, and nothing may be downloaded "
        "(models_offline): copy this directory, with all that is in it, from a host that has it"
    )


def check_space(plans: list[Plan], keep_free: int) -> None:
    """Before the first byte: that everything fits. Raises `DownloadError`."""
    disks: dict[int, list[Plan]] = {}
    for each in plans:
        if each.missing:
            disks.setdefault(nearest(each.store.path).stat().st_dev, []).append(each)
    for those in disks.values():
        need = sum(each.missing_bytes() for each in those)
        place = nearest(those[0].store.path)
        free = free_bytes(place)
        if need + keep_free > free:
            raise DownloadError(
                f"{', '.join(name for each in those for name in each.files)} need "
                f"{size_of(need)} more, and {place} has {size_of(free)} free, of which "
                f"{size_of(keep_free)} are to stay free (models_keep_free): make room, or set "
                "models_dir to a larger disk"
            )


def check_sizes(plans: list[Plan], most: int) -> None:
    """That the hub gives out what is missing over HTTP. Raises `DownloadError`."""
    for each in plans:
        for name in each.missing:
            size = each.snapshot.listing[name].size
            if size > most:
                raise DownloadError(
                    f"{each.snapshot.repo} has {name} in one piece of {size_of(size)}, more than "
                    f"the {size_of(most)} that the hub gives out over HTTP: take a repository that "
                    "has it in parts, or put it on the host by hand and name it as model_path"
                )


def size_of(count: float) -> str:
    """``12.3 GB``, as disks are sold and hubs count."""
    for power, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= power:
            return f"{count / power:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


class _Part:
    """A file that stops taking bytes when the time is up, after those that it was given."""

    def __init__(self, file: BinaryIO, is_over: Callable[[], bool]) -> None:
        self._file, self._is_over = file, is_over

    def write(self, data: bytes) -> None:
        self._file.write(data)
        if self._is_over():
            raise Paused

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def download(hub: Hub, plans: list[Plan], parallel: int, seconds: float) -> bool:
    """Fetch what is missing; False if the time was up before. Raises as the hub and disk do."""
    stop = threading.Event()
    deadline = time.monotonic() + seconds

    def is_over() -> bool:
        return stop.is_set() or time.monotonic() > deadline

    def fetch(each: Plan, name: str) -> bool:
        file = each.snapshot.listing[name]
        if each.store.is_whole(name, file):
            return True
        if is_over():
            return False
        with each.store.open_part(name, file) as part:
            have = part.tell()
            if have < file.size:
                with suppress(Paused):
                    hub.fetch(each.snapshot, name, cast(BinaryIO, _Part(part, is_over)), have)
            part.flush()
            os.fsync(part.fileno())
            if part.tell() < file.size:
                return False
        try:
            each.store.accept(name, file)
        except StoreError:
            if not have:
                raise
            return fetch(each, name)  # what an earlier run had left was bad: from the beginning
        return True

    with ThreadPoolExecutor(max_workers=parallel) as pool:
        running = [pool.submit(fetch, each, name) for each in plans for name in each.missing]
        try:
            for done in as_completed(running):
                done.result()
        finally:
            stop.set()
    return all(done.result() for done in running)


def work(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """What the module returns. Raises as `plan` and `download` do."""
    hub = Hub(params["endpoint"], params["token"])
    wishes = wishes_by_directory(params["models"], params["models_dir"])
    plans = [plan(hub, params, where, those) for where, those in wishes.items()]
    if any(each.missing for each in plans):
        check_sizes(plans, hub.most_bytes)
        check_space(plans, params["keep_free"])
    changed = any(each.changed for each in plans)
    total = sum(each.total_bytes() for each in plans)
    finished = not changed
    if changed and not check_mode:
        for each in plans:
            if each.sure != each.record:
                each.store.save(each.sure)
            if each.snapshot.commit != each.sure.commit:
                each.store.begin(each.snapshot)
        finished = download(hub, plans, params["parallel"], params["interval"])
        for each in plans:
            if finished and (each.missing or each.snapshot.commit != each.sure.commit):
                each.store.finish(each.snapshot, each.missing)
    return {
        "changed": changed,
        "finished": finished,
        "total_bytes": total,
        "missing_bytes": 0 if finished else sum(each.missing_bytes() for each in plans),
        "models": {
            name: {
                "directory": str(each.store.path),
                "commit": each.snapshot.commit,
                "files": files,
                "bytes": sum(each.snapshot.listing[path].size for path in files),
                "missing_bytes": 0 if finished else each.missing_bytes(files),
            }
            for each in plans
            for name, files in each.files.items()
        },
    }


@contextmanager
def alone(models_dir: str) -> Iterator[None]:
    """While no other run works there. Raises `DownloadError`."""
    make_directory(Path(models_dir))
    descriptor = os.open(models_dir, os.O_RDONLY | os.O_CLOEXEC)
    until = time.monotonic() + LOCK_TIMEOUT
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise DownloadError(
                        f"another run downloads to {models_dir} at this moment: wait for its end"
                    ) from None
                time.sleep(0.5)
        yield
    finally:
        os.close(descriptor)


def closed_to_engines(models_dir: str) -> Optional[str]:
    """The first directory on the way there that engines' users may not enter."""
    for path in [*reversed(Path(models_dir).parents), Path(models_dir)]:
        if path.exists() and not path.stat().st_mode & 0o001:
            return str(path)
    return None


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "models": {"type": "dict", "required": True},
            "models_dir": {"type": "path", "default": MODELS_DIR},
            "endpoint": {"type": "str", "default": "https://huggingface.co"},
            "token": {"type": "str", "no_log": True},
            "offline": {"type": "bool", "default": False},
            "update": {"type": "bool", "default": False},
            "verify": {"type": "bool", "default": False},
            "keep_free": {"type": "int", "default": 1 << 30},
            "parallel": {"type": "int", "default": 4},
            "interval": {"type": "int", "default": 15},
            "user": {"type": "str"},
        },
        supports_check_mode=True,
        # else it logs its parameters, and models' variables with them, in the host's journal
        no_log=True,
    )
    params = module.params
    for entry in params["models"].values():
        if isinstance(entry, dict):
            entry.pop("environment", None)  # not for a verbose run's eyes either
    closed = closed_to_engines(params["models_dir"])
    if closed:
        module.warn(f"{closed} is closed to engines' users: they cannot read the models in it")
    account = None
    result: dict[str, Any] = {}
    if params["user"] and os.geteuid() == 0:
        try:
            account = pwd.getpwnam(params["user"])
        except KeyError:
            if not module.check_mode:
                module.fail_json(msg=f"There is no user {params['user']}: create it first.")
            account = pwd.getpwnam("nobody")
    try:
        if account is None:
            result = attempt(params, module.check_mode)
        else:
            if not module.check_mode:
                make_directory(Path(params["models_dir"]))
                for directory in wishes_by_directory(params["models"], params["models_dir"]):
                    give(directory, account.pw_uid, account.pw_gid)
            result = as_user(account, lambda: attempt(params, module.check_mode))
    except (DownloadError, StoreError) as error:
        module.fail_json(msg=f"{error}.")
    except OSError as error:
        module.fail_json(msg=f"The models could not be written: {error}")
    if result.pop("no_library", False):
        if not module.check_mode:
            module.fail_json(msg=missing_required_lib("huggingface_hub"))
        module.warn("how much is to be downloaded is not known before huggingface_hub is there")
    module.exit_json(**result)


def attempt(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """`work`, alone and with a home of its own. Raises as that does, but for ImportError."""
    with tempfile.TemporaryDirectory(prefix="model-download-") as home:
        # what the library keeps beside downloads is of no use here
        os.environ.update(ENVIRONMENT, HF_HOME=home, HF_ENDPOINT=params["endpoint"])
        try:
            with nullcontext() if check_mode else alone(params["models_dir"]):
                return work(params, check_mode)
        except ImportError:
            return {"changed": True, "finished": False, "models": {}, "no_library": True}


def as_user(account: pwd.struct_passwd, action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``action`` returns, in a child process that belongs to the account for good.

    Raises `DownloadError` with the message of its error.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        answer: dict[str, Any] = {"error": "the download ended without a word"}
        try:
            os.close(reading)
            os.setgroups([])
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            os.umask(0o022)
            os.chdir("/")
            os.environ["HOME"] = "/"
            tempfile.tempdir = None  # Ansible's is root's alone
            os.environ["TMPDIR"] = "/tmp"  # noqa: S108 (the directory in it has mode 0700)
            answer = {"result": action()}
        except BaseException as error:  # noqa: BLE001 (the parent reports it)
            answer = {"error": str(error) or type(error).__name__}
        finally:
            with suppress(BaseException), os.fdopen(writing, "w") as pipe:
                json.dump(answer, pipe)
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    answer = json.loads(text) if text else {"error": "the download was killed"}
    if "error" in answer:
        raise DownloadError(str(answer["error"]).rstrip("."))
    result: dict[str, Any] = answer["result"]
    return result


if __name__ == "__main__":
    main()
