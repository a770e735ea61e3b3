"""What goes wrong on the host: each fault is what an operator, a package or the kernel does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.client import Outcome, ask
from tests.soak.host.judge import Belief, Placed, World
from tests.soak.host.models import CONTEXT, MODELS, MODELS_FILE, ROUTER_PORT, entry_of
from tests.soak.host.world import Oracle, command, show

HELPER = ("llm-router-helper.socket", "llm-router-helper.service")
BUS = ("dbus.socket", "dbus.service")
UP_WITHIN = 20.0
"""Seconds until a router that was started must answer."""


@dataclass
class Host:
    """What a fault may use: the last look at belief and world, and what models.yml says now."""

    rng: random.Random
    oracle: Oracle = field(default_factory=Oracle)
    belief: Belief | None = None
    world: World | None = None
    contexts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODELS, CONTEXT))
    groups: dict[str, str] = field(
        default_factory=lambda: {name: entry.group for name, entry in MODELS.items()}
    )
    away: list[tuple[float, float]] = field(default_factory=list)
    """When the router was away."""
    asked: list[Outcome] = field(default_factory=list)
    """How requests ended that belong to a fault."""

    @property
    def models(self) -> dict[str, Placed]:
        """As they are configured now."""
        return {
            name: Placed(entry.unit, self.groups[name], self.contexts[name])
            for name, entry in MODELS.items()
        }

    def group(self) -> str:
        """A device group that has a model loaded; any where none has."""
        loaded = self.belief.loaded if self.belief else {}
        names = sorted(name for name, model in loaded.items() if model is not None)
        return self.rng.choice(names or ["one", "two"])

    def loaded(self, group: str | None = None) -> str:
        """The unit of a loaded model. Raises `Unfit` where none is."""
        name = (self.belief.loaded if self.belief else {}).get(group or self.group())
        if name is None:
            raise Unfit("no model is loaded")
        return MODELS[name].unit

    def sleeper(self) -> str:
        """The unit of a model that sleeps. Raises `Unfit` where none does."""
        units = self.world.units.items() if self.world else ()
        asleep = sorted(unit for unit, engine in units if engine.alive and not engine.awake)
        if not asleep:
            raise Unfit("no model sleeps")
        return self.rng.choice(asleep)

    def others(self, group: str) -> list[str]:
        """The units of a group without that of its loaded model, in random order."""
        name = self.belief.loaded.get(group) if self.belief else None
        ours = MODELS[name].unit if name else ""
        units = {entry.unit for entry in MODELS.values() if entry.group == group} - {ours}
        return self.rng.sample(sorted(units), len(units))

    def pid(self, unit: str) -> int:
        """Its main process. Raises `Unfit` where it has none."""
        pid = self.world.units[unit].pid if self.world else 0
        if not pid:
            raise Unfit(f"{unit} has no process")
        return pid


class Unfit(Exception):
    """The fault does not fit what the host is doing now."""


@dataclass(frozen=True)
class Fault:
    """``harmless``: every engine that was awake stays the process it was, and its streams end as
    they should. ``starts``: somebody other than the router starts engines. ``blameless``: no
    model's failures may grow. ``moves``: a model changes its group."""

    name: str
    inject: Callable[[Host], Awaitable[str]]
    harmless: bool = False
    starts: bool = False
    blameless: bool = False
    moves: bool = False


async def systemctl(*words: str) -> None:
    """Raises RuntimeError with what it said. A job of ours that the router cancels is no error."""
    try:
        await command("systemctl", *words)
    except RuntimeError as error:
        if "canceled" not in str(error):
            raise


