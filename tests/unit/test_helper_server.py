"""The helper: who may ask, for what, whom it believes, and what a client sees of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from typing_extensions import Self

from llm_router.helper import jobs
from llm_router.helper.catalog import Catalog
from llm_router.helper.client import HelperClient
from llm_router.helper.server import HelperServer, listening_socket
from llm_router.helper.started import Started
from llm_router.logs.masking import CONTEXT
from llm_router.units.base import ManagerUnavailable, UnitError
from llm_router.units.dbus import BusUnavailable, ManagerError, UnitFacts, unit_path

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class FakeManager:
    """systemd's manager with one rule: units do what the test says of them."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.states: dict[str, str] = {}
        self.load_states: dict[str, str] = {}
        self.left: dict[str, list[int]] = {}
        self.restarting: dict[str, tuple[str, int, int]] = {}
        """By unit: sub-state, NRestarts, ExecMainStatus."""
        self.result = "done"
        self.unit_result = "success"
        self.hangs: set[str] = set()
        self.survives_kill = False
        self.need_reload = False
        self.refusal: ManagerError | None = None
        self.unforeseen: Exception | None = None
        self.running = asyncio.Event()
        self._killed = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def facts(self, unit: str, /) -> UnitFacts:
        active = self.states.get(unit, "inactive")
        return UnitFacts(
            unit,
            self.load_states.get(unit, "loaded"),
            active,
            42 if active == "active" else 0,
            self.unit_result,
            self.need_reload,
            *self.restarting.get(unit, ()),
        )

    async def processes(self, unit: str, /) -> list[int]:
        return self.left.get(unit, [])

    async def queue_start(self, unit: str, /) -> str:
        return self._queue("start", unit)

    async def queue_stop(self, unit: str, /) -> str:
        return self._queue("stop", unit)

    def _queue(self, verb: str, unit: str) -> str:
        self.calls.append(f"{verb} {unit}")
        if self.unforeseen is not None:
            raise self.unforeseen
        if self.refusal is not None:
            raise self.refusal
        return f"{verb} {unit}"

    async def job_result(self, job: str, /) -> str:
        verb, unit = job.split()
        self.running.set()
        if verb in self.hangs:
            await self._killed.wait()
        self.states[unit] = "active" if verb == "start" else "inactive"
        return self.result

    async def cancel_job(self, job: str, /) -> None:
        self.calls.append(f"cancel {job}")

    async def reset_failed(self, unit: str, /) -> None:
        self.calls.append(f"reset {unit}")

    async def kill(self, unit: str, /) -> None:
        self.calls.append(f"kill {unit}")
        if not self.survives_kill:
            self._killed.set()
            self.left.pop(unit, None)

    async def reload(self) -> None:
        self.calls.append("reload")


