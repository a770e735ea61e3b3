#!/usr/bin/env python3
"""Units, the helper and the config writer against a real systemd. For a throwaway host, as root.

`tests/systemd/run` boots one and runs this there. It writes units, a user and /etc/llm-router, then
runs each check: the router's side as an unprivileged user, with what llm-router.service hides
from it where that matters, and what only root can do (restart the bus) from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path

import anyio

from llm_router.config.load import load_settings
from llm_router.config.schema import Model
from llm_router.engines.compilers import is_compiling
from llm_router.helper.client import HelperClient
from llm_router.helper.protocol import Request, encode_request
from llm_router.units.base import ManagerUnavailable, UnitError, UnitState
from llm_router.units.ports import PortGuard
from llm_router.units.systemd import SystemdUnits

USER = "llm-router"
ETC = Path("/etc/llm-router")
UNITS = Path("/etc/systemd/system")
SCRATCH = Path("/run/units-test")
SOCKET = "/run/llm-router-helper.sock"

AWKWARD = [
    "",
    " ",
    "a  b",
    "tab\there",
    "it's",
    'say "hi"',
    "back\\slash",
    "trailing\\",
    "$HOME ${HOME} $$",
    "%i %% %h",
    "# no comment",
    "; either",
    "`id`",
    "ünï ⚡",
    '{"a": [1, "b\'c"]}',
    "\\n\\x41\\u00e9",
    "\\\\'\"$`",
    "*?[x] ~ !",
    "--last=",
]

ASK = """\
import socket, sys
asking = socket.socket(socket.AF_UNIX)
asking.connect(sys.argv[1])
asking.sendall(sys.argv[2].encode())
print(asking.makefile().readline())
"""

DUMP = f"""\
import json, os, sys, time
with open("{SCRATCH}/" + sys.argv[1] + ".json", "w") as file:
    json.dump(sys.argv[2:], file)
time.sleep(1000)
"""

DUMP_ENVIRONMENT = f"""\
import json, os, time
with open("{SCRATCH}/environment.json.new", "w") as file:
    json.dump(dict(os.environ), file)
os.rename("{SCRATCH}/environment.json.new", "{SCRATCH}/environment.json")
time.sleep(1000)
"""

UNIT_FILES = {
    "llamacpp@.service": f"""\
[Service]
Type=exec
EnvironmentFile=/etc/llamacpp/%i.env
ExecStart=/usr/bin/python3 {SCRATCH}/dump.py %i $LLAMACPP_ARGS
""",
    "plain.service": "[Service]\nType=exec\nExecStart=/bin/sleep 1000\n",
    "crash.service": "[Service]\nExecStart=/bin/sh -c 'echo it broke; sleep 0.3; exit 3'\n",
    "looping.service": (
        "[Unit]\nStartLimitIntervalSec=0\n"
        "[Service]\nType=exec\nRestart=always\n"
        "ExecStart=/bin/sh -c 'echo it broke; sleep 0.3; exit 3'\n"
    ),
    "neverup.service": (
        "[Unit]\nStartLimitIntervalSec=0\n"
        "[Service]\nType=notify\nTimeoutStartSec=300\nRestart=on-failure\n"
        "ExecStart=/bin/sh -c 'echo it broke; sleep 0.3; exit 3'\n"
    ),
    # what ends first here is no engine: a preparation, and a wrapper that stays "active (exited)"
    "prepared.service": (
        "[Service]\nType=exec\nRestart=always\nExecStartPre=/bin/sleep 1\n"
        "ExecStart=/bin/sleep 1000\n"
    ),
    "wrapped.service": (
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nRestart=on-failure\nExecStart=/bin/sleep 1\n"
    ),
    "stubborn.service": (
        "[Service]\nType=exec\nTimeoutStopSec=300\n"
        "ExecStart=/bin/sh -c 'trap \"\" TERM; sleep 1000 & while :; do wait; done'\n"
    ),
    "leftover.service": (
        "[Service]\nType=exec\nKillMode=process\n"
        "ExecStart=/bin/sh -c 'trap \"exit 0\" TERM; setsid sleep 1000 & wait'\n"
    ),
    "neverready.service": (
        "[Service]\nType=notify\nTimeoutStartSec=300\nExecStart=/bin/sleep 1000\n"
    ),
    "notstarting.service": "[Service]\nType=oneshot\nExecStart=/bin/false\n",
    "limited.service": (
        "[Unit]\nStartLimitBurst=1\nStartLimitIntervalSec=1h\n"
        "[Service]\nType=exec\nExecStart=/bin/sleep 1000\n"
    ),
    "shared.service": "[Service]\nType=exec\nExecStart=/bin/sleep 1001\n",
    "alone.service": "[Service]\nType=exec\nExecStart=/bin/sleep 1004\n",
    "gpus.service": (
        "[Service]\nType=exec\nEnvironment=OWN=unit BOTH=unit\nExecStart=/bin/sleep 1007\n"
    ),
    "listening.service": (
        "[Service]\nType=exec\nUser=sglang\n"
        "ExecStart=/usr/bin/python3 -m http.server --bind 127.0.0.1 8123\n"
    ),
    "compiling.service": (
        "[Service]\nType=exec\nUser=sglang\nPrivateTmp=yes\n"
        "ExecStart=/bin/sh -c 'true /opt/standin/current; cp /bin/sleep /tmp/cc1plus; "
        "/tmp/cc1plus 1000 & wait'\n"
    ),
    # the seconds are in the file that it reads, and tell which model it serves
    "sglang.service": (
        "[Service]\nType=exec\nUser=sglang\nExecStart=/bin/sh -c 'exec sleep "
        '$$(sed -n "s/^context-length: //p" /etc/sglang/sglang.yml)\'\n'
    ),
    "llm-router-helper.socket": f"""\