def kill(pid: int, number: signal.Signals) -> None:
    """A process that ended meanwhile is no trouble."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


async def router_answers() -> None:
    """Wait until it does. Raises RuntimeError at the deadline."""
    until = time.monotonic() + UP_WITHIN
    while time.monotonic() < until:
        try:
            await asyncio.to_thread(fetch, "/health")
        except OSError:
            await asyncio.sleep(0.05)
        else:
            return
    raise RuntimeError(f"the router does not answer {UP_WITHIN:g} s after its start")


def fetch(path: str) -> dict[str, Any]:
    """A JSON answer of the router, whatever its status. Raises OSError where there is none."""
    url = f"http://127.0.0.1:{ROUTER_PORT}{path}"
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:
            body: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            body = json.load(error)
    except ValueError as error:
        raise OSError(f"{path}: {error}") from error
    return body


@contextlib.asynccontextmanager
async def without_router(host: Host, stop: Awaitable[object]) -> AsyncIterator[None]:
    """The router is away while the block runs, and answers again afterwards."""
    began = time.monotonic()
    try:
        await stop
        yield
        await systemctl("start", "llm-router.service")
        await router_answers()
    finally:
        host.away.append((began, time.monotonic()))


async def router_pid() -> int:
    """0 where it has none."""
    return int((await show(["llm-router.service"]))["llm-router.service"]["MainPID"])


# ---- engines


async def engine_restarted(host: Host) -> str:
    unit = host.loaded()
    await systemctl("restart", unit)
    return unit


async def engine_killed(host: Host) -> str:
    unit = host.loaded()
    kill(host.pid(unit), signal.SIGKILL)
    return unit


async def engine_stopped(host: Host) -> str:
    unit = host.loaded()
    await systemctl("stop", unit)
    return unit


async def engine_frozen(host: Host) -> str:
    """For less than ``idle_timeout``, while a client leaves in the middle of its answer."""
    unit = host.loaded()
    pid, name = host.pid(unit), next(n for n in MODELS if MODELS[n].unit == unit)
    with contextlib.suppress(OSError):
        await ask(ROUTER_PORT, name, deadline=0.1, stream=True, switch=False, max_tokens=50)
    seconds = host.rng.uniform(1, 8)
    kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        kill(pid, signal.SIGCONT)
    return f"{unit} for {seconds:.1f} s"


async def connection_dropped(host: Host) -> str:
    """A connection on which nothing has come yet breaks, and the engine is slow to answer.

    For longer than a probe takes at most, and for less than ``idle_timeout``: a stream of the same
    engine goes on afterwards.
    """
    unit = host.loaded()
    pid, name = host.pid(unit), next(n for n in MODELS if MODELS[n].unit == unit)
    whole = asyncio.create_task(ask(ROUTER_PORT, name, deadline=30, switch=False, max_tokens=100))
    await asyncio.sleep(0.3)
    kill(pid, signal.SIGUSR1)
    try:
        await asyncio.sleep(7)
    finally:
        kill(pid, signal.SIGCONT)
    host.asked.append(await whole)
    return f"{unit}: {host.asked[-1].kind} {host.asked[-1].code}"


async def _loading(host: Host) -> tuple[str, list[asyncio.Task[Outcome]]]:
    """A model that begins to load, one who waits for it, and one who may cause no switch."""
    idle = [n for n in MODELS if host.belief and host.belief.states.get(n) == "stopped"]
    if not idle:
        raise Unfit("no model is stopped")
    name = host.rng.choice(idle)
    first = asyncio.create_task(ask(ROUTER_PORT, name, deadline=30))
    until = time.monotonic() + 5
    while time.monotonic() < until:
        status = await asyncio.to_thread(fetch, "/admin/status")
        if any(switch["model"] == name for switch in status["switches"]):
            break
        await asyncio.sleep(0.02)
    passive = asyncio.create_task(ask(ROUTER_PORT, name, deadline=30, switch=False))
    await asyncio.sleep(0.05)
    return name, [first, passive]


async def engine_killed_when_ready(host: Host) -> str:
    """In the last moments of a switch, or just after it."""
    name, asked = await _loading(host)
    until = time.monotonic() + 10
    while not (pid := host.oracle.is_ready(name)) and time.monotonic() < until:
        await asyncio.sleep(0.002)
    await asyncio.sleep(host.rng.uniform(0, 0.05))
    if pid:
        kill(pid, signal.SIGKILL)
    host.asked += await asyncio.gather(*asked)
    return name


async def load_cancelled(host: Host) -> str:
    """By an operator; who may cause no switch waited for it."""
    name, asked = await _loading(host)
    await command(
        *("curl", "-sS", "-d", json.dumps({"group": host.groups[name]})),
        *("-H", "content-type: application/json"),
        f"http://127.0.0.1:{ROUTER_PORT}/admin/cancel",
    )
    host.asked += await asyncio.gather(*asked)
    return name


async def sleeper_killed(host: Host) -> str:
    unit = host.sleeper()
    kill(host.pid(unit), signal.SIGKILL)
    return unit


async def sleeper_restarted(host: Host) -> str:
    unit = host.sleeper()
    await systemctl("restart", unit)
    return unit


async def sleeper_stopped(host: Host) -> str:
    unit = host.sleeper()
    await systemctl("stop", unit)
    return unit


async def started_by_hand(host: Host) -> str:
    unit = host.others(host.group())[0]
    await systemctl("restart", unit)
    return unit


async def two_started_by_hand(host: Host) -> str:
    units = host.others("one")[:2]
    await systemctl("restart", *units)
    return " ".join(units)


# ---- what is between router and engines


async def bus_restarted(host: Host) -> str:
    await systemctl("restart", "dbus.service")
    return "dbus.service"


async def bus_away_engine_killed(host: Host) -> str:
    unit = host.loaded()
    await systemctl("stop", *BUS)
    try:
        kill(host.pid(unit), signal.SIGKILL)
        await asyncio.sleep(1)
    finally:
        await systemctl("start", BUS[0])
    return unit


async def bus_away_engine_restarted(host: Host) -> str:
    unit = host.loaded()
    await systemctl("stop", *BUS)
    try:
        await systemctl("restart", unit)
        await asyncio.sleep(1)
    finally:
        await systemctl("start", BUS[0])
    return unit


async def bus_after_router(host: Host) -> str:
    """The router starts while there is no bus."""
    began = time.monotonic()
    await systemctl("stop", *BUS)
    try:
        await systemctl("restart", "llm-router.service")
        await router_answers()
    finally:
        await systemctl("start", BUS[0])
        host.away.append((began, time.monotonic()))
    return "dbus.socket"


async def daemon_reexec(host: Host) -> str:
    await systemctl("daemon-reexec")
    return ""


async def helper_stopped(host: Host) -> str:
    await systemctl("stop", *HELPER)
    try:
        await asyncio.sleep(host.rng.uniform(1, 3))
    finally:
        await systemctl("start", HELPER[0])
    return HELPER[0]


async def helper_killed(host: Host) -> str:
    await command("systemctl", "kill", "--signal=KILL", HELPER[1], check=False)
    return HELPER[1]


# ---- configuration


def write_models(host: Host) -> None:
    """models.yml as the role leaves it: root's, readable for the router."""
    path = Path(MODELS_FILE)
    before = path.stat()
    entries = {name: entry_of(name, host.contexts[name], host.groups[name]) for name in MODELS}
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"schema": 1, "models": entries}))
    os.chown(new, before.st_uid, before.st_gid)
    new.chmod(before.st_mode & 0o777)
    new.rename(path)


