"""Reads a host: unit files of engines, what they name, what runs, and folders of models.

Read-only and bounded: in how deep, how many and how large. As an ordinary user it reads what that
user may; what it could not read is in `Survey.unread`, with the reason.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import posixpath
import re
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .commands import Launch, launch_of, script_launch
from .folders import PART, ModelFiles, folder_model, gguf_models
from .gguf import HEAD, read_gguf
from .identity import acting_as
from .keys import KeysDiffer, NotAKey, key_of
from .settings import read_settings
from .units import UnitText, command_line, parse_environment, parse_unit

# The first has precedence.
UNIT_DIRS = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
MODEL_DIRS = (
    "/srv/models",
    "/models",
    "/opt/models",
    "/data/models",
    "/mnt/models",
    "~/models",
    "~/.cache/huggingface/hub",
)
MAX_TEXT = 1 << 18
MAX_UNITS = 2000
MAX_SCRIPTS = 200
MAX_DEPTH = 4
MAX_FOLDERS = 5000
MAX_ENTRIES = 5000
MAX_ANSWER = 1 << 20
ASK_TIMEOUT = 2.0
"""Seconds for the whole answer of an engine."""
MAX_NAME = 500
SYSTEMCTL_TIMEOUT = 10.0
_HINT = re.compile(r"sglang|vllm|tabby|llama|llm|\.sh\b|/(opt|srv|home|root|data)/", re.IGNORECASE)
_LISTEN = "0A"


@dataclass(frozen=True)
class Tabby:
    """What a TabbyAPI's configuration and checkout say."""

    config_file: str = ""
    model_dir: str = ""
    model_name: str = ""
    wants_key: bool = True
    serves_exl2: bool = False
    serves_exl3: bool = True


@dataclass(frozen=True)
class Engine:
    """A service that starts an engine."""

    unit: str
    launch: Launch
    path: str
    exec_from: str
    """The file whose ExecStart counts: ``path``, or a drop-in."""
    runs_script: bool = False
    """Its ExecStart is the script and nothing else."""
    state: str = "unknown"
    """systemd's ActiveState."""
    main_pid: int = 0
    ports: tuple[int, ...] = ()
    """Where its processes listen; empty where that could not be seen."""
    serves: str = ""
    """What the running engine says it serves."""
    refused: bool = False
    """It wants a key before it says anything."""
    scripts: tuple[Launch, ...] = ()
    """Scripts that lie beside the one that it runs, and start the same engine."""
    tabby: Tabby | None = None
    user: str = ""
    """The unit's, by which its files are read."""
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Survey:
    """What was found, and what could not be read: ``unread`` has (path, reason)."""

    engines: tuple[Engine, ...] = ()
    models: tuple[ModelFiles, ...] = ()
    searched: tuple[str, ...] = ()
    unread: tuple[tuple[str, str], ...] = ()