[Socket]
ListenStream={SOCKET}
SocketUser={USER}
SocketMode=0600
RemoveOnStop=yes
""",
    "llm-router-helper.service": f"""\
[Unit]
Requires=llm-router-helper.socket
StartLimitIntervalSec=0
[Service]
Type=notify
Environment=PYTHONPATH={os.environ.get("PYTHONPATH", "")} PYTHONDONTWRITEBYTECODE=1
ExecStart={sys.executable} -m llm_router helper
ReadWritePaths=-/etc/llamacpp -/etc/systemd/system -/etc/sglang -/etc/tabbyapi
CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_CHOWN CAP_FOWNER
NoNewPrivileges=yes
ProtectSystem=strict
PrivateTmp=yes
PrivateDevices=yes
PrivateNetwork=yes
ProtectProc=noaccess
ProtectKernelTunables=yes
BindReadOnlyPaths=-{SCRATCH}/driver:/proc/driver
RestrictAddressFamilies=AF_UNIX
RestrictSUIDSGID=yes
MemoryDenyWriteExecute=yes
SystemCallFilter=@system-service
SystemCallFilter=~@resources
SystemCallErrorNumber=EPERM
""",
}

MODELS = {
    "awkward": {
        "backend": "llamacpp",
        "service": "llamacpp@awk-ward.1.service",
        "model_path": "/srv/my models/a.gguf",
        "args": AWKWARD,
    },
    **{
        name: {"backend": "vllm", "service": f"{name}.service", "timeout": 20.0}
        for name in (
            "plain", "crash", "stubborn", "leftover", "neverready", "notstarting", "limited",
            "looping", "neverup", "prepared", "wrapped",
        )
    },
    "missing": {"backend": "vllm", "service": "missing.service"},
    "listening": {
        "backend": "vllm", "service": "listening.service", "port": 8123,
    },
    "alone": {"backend": "sglang", "service": "alone.service"},
    "compiling": {"backend": "vllm", "service": "compiling.service", "port": 8124},
    **{
        f"yaml-{seconds}": {
            "backend": "sglang",
            "service": "sglang.service",
            "model_path": "/srv/models/x",
            "settings": {"context-length": seconds, **more},
        }
        for seconds, more in ((2001, {"tool-call-parser": "qwen25"}), (2002, {}))
    },
    "gpus": {
        "backend": "vllm",
        "service": "gpus.service",
        "script": f"/usr/bin/python3 {SCRATCH}/environment.py",
        "gpus": ["GPU-22222222-aaaa-bbbb-cccc-000000000002", 0],
        "environment": {
            "BOTH": "model",
            **{f"AWKWARD_{number}": value for number, value in enumerate(AWKWARD)},
        },
    },
    "no-gpus": {"backend": "vllm", "service": "gpus.service", "script": "/bin/sleep 1006"},
    "no-such-gpu": {"backend": "vllm", "service": "plain2.service", "port": 8001, "gpus": [7]},
    **{name: {"backend": "tabby", "service": "tabbyapi.service"} for name in ("EXL2", "EXL3")},
    "shared-a": {
        "backend": "sglang", "service": "shared.service", "script": "/bin/sleep 1002",
    },
    "shared-b": {
        "backend": "sglang", "service": "shared.service", "script": f"{SCRATCH}/b.sh",
    },
}  # fmt: skip


KEY = "the-key-of-the-engine\n"
TABBY = """\
# Mine.
model:
  model_dir: models
  model_name:
  cache_mode: Q8  # it fits like this