def _change(host: Host) -> str:
    name = (host.belief.loaded if host.belief else {}).get(host.group())
    if name is None:
        raise Unfit("no model is loaded")
    host.contexts[name] = 2 * CONTEXT if host.contexts[name] == CONTEXT else CONTEXT
    write_models(host)
    return f"{name} gets a context of {host.contexts[name]}"


async def config_changed(host: Host) -> str:
    return _change(host)


async def config_changed_without_helper(host: Host) -> str:
    """The changed model's engine cannot be stopped."""
    await systemctl("stop", *HELPER)
    try:
        told = _change(host)
        await asyncio.sleep(3)
    finally:
        await systemctl("start", HELPER[0])
    return told


async def router_away_config_changed(host: Host) -> str:
    async with without_router(host, systemctl("stop", "llm-router.service")):
        return _change(host)


async def model_moved(host: Host) -> str:
    """A loaded or a sleeping model changes its device group."""
    name = host.rng.choice(("alpha", "beta"))
    host.groups[name] = "two"
    write_models(host)
    return f"{name} to group two"


async def disk_full(host: Host) -> str:
    """No file of a shared unit can be written while its other model is asked for."""
    loaded = host.belief.loaded.get("one") if host.belief else None
    name = "gamma" if loaded == "delta" else "delta"
    folder = f"/etc/{MODELS[name].backend}"
    filled = f"""
        set -e
        copy=$(mktemp -d)
        cp -a {folder}/. $copy
        mount -t tmpfs -o size=256k,mode=0755 full {folder}
        cp -a $copy/. {folder}
        rm -r $copy
        ! cat /dev/zero 2>/dev/null >{folder}/filler
    """
    await command("/bin/sh", "-c", filled)
    try:
        outcome = await ask(ROUTER_PORT, name, deadline=30)
    finally:
        await command("umount", "--lazy", folder)
    if outcome.kind == "answered" and loaded in ("gamma", "delta"):
        raise RuntimeError(f"{name} was loaded although {folder} is full")
    host.asked.append(outcome)
    return f"{name}: {outcome.kind} {outcome.code}"