@dataclass
class _Host:
    root: Path
    unread: dict[str, str] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def read(self, name: str, limit: int = MAX_TEXT) -> str | None:
        """A small regular file's text; None, and a note unless it is not there."""
        try:
            with self._open(name) as file:
                data: bytes = file.read(limit + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self.unread[name] = error.strerror or str(error)
            return None
        if len(data) > limit:
            self.unread[name] = f"larger than {limit} bytes"
            return None
        return None if b"\0" in data[:1024] else data.decode(errors="replace")

    def script(self, name: str) -> str | None:
        """A program's text, if it is a script's: engines are started by large programs too."""
        with contextlib.suppress(OSError), self._open(name) as file:
            if name.endswith(".sh") or file.read(2) == b"#!":
                return self.read(name)
        return None

    def head(self, name: str, size: int) -> bytes:
        try:
            with self._open(name) as file:
                data: bytes = file.read(size)
                return data
        except OSError as error:
            self.unread[name] = error.strerror or str(error)
            return b""

    def _open(self, name: str) -> Any:
        # not blocking: a pipe that nobody writes to must not hold the survey up; and to open a
        # device may do something
        if not stat.S_ISREG(self.path(name).stat().st_mode):
            raise OSError(0, "not a regular file")
        descriptor = os.open(self.path(name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(0, "not a regular file")
        return os.fdopen(descriptor, "rb")

    def names(self, directory: str) -> list[str]:
        try:
            found = sorted(item.name for item in self.path(directory).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self.unread[directory] = error.strerror or str(error)
            return []
        if len(found) > MAX_ENTRIES:
            self.unread[directory] = f"only the first {MAX_ENTRIES} entries were looked at"
        return found[:MAX_ENTRIES]

    def json(self, name: str) -> Any:
        text = self.read(name, 1 << 20)
        if text is None:
            return None
        try:
            return json.loads(text)
        except ValueError:
            self.unread[name] = "is not JSON"
            return None


def survey(models_dirs: Sequence[str] = (), root: str = "/", ask: bool = True) -> Survey:
    """What the host has.

    ``models_dirs`` are searched in place of `MODEL_DIRS`; the folders that units name always are.
    ``root`` is another directory than / for a test; ``ask`` False asks neither systemd nor engines.
    """
    host = _Host(Path(root))
    found = _engines(host)
    if ask:
        found = [_with_state(host, engine) for engine in found]
    wanted = [*(models_dirs or MODEL_DIRS), *_named_folders(found)]
    folders = _outermost(host, [str(Path(name).expanduser()) for name in wanted])
    for name in models_dirs:
        if not host.path(str(Path(name).expanduser())).is_dir():
            host.unread[name] = "is not a directory"
    models = [model for folder in folders for model in _models(host, folder)]
    unread = tuple(sorted(host.unread.items()))
    return Survey(tuple(found), tuple(models), tuple(folders), unread)


def engines(root: str = "/") -> list[Engine]:
    """The units that start engines; neither systemd nor the engines are asked."""
    return _engines(_Host(Path(root)))


def started_by(script: str) -> Launch | None:
    """The engine that a start script starts; None where that cannot be read."""
    return script_launch(script, {}, "", _Host(Path("/")).script)


def read_text(path: str) -> str | None:
    """A small file's text; None where it cannot be read."""
    return _Host(Path("/")).read(path)


def read_key_of(engine: Engine, admin: bool = False) -> str:
    """The engine's key (see `key_of`), read as the user of its unit."""
    with acting_as(engine.user, engine.groups):
        return key_of(engine, read_text, admin)


def _engines(host: _Host) -> list[Engine]:
    found: list[Engine] = []
    for unit, path in _unit_files(host):
        files = _texts(host, unit, path)
        if not any(_HINT.search(text) for text in (unit, *(text for _, text in files))):
            continue
        instances = _instances(host, unit) if unit.endswith("@.service") else [unit]
        for name in instances:
            # an instance may have drop-ins of its own
            own = files if name == unit else [*files, *_drop_ins(host, name)]
            engine = _engine(host, name, path, parse_unit(own))
            if engine is not None:
                found.append(engine)
    return found


def _unit_files(host: _Host) -> list[tuple[str, str]]:
    """(unit, path): of each name the one that systemd takes."""
    found: dict[str, str] = {}
    for directory in UNIT_DIRS:
        for name in host.names(directory):
            if name.endswith(".service") and name not in found:
                found[name] = f"{directory}/{name}"
    # a link to another unit is an alias; a link to /dev/null is a masked one
    kept = [(name, path) for name, path in found.items() if not _is_alias(host, name, path)]
    return sorted(kept)[:MAX_UNITS]


def _is_alias(host: _Host, name: str, path: str) -> bool:
    place = host.path(path)
    return place.is_symlink() and posixpath.basename(os.readlink(place)) != name  # noqa: PTH115 (Python 3.8)


def _texts(host: _Host, unit: str, path: str) -> list[tuple[str, str]]:
    text = host.read(path)
    return [*([(path, text)] if text is not None else []), *_drop_ins(host, unit)]


def _drop_ins(host: _Host, unit: str) -> list[tuple[str, str]]:
    """By name, whatever directory they are in; of one name the first directory's."""
    found: dict[str, str] = {}
    for directory in UNIT_DIRS:
        for name in host.names(f"{directory}/{unit}.d"):
            if name.endswith(".conf"):
                found.setdefault(name, f"{directory}/{unit}.d/{name}")
    texts = ((path, host.read(path)) for _, path in sorted(found.items()))
    return [(path, text) for path, text in texts if text is not None]


def _instances(host: _Host, template: str) -> list[str]:
    """Instances that are enabled; those that only run are found by what names them."""
    prefix = template[: -len(".service")]
    found = set()
    for directory in UNIT_DIRS[:2]:
        for name in host.names(directory):
            if name.endswith((".wants", ".requires")):
                found |= {
                    unit
                    for unit in host.names(f"{directory}/{name}")
                    if unit.startswith(prefix) and unit != template
                }
    if host.root == Path("/"):
        listed = _systemctl("list-units", "--all", "--plain", "--no-legend", f"{prefix}*.service")
        found |= {line.split()[0] for line in listed.splitlines() if line.strip()}
    return sorted(found)


def _engine(host: _Host, unit: str, path: str, text: UnitText) -> Engine | None:
    environment = dict(text.environment)
    for name in text.environment_files:
        stem = unit.rpartition(".")[0]
        content = host.read(name.replace("%i", stem.partition("@")[2]).replace("%n", unit))
        environment.update(parse_environment(content or ""))
    argv = command_line(text.exec_start, unit, environment)
    # the unit and its environment are root's; everything that they name is its user's
    with acting_as(text.user, text.groups):
        return _started(host, unit, path, text, argv, environment)


def _started(
    host: _Host,
    unit: str,
    path: str,
    text: UnitText,
    argv: list[str],
    environment: dict[str, str],
) -> Engine | None:
    directory = text.working_directory
    launch = launch_of(argv, environment, directory, host.script)
    if launch is None:
        return None
    tabby = _tabby(host, launch) if launch.backend == "tabby" else None
    launch, name = _configured(host, launch)
    return Engine(
        unit,
        launch if not name else Launch(**{**launch.__dict__, "model": name}),
        path,
        text.exec_from,
        runs_script=argv == [launch.script],
        scripts=tuple(_siblings(host, launch, environment, directory)),
        tabby=tabby,
        user=text.user,
        groups=text.groups,
    )


def _configured(host: _Host, launch: Launch) -> tuple[Launch, str]:
    """With what its ``--config`` file adds to the command line."""
    path = _absolute(launch, launch.config_file or ("config.yml" * (launch.backend == "tabby")))
    settings = read_settings(host.read(path) or "") if path else {}
    if launch.backend == "tabby":
        port, name = settings.get("network.port", ""), ""
        address = settings.get("network.host", "")
    else:
        port = settings.get("port", "")
        name = settings.get("model-path") or settings.get("model", "")
        address = settings.get("host", "")
    changed: dict[str, Any] = {"config_file": path if settings else ""}
    if not launch.port and port.isdigit():
        changed["port"] = int(port)
    if not launch.served_name and settings.get("served-model-name"):
        changed["served_name"] = settings["served-model-name"]
    if settings.get("api-key"):
        changed["wants_key"] = True
    changed["host"] = launch.host or address
    return Launch(**{**launch.__dict__, **changed}), "" if launch.model else name


def _absolute(launch: Launch, path: str) -> str:
    if not path or path.startswith("/"):
        return path
    return posixpath.join(launch.directory, path) if launch.directory else ""


def _tabby(host: _Host, launch: Launch) -> Tabby:
    path = _absolute(launch, launch.config_file or "config.yml")
    settings = read_settings(host.read(path) or "") if path else {}
    backends = host.names(f"{launch.directory}/backends") if launch.directory else []
    folder = settings.get("model.model_dir", "models")
    return Tabby(
        path if settings else "",
        _absolute(launch, folder),
        settings.get("model.model_name", ""),
        settings.get("network.disable_auth", "false").lower() != "true",
        "exllamav2" in backends,
        not backends or "exllamav3" in backends,
    )


def _siblings(
    host: _Host, launch: Launch, environment: dict[str, str], directory: str
) -> Iterator[Launch]:
    if not launch.script:
        return
    folder = posixpath.dirname(launch.script)
    if folder in ("/bin", "/usr/bin", "/usr/local/bin"):
        names = [name for name in host.names(folder) if name.endswith(".sh")]
    else:
        names = host.names(folder)
    for name in names[:MAX_SCRIPTS]:
        path = f"{folder}/{name}"
        if path == launch.script or not os.access(host.path(path), os.X_OK):
            continue
        if not host.path(path).is_file():
            continue
        found = script_launch(path, environment, directory, host.script)
        if found is not None and found.backend == launch.backend:
            yield found


def _with_state(host: _Host, engine: Engine) -> Engine:
    shown = _systemctl("show", "--property=ActiveState,MainPID,ControlGroup", engine.unit)
    said = dict(line.partition("=")[::2] for line in shown.splitlines())
    if not said:
        return engine
    ports: list[int] = []
    if said.get("ActiveState") == "active" and said.get("ControlGroup"):
        ports = _listening(host, said["ControlGroup"])
    serves, refused = "", False
    candidates = ports or ([engine.launch.port] if said.get("ActiveState") == "active" else [])
    for port in candidates:
        serves, refused = _asked(port, engine.launch.backend)
        if refused and ports:  # the port is the unit's own: no stranger gets its key
            with contextlib.suppress(KeysDiffer, NotAKey):
                with acting_as(engine.user, engine.groups):
                    key = key_of(engine, host.read)
                serves, refused = _asked(port, engine.launch.backend, key)
        if serves or refused:
            ports = [port, *(other for other in ports if other != port)]
            break
    return Engine(
        **{
            **engine.__dict__,
            "state": said.get("ActiveState", "unknown"),
            "main_pid": int(said.get("MainPID") or 0),
            "ports": tuple(ports),
            "serves": serves,
            "refused": refused,
        }
    )


def _systemctl(*arguments: str) -> str:
    """What it says; nothing where there is no systemd to ask."""
    try:
        return subprocess.run(
            ["systemctl", "--no-pager", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=SYSTEMCTL_TIMEOUT,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _listening(host: _Host, group: str) -> list[int]:
    """The TCP ports that a control group's processes listen on. Only root sees other users'."""
    try:
        pids = Path(f"/sys/fs/cgroup{group}/cgroup.procs").read_text().split()
    except OSError:
        return []
    inodes = set()
    for pid in pids[:500]:
        try:
            with os.scandir(f"/proc/{pid}/fd") as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        inodes.add(os.readlink(entry.path))  # noqa: PTH115 (Python 3.8)
        except PermissionError:
            host.unread[f"/proc/{pid}/fd"] = "only root sees where an engine listens"
            return []
        except OSError:
            continue
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and f"socket:[{fields[9]}]" in inodes:
                    ports.add(int(fields[1].rpartition(":")[2], 16))
    return sorted(ports)


def _asked(port: int, backend: str, key: str = "") -> tuple[str, bool]:
    """(what it serves, whether it wants a key first)."""
    path = "/v1/model" if backend == "tabby" else "/v1/models"
    if not port:
        return "", False
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ASK_TIMEOUT)
    deadline = None
    try:
        connection.connect()
        # the timeout counts from one byte to the next, and an engine may send one byte at a time
        deadline = threading.Timer(ASK_TIMEOUT, _hang_up, (connection.sock,))
        deadline.daemon = True
        deadline.start()
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        answer = connection.getresponse()
        body = answer.read(MAX_ANSWER)
    except (OSError, http.client.HTTPException):
        return "", False
    finally:
        if deadline is not None:
            deadline.cancel()
        connection.close()
    if answer.status in (401, 403):
        return "", True
    if answer.status != 200:
        return "", False
    try:
        said = json.loads(body)
        name = said["id"] if backend == "tabby" else said["data"][0]["id"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return "", False
    return name if isinstance(name, str) and len(name) <= MAX_NAME else "", False


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _named_folders(engines: Sequence[Engine]) -> Iterator[str]:
    for engine in engines:
        if engine.tabby is not None and engine.tabby.model_dir:
            yield engine.tabby.model_dir
        for launch in (engine.launch, *engine.scripts):
            if launch.model.startswith("/") and not launch.container:
                yield posixpath.dirname(launch.model.rstrip("/"))


def _outermost(host: _Host, wanted: Sequence[str]) -> list[str]:
    """The folders that are there, without those that lie in another of them."""
    real: dict[str, str] = {}
    for name in wanted:
        path = posixpath.normpath(name)
        if path != "/" and host.path(path).is_dir():
            real.setdefault(os.path.realpath(host.path(path)), path)
    return [
        path
        for place, path in real.items()
        if not any(place.startswith(f"{other}/") for other in real)
    ]


def _models(host: _Host, top: str) -> Iterator[ModelFiles]:
    """Breadth first, so that what a bound cuts off is what lies deepest."""
    queue = [(top, 0)]
    seen: set[str] = set()
    while queue:
        folder, depth = queue.pop(0)
        place = os.path.realpath(host.path(folder))
        if place in seen:
            continue
        seen.add(place)
        if len(seen) > MAX_FOLDERS:
            host.unread[top] = f"only the first {MAX_FOLDERS} folders in it were looked at"
            return
        sizes, folders = _entries(host, folder)
        yield from _folder_models(host, folder, sizes)
        hidden = (".", "blobs", "refs", "__pycache__", "node_modules", "venv")
        if depth < MAX_DEPTH:
            queue += [
                (f"{folder}/{name}", depth + 1) for name in folders if not name.startswith(hidden)
            ]


def _entries(host: _Host, folder: str) -> tuple[dict[str, int], list[str]]:
    """Files with their bytes, links followed; and folders."""
    sizes: dict[str, int] = {}
    folders: list[str] = []
    for name in host.names(folder):
        try:
            status = host.path(f"{folder}/{name}").stat()
        except OSError:
            continue  # a link that leads nowhere
        if stat.S_ISDIR(status.st_mode):
            folders.append(name)
        elif stat.S_ISREG(status.st_mode):
            sizes[name] = status.st_size
    return sizes, folders


def _folder_models(host: _Host, folder: str, sizes: dict[str, int]) -> Iterator[ModelFiles]:
    heads = {}
    for name in sizes:
        part = PART.fullmatch(name)
        if name.endswith(".gguf") and not (part and int(part["number"]) != 1):
            head = read_gguf(host.head(f"{folder}/{name}", HEAD))
            if head is not None:
                heads[name] = head
    yield from gguf_models(folder, sizes, heads)
    if "config.json" in sizes:
        beside = next(
            (name for name in ("quantize_config.json", "quant_config.json") if name in sizes), ""
        )
        config = host.json(f"{folder}/config.json")
        quantization = host.json(f"{folder}/{beside}") if beside else None
        model = folder_model(folder, sizes, config, quantization)
        if model is not None:
            yield model