"""


class Watch:
    """What the units' listener was told, and a way to wait for it."""

    def __init__(self, units: SystemdUnits) -> None:
        self.told: list[tuple[str, UnitState]] = []
        self._more = asyncio.Event()
        units.subscribe(self._listen)

    def _listen(self, unit: str, state: UnitState) -> None:
        self.told.append((unit, state))
        self._more.set()

    async def until(self, test: Callable[[str, UnitState], bool]) -> UnitState:
        with anyio.fail_after(15):
            while True:
                for unit, state in self.told:
                    if test(unit, state):
                        return state
                self._more.clear()
                await self._more.wait()


@contextlib.asynccontextmanager
async def entered() -> AsyncIterator[tuple[SystemdUnits, dict[str, Model], Watch]]:
    models = load_settings(ETC / "config.yml").models
    units = SystemdUnits(models, SOCKET)
    watch = Watch(units)
    async with units:
        yield units, models, watch


async def refused(call: Awaitable[object]) -> str:
    """The sentence with which a call fails."""
    try:
        await call
    except UnitError as error:
        return str(error)
    raise AssertionError("it was not refused")


async def start_state_stop() -> None:
    async with entered() as (units, models, watch):
        plain = models["plain"]
        assert await units.problem() is None, await units.problem()
        assert (await units.state(plain)) == UnitState("inactive")
        await units.start(plain)
        state = await units.state(plain)
        assert state.active == "active", state
        assert state.main_pid > 1, state
        await units.start(plain)
        assert await units.state(plain) == state, "a second start restarted it"
        await units.stop(plain, 10)
        await units.stop(plain, 10)
        assert await units.state(plain) == UnitState("inactive")
        await watch.until(lambda unit, state: unit == plain.unit and state.active == "active")
        await watch.until(lambda unit, state: unit == plain.unit and state.active == "inactive")


async def arguments_arrive_as_written() -> None:
    async with entered() as (units, models, _):
        model = models["awkward"]
        assert await units.activate(model) is True
        assert await units.activate(model) is False
        await units.start(model)
        path = SCRATCH / "awk-ward.1.json"
        with anyio.fail_after(10):
            while not path.exists() or not path.read_text():
                await anyio.sleep(0.02)
        argv = json.loads(path.read_text())
        await units.stop(model, 10)
        assert argv[:2] == ["--model", "/srv/my models/a.gguf"], argv
        assert argv[-len(AWKWARD) :] == AWKWARD, argv


async def a_unit_that_does_not_exist() -> None:
    async with entered() as (units, models, _):
        model = models["missing"]
        assert await units.state(model) == UnitState("inactive")
        assert await refused(units.start(model)) == (
            "unit missing.service does not exist; is the engine's role installed?"
        )
        await units.stop(model, 5)
        assert await units.log_tail(model) == []


async def a_crash_is_told_at_once() -> None:
    async with entered() as (units, models, watch):
        model = models["crash"]
        began = time.monotonic()
        await units.start(model)
        state = await watch.until(
            lambda unit, state: unit == model.unit and state.active == "failed"
        )
        assert state == UnitState("failed", 0, "exit-code"), state
        assert time.monotonic() - began < 2
        lines = await units.log_tail(model, 20)
        assert "it broke" in lines, lines
        age = time.monotonic() - began
        assert "it broke" in await units.log_tail(model, 20, time.time() - age - 1)
        assert await units.log_tail(model, 20, time.time() + 60) == []


async def a_crash_loop_is_told_at_the_first_exit() -> None:
    async with entered() as (units, models, _):
        looping = models["looping"]
        for _round in range(2):  # the count of the past is not that of the next start
            await units.start(looping)
            assert (await units.state(looping)).exits == 0
            with anyio.fail_after(2):
                while not (state := await units.state(looping)).exits:
                    await anyio.sleep(0.02)
            assert state.exits == 1, state
            assert state.running, state
            if not state.main_pid:  # still waits to be restarted
                assert state.end == "exit-code, status 3", state
            await units.stop(looping, 5)
            assert not (await units.state(looping)).running
        neverup = models["neverup"]
        began = time.monotonic()
        sentence = await refused(units.start(neverup))
        print("   ", sentence)
        assert "exit-code, status 3" in sentence, sentence
        assert time.monotonic() - began < 2
        await units.stop(neverup, 5)
        assert not (await units.state(neverup)).running
        assert "it broke" in await units.log_tail(neverup, 20)