# ---- the router


async def router_restarted(host: Host) -> str:
    began = time.monotonic()
    await systemctl("restart", "llm-router.service")
    await router_answers()
    host.away.append((began, time.monotonic()))
    return ""


async def _killed(host: Host) -> None:
    pid = await router_pid()
    kill(pid, signal.SIGKILL)


async def router_killed(host: Host) -> str:
    async with without_router(host, _killed(host)):
        pass
    return ""


async def router_killed_while_loading(host: Host) -> str:
    """The load of a model that shares its unit goes on without the router."""
    loaded = host.belief.loaded.get("one") if host.belief else None
    name = host.rng.choice([name for name in ("gamma", "delta") if name != loaded])
    request = asyncio.create_task(ask(ROUTER_PORT, name, deadline=30))
    await asyncio.sleep(host.rng.uniform(0.3, 0.9))
    async with without_router(host, _killed(host)):
        pass
    await request
    return name


async def router_away_engine_restarted(host: Host) -> str:
    unit = host.loaded()
    async with without_router(host, systemctl("stop", "llm-router.service")):
        await systemctl("restart", unit)
    return unit


async def router_away_engine_stopped(host: Host) -> str:
    unit = host.loaded()
    async with without_router(host, systemctl("stop", "llm-router.service")):
        await systemctl("stop", unit)
    return unit


async def router_away_two_started(host: Host) -> str:
    """As at a boot for which two units were enabled."""
    units = host.others("one")[:2]
    async with without_router(host, systemctl("stop", "llm-router.service")):
        await systemctl("restart", *units)
    return " ".join(units)


FAULTS = [
    Fault("engine_restarted", engine_restarted, starts=True),
    Fault("config_changed", config_changed),
    Fault("disk_full", disk_full, blameless=True),
    Fault("sleeper_restarted", sleeper_restarted, starts=True),
    Fault("sleeper_killed", sleeper_killed, starts=True),
    Fault("bus_restarted", bus_restarted, harmless=True, blameless=True),
    Fault("daemon_reexec", daemon_reexec, harmless=True, blameless=True),
    Fault("config_changed_without_helper", config_changed_without_helper, blameless=True),
    Fault("helper_stopped", helper_stopped, harmless=True, blameless=True),
    Fault("two_started_by_hand", two_started_by_hand, starts=True),
    Fault("engine_killed", engine_killed, starts=True),
    Fault("bus_after_router", bus_after_router, harmless=True, blameless=True),
    Fault("engine_killed_when_ready", engine_killed_when_ready, starts=True),
    Fault("router_away_two_started", router_away_two_started, starts=True),
    Fault("router_restarted", router_restarted, harmless=True, blameless=True),
    Fault("load_cancelled", load_cancelled),
    Fault("engine_frozen", engine_frozen, harmless=True),
    Fault("started_by_hand", started_by_hand, starts=True),
    Fault("engine_stopped", engine_stopped),
    Fault("connection_dropped", connection_dropped, harmless=True),
    Fault("router_killed_while_loading", router_killed_while_loading),
    Fault("model_moved", model_moved, moves=True),
    Fault("bus_away_engine_restarted", bus_away_engine_restarted, starts=True),
    Fault("router_away_engine_restarted", router_away_engine_restarted, starts=True),
    Fault("router_killed", router_killed, harmless=True, blameless=True),
    Fault("router_away_config_changed", router_away_config_changed),
    Fault("helper_killed", helper_killed, harmless=True, blameless=True),
    Fault("bus_away_engine_killed", bus_away_engine_killed, starts=True),
    Fault("sleeper_stopped", sleeper_stopped),
    Fault("router_away_engine_stopped", router_away_engine_stopped),
]
"""In the first round every other one, from the first, comes while all is quiet: the next switch
hides what those leave behind. A short soak has the first of them."""