class Host:
    """A configuration and a helper that serves it on a socket."""

    def __init__(self, root: Path) -> None:
        self.etc = root / "etc"
        self.etc.mkdir(mode=0o755)
        self.engine_files = root / "llamacpp"
        self.models = self.etc / "models.yml"
        self.socket = root / "helper.sock"
        self.manager = FakeManager()
        self.asked_for: list[tuple[str, int]] = []
        self.said = ["one", "two"]
        self.started = root / "started.json"
        self.client = HelperClient(str(self.socket))
        self.config = self.etc / "config.yml"
        self.write(self.config, {"engine_files": {"llamacpp": str(self.engine_files)}})
        self.write(
            self.models,
            {
                "models": {
                    "gemma": {
                        "backend": "llamacpp",
                        "service": "llamacpp@gemma.service",
                        "model_path": "/g.gguf",
                    },
                    "other": {"backend": "vllm", "service": "other.service"},
                }
            },
        )

    @staticmethod
    def write(path: Path, content: object) -> None:
        path.write_text(json.dumps(content))
        path.chmod(0o640)

    async def journal(self, unit: str, lines: int, since: float | None = None) -> list[str]:
        self.asked_for.append((unit, lines))
        return self.said

    @asynccontextmanager
    async def serving(
        self, peers: frozenset[int] | None = None, idle: float = 900.0
    ) -> AsyncIterator[anyio.Event]:
        server = HelperServer(
            Catalog(self.config, owner=os.geteuid()),
            peers=frozenset({os.geteuid()}) if peers is None else peers,
            connect=lambda: self.manager,
            journal=self.journal,
            started=Started(self.started),
        )
        ended = anyio.Event()

        async def serve(listener: socket.socket) -> None:
            await server.serve(listener, idle)
            ended.set()

        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.socket))
            listener.listen()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(serve, listener)
                yield ended
                tasks.cancel_scope.cancel()

    async def say(self, line: bytes) -> dict[str, Any]:
        """The answer to raw bytes."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        try:
            writer.write(line)
            answer: dict[str, Any] = json.loads(await reader.readline())
            return answer
        finally:
            writer.close()


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    with anyio.fail_after(20):
        yield Host(tmp_path)


async def test_the_four_verbs(host: Host) -> None:
    async with host.serving():
        assert await host.client.activate("gemma") is True
        assert await host.client.activate("gemma") is False
        assert "--model /g.gguf" in (host.engine_files / "gemma.env").read_text()
        await host.client.start("gemma", 5)
        await host.client.stop("gemma", 5)
        assert await host.client.logs("gemma", 7) == ["one", "two"]
    unit = "llamacpp@gemma.service"
    assert host.manager.calls == [f"reset {unit}", f"start {unit}", f"stop {unit}"]
    # more than is shown: a key can stand in the line below the one that names it
    assert host.asked_for == [(unit, 7 + CONTEXT)]


async def test_the_socket_file_stays_when_the_helper_ends(host: Host) -> None:
    async with host.serving(idle=0.05) as ended:
        await host.client.activate("gemma")
        await ended.wait()
        assert host.socket.is_socket()


async def test_it_ends_at_sigterm_when_its_work_is_done(host: Host) -> None:
    host.manager.hangs = {"stop"}
    async with host.serving() as ended, anyio.create_task_group() as tasks:
        tasks.start_soon(host.client.stop, "other", 0.3)
        await host.manager.running.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await ended.wait()
    assert host.manager.calls == ["stop other.service", "kill other.service"]


@pytest.mark.parametrize(
    "name", ["nobody", "../../etc/passwd", "other.service", "gemma\n", "\ud800", "gemma/../other"]
)
async def test_a_model_that_is_not_in_models_yml_is_refused(host: Host, name: str) -> None:
    async with host.serving():
        for verb in ("activate", "start", "stop", "logs"):
            line = json.dumps({"verb": verb, "model": name}).encode() + b"\n"
            answer = await host.say(line)
            assert answer == {
                "ok": False,
                "error": f"model {name!r} is not in models.yml",
                "kind": "model",
            }
    assert host.manager.calls == []
    assert host.asked_for == []


async def test_another_user_is_refused(host: Host) -> None:
    async with host.serving(peers=frozenset({os.geteuid() + 1})):
        with pytest.raises(UnitError, match=r"only root and the router's user may use the helper"):
            await host.client.stop("gemma", 5)
    assert host.manager.calls == []


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"garbage\n", "the line is not JSON"),
        (b"\0\xff\n", "the line is not JSON"),
        (b'{"verb": "reboot", "model": "gemma"}\n', "verb must be one of"),
        (b"x" * 100_000, "a request has at most 4096 bytes"),
        (b"[" * 4090 + b"\n", "the line is not JSON"),
    ],
)
async def test_a_bad_request_is_refused_and_the_next_one_served(
    host: Host, line: bytes, error: str
) -> None:
    async with host.serving():
        try:
            answer = await host.say(line)
        except ConnectionResetError:
            assert len(line) > 4096  # the rest of it was never read
        else:
            assert answer["ok"] is False
            assert error in answer["error"]
        assert await host.client.activate("gemma") is True


async def test_an_unforeseen_failure_is_an_answer_and_ends_nothing_else(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.manager.unforeseen = RuntimeError("odd")
    async with host.serving() as ended:
        answer = await host.say(b'{"verb": "stop", "model": "other"}\n')
        assert answer["ok"] is False
        assert "RuntimeError: odd" in answer["error"]
        assert "Traceback" in caplog.text
        host.manager.unforeseen = None
        await host.client.stop("other", 5)
        assert not ended.is_set()


async def test_a_connection_that_breaks_in_the_middle_ends_nothing_else(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = True
    read = asyncio.StreamReader.read

    async def read_or_break(reader: asyncio.StreamReader, n: int = -1) -> bytes:
        if broken:
            await host.manager.running.wait()
            raise ConnectionResetError
        return await read(reader, n)

    monkeypatch.setattr(asyncio.StreamReader, "read", read_or_break)
    host.manager.hangs = {"start"}
    async with host.serving() as ended:
        with pytest.raises(json.JSONDecodeError):  # nothing came
            await host.say(b'{"verb": "start", "model": "other"}\n')
        broken = False
        await host.client.stop("other", 5)
        assert not ended.is_set()
    assert "cancel start other.service" in host.manager.calls


async def test_an_answer_that_cannot_be_sent_ends_nothing_else(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> bytes:
        raise TypeError("not JSON")

    async with host.serving() as ended:
        with monkeypatch.context() as patch:
            patch.setattr("llm_router.helper.server.encode_answer", refuse)
            with pytest.raises(json.JSONDecodeError):
                await host.say(b'{"verb": "logs", "model": "other"}\n')
        await host.client.stop("other", 5)
        assert not ended.is_set()


async def test_a_client_that_says_nothing_is_no_hindrance(host: Host) -> None:
    async with host.serving() as ended:
        for _ in range(3):
            _, writer = await asyncio.open_unix_connection(str(host.socket))
            writer.close()
        _, silent = await asyncio.open_unix_connection(str(host.socket))
        assert await host.client.activate("gemma") is True
        silent.close()
        assert not ended.is_set()


def _everybody_writes(host: Host) -> None:
    host.models.chmod(0o666)


def _group_writes(host: Host) -> None:
    host.models.chmod(0o660)


def _directory_open(host: Host) -> None:
    host.etc.chmod(0o777)


def _config_open(host: Host) -> None:
    host.config.chmod(0o662)


def _linked_from_an_open_directory(host: Host) -> None:
    outside = host.etc.parent / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    host.models.rename(outside / "models.yml")
    host.models.symlink_to(outside / "models.yml")


def _broken(host: Host) -> None:
    host.models.write_text("models:\n  x: {backend: nope}\n")


def _gone(host: Host) -> None:
    host.models.unlink()


def _child_units(host: Host) -> None:
    host.write(host.config, {"units": "child"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_everybody_writes, r"models\.yml can be written by others .* `chmod go-w "),
        (_group_writes, r"models\.yml can be written by others"),
        (_directory_open, r"etc can be written by others"),
        (_config_open, r"config\.yml can be written by others"),
        (_linked_from_an_open_directory, r"outside can be written by others"),
        (_broken, r"models\.yml:2: models\.x\.backend: 'nope' is not a valid value"),
        (_gone, r"models\.yml cannot be read: No such file or directory"),
        (_child_units, r"says `units: child`"),
    ],
)
async def test_files_that_cannot_be_believed_stop_everything(
    host: Host, change: Callable[[Host], None], message: str
) -> None:
    async with host.serving():
        await host.client.activate("gemma")
        change(host)
        with pytest.raises(UnitError, match=message):
            await host.client.start("gemma", 5)
    assert host.manager.calls == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
async def test_files_of_another_user_are_not_believed(host: Host) -> None:
    async with host.serving():
        os.chown(host.models, 12345, -1)
        with pytest.raises(UnitError, match=r"models\.yml belongs to user 12345"):
            await host.client.start("gemma", 5)
        os.chown(host.models, 0, -1)
        os.chown(host.etc, 12345, -1)
        with pytest.raises(UnitError, match=r"etc belongs to user 12345"):
            await host.client.start("gemma", 5)


async def test_models_yml_is_read_anew_when_it_changes(host: Host) -> None:
    async with host.serving():
        with pytest.raises(UnitError, match=r"is not in models\.yml"):
            await host.client.stop("new", 5)
        replacement = host.etc / "models.new"
        host.write(replacement, {"models": {"new": {"backend": "vllm", "service": "n.service"}}})
        replacement.replace(host.models)
        await host.client.stop("new", 5)
        with pytest.raises(UnitError, match=r"is not in models\.yml"):
            await host.client.stop("gemma", 5)


async def test_a_drop_in_is_followed_by_a_reload(host: Host) -> None:
    host.manager.need_reload = True
    async with host.serving():
        assert await host.client.activate("other") is False
    assert host.manager.calls == ["reload"]


@pytest.mark.parametrize(
    ("load_state", "message"),
    [
        ("not-found", r"unit other\.service does not exist; is the engine's role installed\?"),
        ("masked", r"is masked; `systemctl unmask other\.service`"),
        ("bad-setting", r"cannot be loaded \(bad-setting\)"),
    ],
)
async def test_a_unit_that_cannot_be_loaded(host: Host, load_state: str, message: str) -> None:
    host.manager.load_states["other.service"] = load_state
    async with host.serving():
        with pytest.raises(UnitError, match=message):
            await host.client.start("other", 5)


@pytest.mark.parametrize(
    "result", ["failed", "canceled", "timeout", "dependency", "skipped", "assert", "brand-new"]
)
async def test_a_job_that_did_not_end_well_names_unit_and_result(host: Host, result: str) -> None:
    host.manager.result, host.manager.unit_result = result, "exit-code"
    async with host.serving():
        with pytest.raises(UnitError, match=rf"starting other\.service ended as {result}: .*exit-"):
            await host.client.start("other", 5)
        with pytest.raises(UnitError, match=rf"stopping other\.service ended as {result}: "):
            await host.client.stop("other", 5)


async def test_systemds_refusal_is_passed_on(host: Host) -> None:
    host.manager.refusal = ManagerError("org.freedesktop.systemd1.UnitMasked", "Unit is masked.")
    async with host.serving():
        with pytest.raises(UnitError, match=r"unit other\.service cannot be started: Unit is mas"):
            await host.client.start("other", 5)
        with pytest.raises(UnitError, match=r"unit other\.service cannot be stopped: Unit is mas"):
            await host.client.stop("other", 5)
        host.manager.refusal = ManagerError("org.freedesktop.systemd1.NoSuchUnit", "not loaded")
        await host.client.stop("other", 5)


async def test_a_start_past_its_deadline_is_taken_back(host: Host) -> None:
    host.manager.hangs = {"start"}
    async with host.serving():
        with pytest.raises(UnitError, match=r"other\.service did not start within 0\.2 s"):
            await host.client.start("other", 0.2)
    assert host.manager.calls[-1] == "cancel start other.service"


async def test_a_start_whose_client_left_is_taken_back_and_a_stop_gets_its_turn(
    host: Host,
) -> None:
    host.manager.hangs = {"start"}
    async with host.serving():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host.client.start, "other", 60)
            await host.manager.running.wait()
            tasks.cancel_scope.cancel()
        await host.client.stop("other", 5)
    assert host.manager.calls[-2:] == ["cancel start other.service", "stop other.service"]


async def test_a_stop_past_its_deadline_kills(host: Host) -> None:
    host.manager.hangs = {"stop"}
    async with host.serving():
        await host.client.stop("other", 0.1)
    assert host.manager.calls == ["stop other.service", "kill other.service"]


async def test_a_stop_that_sigkill_does_not_end_says_so(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "KILL_TIMEOUT", 0.1)
    host.manager.hangs, host.manager.survives_kill = {"stop"}, True
    async with host.serving():
        with pytest.raises(UnitError, match=r"did not stop within 0\.1 s, and SIGKILL did not"):
            await host.client.stop("other", 0.1)


async def test_processes_left_behind_are_killed_or_named(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "LEFTOVER_GRACE", 0.05)
    monkeypatch.setattr(jobs, "KILL_TIMEOUT", 0.05)
    host.manager.left["other.service"] = [17, 18]
    async with host.serving():
        await host.client.stop("other", 5)
        assert host.manager.calls == ["stop other.service", "kill other.service"]
        host.manager.left["other.service"], host.manager.survives_kill = [17, 18], True
        with pytest.raises(UnitError, match=r"is inactive all the same, with processes 17, 18"):
            await host.client.stop("other", 5)


async def test_a_helper_that_is_not_there(host: Host) -> None:
    with pytest.raises(UnitError, match=r"`systemctl status llm-router-helper\.socket`"):
        await host.client.activate("gemma")


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([b"", b'{"ok": true, "changed": true}\n'], None),
        ([b"", b""], "the helper gave no answer for gemma"),
        ([b"nonsense\n"], "the helper gave no answer for gemma"),
        ([b'{"ok": true, "cha'], "the helper gave no answer for gemma"),
    ],
)
async def test_a_helper_that_ends_at_the_wrong_moment(
    host: Host, answers: list[bytes], message: str | None
) -> None:
    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answers.pop(0))
        writer.close()

    server = await asyncio.start_unix_server(act, host.socket)
    try:
        if message is None:
            assert await host.client.activate("gemma") is True
        else:
            with pytest.raises(UnitError, match=message):
                await host.client.activate("gemma")
    finally:
        server.close()
    assert answers == []


async def test_a_helper_that_does_not_answer(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_router.helper.client.ACTIVATE_TIMEOUT", 0.1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(host.socket))
        listener.listen()
        with pytest.raises(UnitError, match=r"did not activate gemma within 0\.1 s"):
            await host.client.activate("gemma")


async def test_prewarm_reads_the_weights_of_a_configured_model(host: Host, tmp_path: Path) -> None:
    size = 8 << 20
    weights = tmp_path / "g.gguf"
    weights.write_bytes(os.urandom(size))
    with weights.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    gemma = {"backend": "llamacpp", "service": "llamacpp@gemma.service"}
    host.write(host.models, {"models": {"gemma": {**gemma, "model_path": str(weights)}}})
    async with host.serving():
        assert await host.client.prewarm("gemma") in (size, 0)  # 0: a file system in memory
        assert await host.client.prewarm("gemma") == 0
        with pytest.raises(UnitError, match=r"not in models\.yml"):
            await host.client.prewarm(str(weights))
    assert host.manager.calls == []


def test_without_a_socket_from_systemd_it_says_how_to_start_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LISTEN_PID", raising=False)
    with pytest.raises(UnitError, match=r"`systemctl start llm-router-helper\.socket`"):
        listening_socket()
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    monkeypatch.setenv("LISTEN_FDS", "1")
    with pytest.raises(UnitError, match="takes its socket from systemd"):
        listening_socket()


@pytest.mark.parametrize(
    ("unit", "path"),
    [
        ("sglang.service", "sglang_2eservice"),
        ("llamacpp@a-b.service", "llamacpp_40a_2db_2eservice"),
        ("3x.service", "_33x_2eservice"),
        ("a_b.service", "a_5fb_2eservice"),
    ],
)
def test_object_paths(unit: str, path: str) -> None:
    assert unit_path(unit) == f"/org/freedesktop/systemd1/unit/{path}"


async def kind_of_refusal(host: Host, verb: str, model: str = "gemma") -> str:
    answer = await host.say(json.dumps({"verb": verb, "model": model}).encode() + b"\n")
    assert answer["ok"] is False
    return str(answer["kind"])


async def test_a_bus_that_is_lost_in_a_call_is_the_hosts_fault(host: Host) -> None:
    async with host.serving():
        host.manager.unforeseen = BusUnavailable("the connection to the system bus is lost")
        assert await kind_of_refusal(host, "start") == "host"
        with pytest.raises(ManagerUnavailable, match="the system bus is lost"):
            await host.client.start("gemma", 5)


async def test_files_that_cannot_be_trusted_are_the_hosts_fault(host: Host) -> None:
    async with host.serving():
        host.models.chmod(0o666)
        assert await kind_of_refusal(host, "activate") == "host"
        with pytest.raises(ManagerUnavailable, match="can be written by others"):
            await host.client.stop("gemma", 5)


async def test_a_fault_inside_the_helper_is_the_hosts_fault(host: Host) -> None:
    async with host.serving():
        host.manager.unforeseen = RuntimeError("odd")
        assert await kind_of_refusal(host, "start") == "host"


async def test_a_check_finds_what_activation_would_and_writes_nothing(host: Host) -> None:
    async with host.serving():
        await host.client.check("gemma")
        assert not host.engine_files.exists()
        assert host.manager.calls == []
        host.engine_files.mkdir()
        file = host.engine_files / "gemma.env"
        file.write_text('A="b\n')
        with pytest.raises(UnitError, match="a quote is opened here") as caught:
            await host.client.check("gemma")
        assert not isinstance(caught.value, ManagerUnavailable)
        assert file.read_text() == 'A="b\n'


async def test_a_check_says_why_an_engine_must_be_restarted(host: Host, tmp_path: Path) -> None:
    file = tmp_path / "tabby.yml"
    file.write_text("model:\n  model_name: x\n  cache_mode: Q8\n")
    entry = {"backend": "tabby", "service": "tabbyapi.service", "config_file": str(file)}
    models = {"mine": {**entry, "residency": "unload"}}
    host.write(host.models, {"models": models})
    async with host.serving():
        assert "model.cache_mode" in await host.client.check("mine")
        file.write_text("model:\n  model_name: x\n")
        assert await host.client.check("mine") == ""


async def test_a_unit_that_fails_is_the_models_fault(host: Host) -> None:
    async with host.serving():
        host.manager.result = "failed"
        assert await kind_of_refusal(host, "start") == "model"
        with pytest.raises(UnitError) as caught:
            await host.client.start("gemma", 5)
        assert not isinstance(caught.value, ManagerUnavailable)


async def test_a_file_in_the_wrong_place_is_the_models_fault(host: Host) -> None:
    host.engine_files.mkdir()
    (host.engine_files / "gemma.env").mkdir()
    async with host.serving():
        assert await kind_of_refusal(host, "activate") == "model"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize(
    ("options", "says"),
    [("ro,size=64k", "Read-only file system"), ("size=4k,nr_inodes=3", "No space left on device")],
)
async def test_a_disk_that_takes_nothing_is_the_hosts_fault(
    host: Host, options: str, says: str
) -> None:
    host.engine_files.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"{options},mode=755", "tmpfs"]
    mount.append(str(host.engine_files))
    if (await anyio.run_process(mount, check=False)).returncode:
        pytest.skip("mounts are not allowed here")
    try:
        if "ro" not in options.split(","):
            (host.engine_files / "filler").write_bytes(b"x" * 4096)
        async with host.serving():
            assert await kind_of_refusal(host, "activate") == "host"
            with pytest.raises(ManagerUnavailable, match=says):
                await host.client.activate("gemma")
            if "ro" in options.split(","):  # how much room is left, nobody knows before
                with pytest.raises(ManagerUnavailable, match=says):
                    await host.client.check("gemma")
    finally:
        await anyio.run_process(["umount", "--lazy", str(host.engine_files)])


async def test_an_answer_without_a_kind_is_read_as_before(tmp_path: Path) -> None:
    async def old_helper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b'{"ok": false, "error": "the unit failed"}\n')
        writer.close()

    path = str(tmp_path / "old.sock")
    async with await asyncio.start_unix_server(old_helper, path):
        with pytest.raises(UnitError, match="the unit failed") as caught:
            await HelperClient(path).start("gemma", 5)
        assert not isinstance(caught.value, ManagerUnavailable)


@pytest.mark.parametrize(
    ("restarting", "how"),
    [(("auto-restart", 0, 3), "exit-code, status 3"), (("start-pre", 1, 0), "exit-code")],
)
async def test_a_start_job_that_systemd_repeats_ends_at_the_first_exit(
    host: Host, monkeypatch: pytest.MonkeyPatch, restarting: tuple[str, int, int], how: str
) -> None:
    monkeypatch.setattr(jobs, "LOOK_EVERY", 0.01)
    host.manager.hangs.add("start")
    host.manager.unit_result = "exit-code"
    unit = "llamacpp@gemma.service"
    async with host.serving(), anyio.create_task_group() as tasks:

        async def loop() -> None:
            await host.manager.running.wait()
            host.manager.states[unit] = "activating"
            host.manager.restarting[unit] = restarting

        tasks.start_soon(loop)
        with anyio.fail_after(5), pytest.raises(UnitError) as caught:
            await host.client.start("gemma", 3000)
    assert str(caught.value) == (
        f"unit {unit} ended while it started ({how}), and systemd restarts it again and again; "
        f"see `journalctl -u {unit}`"
    )
    assert not isinstance(caught.value, ManagerUnavailable)
    assert f"cancel start {unit}" in host.manager.calls


async def test_no_line_of_a_journal_has_a_key(host: Host, tmp_path: Path) -> None:
    key_file = tmp_path / "api_key"
    key_file.write_text("k3y-of-vllm\n")
    host.write(
        host.config,
        {
            "engine_files": {"llamacpp": str(host.engine_files)},
            "engine_keys": {"vllm": str(key_file)},
        },
    )
    host.said = ["got k3y-of-vllm", "x" * 1995 + "k3y-of-vllm", "Your admin key is: 0123456789"]
    async with host.serving():
        for model in ("gemma", "other"):
            lines = await host.client.logs(model, 7)
            assert lines == ["got ***", "x" * 1995 + "***", "Your admin key is: ***"]