async def a_first_exit_that_is_normal_is_no_crash() -> None:
    async with entered() as (units, models, _):
        for name in ("prepared", "wrapped"):
            await units.start(models[name])
            state = await units.state(models[name])
            assert state.active == "active", state
            assert state.exits == 0, state
            await units.stop(models[name], 5)


async def a_process_that_ignores_sigterm() -> None:
    async with entered() as (units, models, _):
        model = models["stubborn"]
        await units.start(model)
        began = time.monotonic()
        await units.stop(model, 1)
        assert time.monotonic() - began < 3
        assert not (await units.state(model)).running


async def processes_left_behind() -> None:
    async with entered() as (units, models, _):
        model = models["leftover"]
        await units.start(model)
        group = Path("/sys/fs/cgroup/system.slice/leftover.service/cgroup.procs")
        with anyio.fail_after(5):
            while len(group.read_text().split()) < 2:
                await anyio.sleep(0.02)
        pids = frozenset(map(int, group.read_text().split()))
        assert await units.processes_among(model, {*pids, 1, os.getpid()}) == pids
        told = await units.describe_process(min(pids))
        assert told.endswith(", of leftover.service"), told
        await units.stop(model, 5)
        assert not group.exists() or not group.read_text().split()


async def failures_have_a_sentence() -> None:
    async with entered() as (units, models, _):
        assert await refused(units.start(models["notstarting"])) == (
            "starting notstarting.service ended as failed: the unit failed (exit-code, status 1)"
        )
        late = models["neverready"].model_copy(update={"timeout": 1.0})
        assert await refused(units.start(late)) == (
            "unit neverready.service did not start within 1 s"
        )
        await units.stop(late, 5)
        unknown = models["plain"].model_copy(update={"name": "../../x"})
        assert await refused(units.start(unknown)) == "model '../../x' is not in models.yml"


async def a_start_that_nobody_wants_any_more() -> None:
    async with entered() as (units, models, watch):
        model = models["neverready"]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(units.start, model)
            await watch.until(lambda unit, state: unit == model.unit and state.main_pid > 0)
            tasks.cancel_scope.cancel()
        began = time.monotonic()
        await units.stop(model, 5)
        assert time.monotonic() - began < 3
        assert not (await units.state(model)).running


async def a_start_limit_of_the_past() -> None:
    async with entered() as (units, models, _):
        for _ in range(4):
            await units.start(models["limited"])
            await units.stop(models["limited"], 5)


async def command_of(units: SystemdUnits, model: Model) -> str:
    """What the model's unit runs when it is started."""
    await units.start(model)
    pid = (await units.state(model)).main_pid  # Type=exec: it is what it will be
    text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    await units.stop(model, 5)
    return text.strip()


async def models_that_share_a_unit() -> None:
    async with entered() as (units, models, _):
        first, second = models["shared-a"], models["shared-b"]
        assert await units.activate(first) is True
        assert await command_of(units, first) == "/bin/sleep 1002"
        assert await units.activate(second) is True
        assert await command_of(units, second) == f"/bin/sh {SCRATCH}/b.sh"
        assert await units.activate(second) is False


async def models_that_share_a_file() -> None:
    """Each is written over the one before, for an engine that runs as a user of its own."""
    async with entered() as (units, models, _):
        for name in ("yaml-2001", "yaml-2002"):
            assert await units.activate(models[name]) is True
            await units.start(models[name])
            pid = (await units.state(models[name])).main_pid
            wanted = f"sleep {name[5:]}".split()
            with anyio.fail_after(5):
                while Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1] != wanted:
                    await anyio.sleep(0.02)
            await units.stop(models[name], 5)
            assert await units.activate(models[name]) is False


async def a_drop_in_of_the_past_goes() -> None:
    async with entered() as (units, models, _):
        alone = models["alone"]
        assert await command_of(units, alone) == "/bin/sleep 1005"
        assert await units.activate(alone) is True
        assert await command_of(units, alone) == "/bin/sleep 1004"
        assert await units.activate(alone) is False


async def which_programs_run_in_a_unit() -> None:
    """systemd names them to a router that sees no /proc, with the release that it would start."""
    assert not Path("/proc/1").exists(), "the sandbox hides nothing"
    async with entered() as (units, models, _):
        model = models["compiling"]
        assert await units.programs(model) == frozenset()
        assert await units.release(model) == "/opt/standin/1"
        assert await units.release(models["plain"]) == ""
        await units.start(model)
        with anyio.fail_after(10):
            while not is_compiling(await units.programs(model)):
                await anyio.sleep(0.05)
        assert await units.programs(model) == {"sh", "cc1plus"}
        await units.stop(model, 5)
        assert await units.programs(model) == frozenset()


async def whose_an_engines_port_is() -> None:
    """The kernel's tables and systemd's word about accounts reach a router that sees no /proc."""
    assert not Path("/proc/1").exists(), "the sandbox hides nothing"
    async with entered() as (units, models, _):
        model = models["listening"]
        # before its first start: systemd knows the name alone
        account = await units.account(model)
        assert account == pwd.getpwnam("sglang").pw_uid, account
        assert await units.account(models["plain"]) == 0
        guard = PortGuard(units)
        assert await guard.check(model) == frozenset()
        with socket.create_server(("127.0.0.1", 8123)):
            sentence = await refused(guard.check(model))
            assert sentence.startswith("port 8123 is held by a process of the account"), sentence
        await units.start(model)
        with anyio.fail_after(10):
            while not (sockets := await guard.check(model)):
                await anyio.sleep(0.05)
        assert len(sockets) == 1, sockets
        assert await units.account(model) == account
        assert (await PortGuard(units).check(model)) == sockets
        await units.stop(model, 5)


UNPRIVILEGED = [
    start_state_stop,
    arguments_arrive_as_written,
    a_unit_that_does_not_exist,
    a_crash_is_told_at_once,
    a_crash_loop_is_told_at_the_first_exit,
    a_first_exit_that_is_normal_is_no_crash,
    a_process_that_ignores_sigterm,
    processes_left_behind,
    failures_have_a_sentence,
    a_start_that_nobody_wants_any_more,
    a_start_limit_of_the_past,
    models_that_share_a_unit,
    models_that_share_a_file,
    a_drop_in_of_the_past_goes,
]
SANDBOXED = [whose_an_engines_port_is, which_programs_run_in_a_unit]
SANDBOX = [
    line
    for line in Path(__file__)
    .resolve()
    .parents[2]
    .joinpath("roles/llm_router/templates/llm-router.service.j2")
    .read_text(encoding="utf-8")
    .replace("{{ 'all' if __llm_router_nvidia else 'pid' }}", "pid")
    .splitlines()
    if line.startswith(("Proc", "Protect", "Private", "Restrict", "SystemCall", "MemoryDeny"))
    and not line.startswith(("ProtectHome", "PrivateTmp"))
]
"""What the router's unit hides from it, line by line."""


UNLOCK = next(
    line
    for line in Path(__file__)
    .resolve()
    .parents[2]
    .joinpath("roles/engine/templates/engine.service.j2")
    .read_text(encoding="utf-8")
    .splitlines()
    if "TORCH_EXTENSIONS_DIR" in line
)


async def _systemctl(*words: str) -> None:
    await anyio.run_process(["systemctl", *words])


async def _survives(restart: Callable[[], Awaitable[None]]) -> None:
    """Changes are told after, and units can be used as before."""
    async with entered() as (units, models, watch):
        plain = models["plain"]
        await units.start(plain)
        pid = (await units.state(plain)).main_pid
        await restart()
        with anyio.fail_after(15):
            while await units.problem() is not None:
                await anyio.sleep(0.05)
        assert (await units.state(plain)).main_pid == pid
        watch.told.clear()
        os.kill(pid, 9)
        state = await watch.until(
            lambda unit, state: unit == plain.unit and state.active == "failed"
        )
        assert state.result == "signal", state
        await units.start(plain)
        await units.stop(plain, 5)


async def systemd_is_executed_anew() -> None:
    await _survives(lambda: _systemctl("daemon-reexec"))


async def systemd_reads_its_units_anew() -> None:
    await _survives(lambda: _systemctl("daemon-reload"))


async def systemd_is_executed_anew_in_a_call() -> None:
    """It succeeds, or the host is at fault: never the model."""
    async with entered() as (units, models, _):
        late = models["neverready"].model_copy(update={"timeout": 20.0})
        raised: list[Exception] = []

        async def start() -> None:
            try:
                await units.start(late)
            except UnitError as error:
                raised.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(start)
            with anyio.fail_after(5):
                while not (await units.state(late)).main_pid:
                    await anyio.sleep(0.02)
            await _systemctl("daemon-reexec")
            with anyio.fail_after(10):
                while not raised:
                    await anyio.sleep(0.02)
        print("   ", raised[0])
        assert isinstance(raised[0], ManagerUnavailable), raised
        with anyio.fail_after(10):
            while await units.problem() is not None:
                await anyio.sleep(0.05)
        await units.stop(late, 5)
        # calls of all kinds, while it is executed anew again and again
        plain = models["plain"]
        for delay in (0.0, 0.005, 0.01, 0.02, 0.04):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_systemctl, "daemon-reexec")
                await anyio.sleep(delay)
                for call in (units.start(plain), units.stop(plain, 5)):
                    try:
                        await call
                    except ManagerUnavailable as error:
                        print("   ", error)


async def gpus_and_variables_reach_the_process() -> None:
    """By the driver's list in /proc. Values are in a file of root's, and not in what systemd tells
    everybody."""
    client = HelperClient(SOCKET)
    sentence = await refused(client.activate("no-such-gpu"))
    assert sentence == (
        "model no-such-gpu: gpus cannot be used: GPU 7 is not on this host; its GPUs are "
        "0 (GPU-11111111-aaaa-bbbb-cccc-000000000001), 1 (GPU-22222222-aaaa-bbbb-cccc-000000000002)"
    ), sentence
    assert await client.activate("gpus") is True
    assert await client.activate("gpus") is False
    variables = UNITS / "gpus.service.d" / "50-llm-router.env"
    assert (variables.owner(), oct(variables.stat().st_mode)) == ("root", "0o100600")
    dumped = SCRATCH / "environment.json"
    await client.start("gpus", 20)
    with anyio.fail_after(10):
        while not dumped.exists():
            await anyio.sleep(0.02)
    environment = json.loads(dumped.read_text())
    assert environment["CUDA_VISIBLE_DEVICES"] == "1,0", environment
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert (environment["OWN"], environment["BOTH"]) == ("unit", "model")
    for number, value in enumerate(AWKWARD):
        assert environment[f"AWKWARD_{number}"] == value, (value, environment)
    shown = subprocess.run(
        ["systemctl", "show", "gpus.service"], capture_output=True, text=True, check=True
    ).stdout
    assert "AWKWARD" not in shown, shown
    await client.stop("gpus", 5)
    # the unit's other model has none, and none are left for it
    assert await client.activate("no-gpus") is True
    assert not variables.exists()
    await client.start("no-gpus", 20)
    await client.stop("no-gpus", 5)


async def the_bus_is_restarted() -> None:
    await _survives(lambda: _systemctl("restart", "dbus.service"))


async def a_crash_while_the_bus_is_away_is_told_afterwards() -> None:
    async with entered() as (units, models, watch):
        plain = models["plain"]
        await units.start(plain)
        await watch.until(lambda unit, state: unit == plain.unit and state.active == "active")
        pid = (await units.state(plain)).main_pid
        await _systemctl("stop", "dbus.socket", "dbus.service")
        os.kill(pid, 9)
        with anyio.fail_after(10):
            while await units.problem() is None:
                await anyio.sleep(0.05)
        print("   ", await units.problem())
        await _systemctl("start", "dbus.socket")
        await watch.until(lambda unit, state: unit == plain.unit and state.active == "failed")


async def a_reconnection_to_the_bus_is_told() -> None:
    """Whoever compares what runs with its notes does so again then."""
    async with entered() as (units, models, _):
        plain = models["plain"]
        await units.start(plain)
        assert (await units.state(plain)).since > 0
        told = asyncio.Event()
        units.on_connected(told.set)
        await _systemctl("restart", "dbus.service")
        with anyio.fail_after(15):
            await told.wait()
        assert (await units.state(plain)).active == "active"
        await units.stop(plain, 5)


async def the_helper_is_gone() -> None:
    async with entered() as (units, models, _):
        await _systemctl("stop", "llm-router-helper.socket", "llm-router-helper.service")
        problem = await units.problem()
        assert problem is not None
        print("   ", problem)
        assert "systemctl status llm-router-helper.socket" in await refused(
            units.start(models["plain"])
        )
        await _systemctl("start", "llm-router-helper.socket")
        assert await units.problem() is None
        # a helper that is killed while it works is replaced, and the request repeated
        await units.start(models["plain"])
        await _systemctl("kill", "-s", "KILL", "llm-router-helper.service")
        await units.stop(models["plain"], 5)
        assert not (await units.state(models["plain"])).running


async def the_helper_believes_only_root() -> None:
    client = HelperClient(SOCKET)
    models_file = ETC / "models.yml"
    models_file.chmod(0o660)
    sentence = await refused(client.activate("plain"))
    assert "models.yml can be written by others than its owner" in sentence, sentence
    models_file.chmod(0o640)
    ETC.chmod(0o777)
    sentence = await refused(client.activate("plain"))
    assert "/etc/llm-router can be written by others" in sentence, sentence
    ETC.chmod(0o755)
    os.chown(models_file, 1, -1)
    sentence = await refused(client.activate("plain"))
    assert "models.yml belongs to user 1" in sentence, sentence
    os.chown(models_file, 0, -1)
    await client.activate("plain")
    # even where the file's mode would let them: not another user
    Path(SOCKET).chmod(0o666)
    answer = subprocess.run(
        [
            *("setpriv", "--reuid=nobody", "--clear-groups", sys.executable, "-c"),
            ASK,
            *(SOCKET, encode_request(Request("stop", "plain")).decode()),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    Path(SOCKET).chmod(0o600)
    assert "only root and the router's user" in answer, answer


async def the_engines_files_are_the_engines() -> None:
    """SGLang's has its key, for itself alone; TabbyAPI's is its owner's, and all but one line."""
    client = HelperClient(SOCKET)
    await client.activate("yaml-2001")
    sglang = Path("/etc/sglang/sglang.yml")
    assert (sglang.owner(), sglang.group(), oct(sglang.stat().st_mode)) == (
        "root",
        "sglang",
        "0o100640",
    )
    assert f"api-key: {KEY}" in sglang.read_text()
    for user, code in (("sglang", 0), (USER, 1), ("nobody", 1)):
        read = [*("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"), "cat"]
        if user == "nobody":
            read[2] = "--regid=nogroup"
        done = subprocess.run([*read, sglang], capture_output=True, check=False)
        assert done.returncode == code, (user, done)
    await client.activate("yaml-2002")
    assert "qwen25" not in sglang.read_text()
    tabby = Path("/etc/tabbyapi/config.yml")
    for name in ("EXL2", "EXL3"):
        await client.activate(name)
        assert tabby.read_text() == TABBY.replace("model_name:", f"model_name: {name}")
        assert (tabby.owner(), oct(tabby.stat().st_mode)) == ("sglang", "0o100600")
    tabby.write_text(half := TABBY[:-20])
    sentence = await refused(client.activate("EXL2"))
    assert "/etc/tabbyapi/config.yml:5: the last line has no end" in sentence, sentence
    assert tabby.read_text() == half
    tabby.write_text(TABBY)


async def a_lock_of_a_killed_compiler_goes() -> None:
    """By the line of the engines' units; one that a process has open stays."""
    cache = Path("/run/extensions")
    stale, held = cache / "a/lock", cache / "b c/lock"
    for lock in (stale, held):
        lock.parent.mkdir(parents=True)
        lock.touch()
    for path in (cache, *cache.rglob("*")):
        os.chown(path, pwd.getpwnam("sglang").pw_uid, -1)
    unit = UNITS / "locked.service"
    unit.write_text(
        "[Service]\nType=exec\nUser=sglang\nProtectProc=invisible\n"
        f"Environment=TORCH_EXTENSIONS_DIR={cache}\n{UNLOCK}\nExecStart=/bin/sleep 1000\n"
    )
    await _systemctl("daemon-reload")
    account = ("--reuid=sglang", "--regid=sglang", "--clear-groups")
    holding = ["setpriv", *account, "sleep", "1000"]
    with held.open() as file:
        compiler = subprocess.Popen(holding, stdin=file)
    try:
        await _systemctl("start", "locked.service")
        assert not stale.exists(), "it would be waited for without end"
        assert held.exists(), "two processes would compile in one directory"
        compiler.kill()
        compiler.wait()
        await _systemctl("restart", "locked.service")
        assert not held.exists()
    finally:
        compiler.kill()
        await _systemctl("stop", "locked.service")


PRIVILEGED = [
    the_engines_files_are_the_engines,
    systemd_reads_its_units_anew,
    systemd_is_executed_anew,
    systemd_is_executed_anew_in_a_call,
    the_bus_is_restarted,
    a_crash_while_the_bus_is_away_is_told_afterwards,
    a_reconnection_to_the_bus_is_told,
    the_helper_is_gone,
    the_helper_believes_only_root,
    a_lock_of_a_killed_compiler_goes,
    gpus_and_variables_reach_the_process,
]


def prepare() -> None:
    """The user, the files, the units."""
    with contextlib.suppress(FileExistsError):
        SCRATCH.mkdir()
    try:
        pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--system", "--no-create-home", USER], check=True)
    ETC.mkdir(exist_ok=True)
    ETC.chmod(0o755)
    Path("/etc/llamacpp").mkdir(exist_ok=True)
    Path("/etc/llamacpp/awk-ward.1.env").unlink(missing_ok=True)
    (ETC / "config.yml").write_text("schema: 1\n")
    (ETC / "models.yml").write_text(json.dumps({"schema": 1, "models": MODELS}))
    for name in ("config.yml", "models.yml"):
        (ETC / name).chmod(0o640)
        os.chown(ETC / name, 0, pwd.getpwnam(USER).pw_gid)
    try:
        engine = pwd.getpwnam("sglang")
    except KeyError:
        subprocess.run(["useradd", "--system", "--no-create-home", "sglang"], check=True)
        engine = pwd.getpwnam("sglang")
    key, tabby = Path("/etc/sglang/api_key"), Path("/etc/tabbyapi/config.yml")
    for path, text in ((key, KEY), (tabby, TABBY)):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
    os.chown(tabby, engine.pw_uid, -1)
    (SCRATCH / "dump.py").write_text(DUMP)
    (SCRATCH / "environment.py").write_text(DUMP_ENVIRONMENT)
    (SCRATCH / "environment.json").unlink(missing_ok=True)
    pretend_a_driver()
    (SCRATCH / "b.sh").write_text("#!/bin/sh\nsleep 1003\n")
    (SCRATCH / "b.sh").chmod(0o755)
    Path("/opt/standin/1").mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        Path("/opt/standin/current").symlink_to("1")
    for name, text in UNIT_FILES.items():
        (UNITS / name).write_text(text)
    # what is left when a model's `script:` is taken out of models.yml
    drop_in = UNITS / "alone.service.d" / "50-llm-router.conf"
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text("[Service]\nExecStart=\nExecStart=/bin/sleep 1005\n")
    subprocess.run(["systemctl", "stop", "llm-router-helper.service"], check=False)
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    subprocess.run(["systemctl", "restart", "llm-router-helper.socket"], check=True)


def pretend_a_driver() -> None:
    """Two GPUs, as NVIDIA's driver lists them in /proc/driver; the helper's unit has them there."""
    driver = SCRATCH / "driver"
    for number, address in ((2, "0000:65:00.0"), (1, "0000:17:00.0")):
        place = driver / "nvidia/gpus" / address
        place.mkdir(parents=True, exist_ok=True)
        uuid = f"GPU-{str(number) * 8}-aaaa-bbbb-cccc-00000000000{number}"
        (place / "information").write_text(f"Model: \t NVIDIA H200\nGPU UUID: \t {uuid}\n")


def run(checks: list[Callable[[], Coroutine[None, None, None]]]) -> None:
    for check in checks:
        began = time.monotonic()
        asyncio.run(check())
        print(f"ok  {check.__name__} ({time.monotonic() - began:.2f} s)", flush=True)


def as_router(checks: str, *properties: str) -> None:
    """Run the checks of that name as the router's user, with these properties of its unit."""
    held = ("NoNewPrivileges=yes", "CapabilityBoundingSet=", "ProtectSystem=strict", *properties)
    subprocess.run(
        [
            *("systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--uid={USER}"),
            *(f"--property={one}" for one in held),
            *("-E", f"PYTHONPATH={os.environ.get('PYTHONPATH', '')}"),
            *("-E", "PYTHONDONTWRITEBYTECODE=1"),
            *(sys.executable, __file__, checks),
        ],
        check=True,
    )


def main() -> None:
    if sys.argv[1:]:
        assert os.geteuid() != 0
        run({"unprivileged": UNPRIVILEGED, "sandboxed": SANDBOXED}[sys.argv[1]])
        return
    prepare()
    as_router("unprivileged", "RestrictAddressFamilies=AF_UNIX")
    as_router("sandboxed", *SANDBOX)
    run(PRIVILEGED)


if __name__ == "__main__":
    main()
