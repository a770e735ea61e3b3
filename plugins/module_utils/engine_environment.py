"""What an engine's process is started with: a model's ``environment`` and its GPUs, as variables.

Router, helper and the module ``model_config`` all come here. Pure; standard library only, for the
target's Python (>= 3.9).

A model's ``environment`` reaches everything that its unit runs, the steps that run as root
included (``ExecStartPre=+``). So a variable is refused that makes a program load or run code: of
the dynamic linker and the C library, of shells and interpreters, of modprobe. Refused, too, is
what systemd, the unit or the router decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
GPU = re.compile(
    r"GPU-[0-9a-fA-F]{16}"  # AMD's
    r"|GPU-[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    r"|MIG-[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    r"|MIG-GPU-[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}/[0-9]+/[0-9]+"
)
"""How a GPU or a slice of one is called in place of its number: as `nvidia-smi -L` prints it."""
MAX_GPU = 63
MAX_VALUE = 16384
"""Bytes of one value."""
MAX_VARIABLES = 200
BY_NUMBER = ("sglang", "vllm", "command")
"""Engines that are told GPUs by number. SGLang 0.5.23 with several GPUs, and vLLM before June 2026,
read each part of CUDA_VISIBLE_DEVICES as a whole number, and end at a UUID."""

_RUNS_CODE = "could make a program of the unit run other code, also one that runs as root"
_SYSTEMD = "is set by systemd"
_ROUTER = "is set by the router"
_LEAVE = "leave it out"
_TABLE = (
    (
        "CUDA_VISIBLE_DEVICES HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES NVIDIA_VISIBLE_DEVICES "
        "GPU_DEVICE_ORDINAL",
        "says which GPUs the engine uses",
        "list them as `gpus:`",
    ),
    # the linker, the C library, shells, interpreters, and libraries that load what they name
    (
        "LD_* GCONV_PATH GETCONF_DIR GLIBC_TUNABLES LOCPATH MALLOC_TRACE NLSPATH NIS_PATH "
        "HOSTALIASES LOCALDOMAIN RES_OPTIONS RESOLV_HOST_CONF "
        "BASH_ENV BASHOPTS BASH_FUNC_* CDPATH ENV GLOBIGNORE IFS PROMPT_COMMAND PS4 SHELLOPTS "
        "ZDOTDIR PYTHON* PERL* RUBYLIB RUBYOPT NODE_OPTIONS NODE_PATH JAVA_TOOL_OPTIONS "
        "JDK_JAVA_OPTIONS _JAVA_OPTIONS LUA_PATH LUA_CPATH LUA_INIT TCLLIBPATH GIT_* "
        "MODPROBE_OPTIONS OPENSSL_CONF OPENSSL_ENGINES OPENSSL_MODULES "
        "CUDA_INJECTION64_PATH NVTX_INJECTION64_PATH",
        _RUNS_CODE,
        _LEAVE,
    ),
    (
        "HOME PATH PWD SHELL USER LOGNAME",
        "is set by the unit",
        "leave it out, or change the unit with `systemctl edit`",
    ),
    (
        "MAINPID INVOCATION_ID JOURNAL_STREAM NOTIFY_SOCKET LISTEN_* WATCHDOG_* MONITOR_* "
        "SYSTEMD_* CREDENTIALS_DIRECTORY RUNTIME_DIRECTORY STATE_DIRECTORY CACHE_DIRECTORY "
        "LOGS_DIRECTORY CONFIGURATION_DIRECTORY SERVICE_RESULT EXIT_CODE EXIT_STATUS FDSTORE "
        "MEMORY_PRESSURE_WATCH MEMORY_PRESSURE_WRITE",
        _SYSTEMD,
        _LEAVE,
    ),
    ("LLM_ROUTER_*", _ROUTER, _LEAVE),
    ("LLAMACPP_ARGS", _ROUTER, "write the engine's options as `settings:` or `args:`"),
    (
        "VLLM_API_KEY LLAMA_API_KEY",
        _ROUTER,
        "put the key into a file and name that as `api_key_file:`",
    ),
)
"""Names, or beginnings of names, that no model may set: (names, what is wrong, what to do)."""
_REFUSED: Mapping[str, tuple[str, str]] = {
    name: (what, remedy) for names, what, remedy in _TABLE for name in names.split()
}
_BEGINNINGS = tuple(name[:-1] for name in _REFUSED if name.endswith("*"))
_SECRET = re.compile(r"(?i)key|token|secret|passw|credential|auth|cookie|private|proxy|dsn|url")
MASK = "********"

GpuName = Union[int, str]


@dataclass(frozen=True)
class HostGpu:
    """A GPU of this host. ``index`` counts those of one maker by PCI address, as `nvidia-smi` does;
    ``uuid`` is empty where the driver does not tell it."""

    maker: str
    index: int
    uuid: str
    address: str = ""


class UnknownGpu(Exception):
    """A GPU that is listed is not on this host; the message says what is wrong and what to do."""


def variable_problem(name: str) -> Optional[tuple[str, str]]:
    """Why an engine cannot be given the variable: (what is wrong, what to do); None: it can."""
    if not VARIABLE.fullmatch(name):
        return (
            "is not the name of an environment variable",
            "use letters, digits and _, and begin with a letter",
        )
    for beginning in _BEGINNINGS:
        if name.startswith(beginning):
            return _REFUSED[f"{beginning}*"]
    return _REFUSED.get(name)


def value_problem(value: str) -> Optional[tuple[str, str]]:
    """Why a variable cannot have the value: (what is wrong, what to do). The value is in neither:
    it may be a password."""
    for char in value:
        code = ord(char)
        if (code < 0x20 and char != "\t") or code == 0x7F or 0xD800 <= code <= 0xDFFF:
            return (
                f"has the control character {char!r}, which an environment file cannot carry",
                "write the value in one line",
            )
    if len(value.encode()) > MAX_VALUE:
        return f"is longer than {MAX_VALUE} bytes", "put it into a file and name that"
    return None


def is_secret(name: str) -> bool:
    """Whether a variable's value may be a key or a password, by the variable's name."""
    return _SECRET.search(name) is not None


def entry_without_values(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of models.yml to be shown: its variables' values may be passwords."""
    variables = entry.get("environment")
    if not variables:
        return dict(entry)
    hidden = dict.fromkeys(variables, MASK) if isinstance(variables, Mapping) else MASK
    return {**entry, "environment": hidden}


def gpus_problem(gpus: Sequence[GpuName]) -> Optional[tuple[str, str]]:
    """What is wrong with a list of GPUs as it is written: (what is wrong, what to do)."""
    seen: set[GpuName] = set()
    for gpu in gpus:
        spelled = gpu.lower() if isinstance(gpu, str) else gpu
        if spelled in seen:
            return f"has {gpu} twice", "list each GPU once"
        seen.add(spelled)
    slices = [gpu for gpu in gpus if isinstance(gpu, str) and gpu.startswith("MIG-")]
    if slices and len(gpus) > 1:
        return (
            "has a MIG slice beside another GPU, and CUDA gives a process one slice",
            "list the slice alone, or whole GPUs",
        )
    return None


def resolve(gpus: Sequence[GpuName], host: Sequence[HostGpu]) -> list[HostGpu]:
    """The GPUs of this host that are listed, in the order of the list. Raises `UnknownGpu`.

    A MIG slice is taken as it is: the driver lists it to its own library alone.
    """
    found: list[HostGpu] = []
    makers = list(dict.fromkeys(gpu.maker for gpu in host))
    for wanted in gpus:
        if isinstance(wanted, str) and wanted.startswith("MIG-"):
            found.append(HostGpu("nvidia", -1, wanted))
            continue
        if isinstance(wanted, int):
            # a board's own graphics beside the GPUs that compute is AMD's often enough
            maker = makers[0] if makers else ""
            matches = [gpu for gpu in host if gpu.index == wanted and gpu.maker == maker]
        else:
            matches = [gpu for gpu in host if gpu.uuid.lower() == wanted.lower()]
        if not matches:
            raise UnknownGpu(f"{_named(wanted)} is not on this host; {_known(host)}")
        found.append(matches[0])
    if len({gpu.maker for gpu in found}) > 1:
        raise UnknownGpu("GPUs of two makers are listed; list those of one")
    places = [gpu.address or gpu.uuid for gpu in found]
    twice = next((place for place in places if places.count(place) > 1), None)
    if twice is not None:
        raise UnknownGpu(f"the GPU at {twice} is listed twice, by two names; list it once")
    return found


def visible_devices(gpus: Sequence[HostGpu], backend: str) -> dict[str, str]:
    """The variables by which an engine sees these GPUs and no others."""
    if not gpus:
        return {}
    numbers = ",".join(str(gpu.index) for gpu in gpus)
    if gpus[0].maker == "amd":
        return {"HIP_VISIBLE_DEVICES": numbers}  # HIP knows numbers alone
    by_number = backend in BY_NUMBER and all(gpu.index >= 0 for gpu in gpus)
    if by_number or not all(gpu.uuid for gpu in gpus):
        # without the order, CUDA's number 0 is the fastest GPU
        return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": numbers}
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in gpus)}


def _named(gpu: GpuName) -> str:
    return f"GPU {gpu}" if isinstance(gpu, int) else gpu


def _known(host: Sequence[HostGpu]) -> str:
    if not host:
        return "no driver shows any GPU here: see docs/gpu-host.md"
    listed = [f"{gpu.index} ({gpu.uuid})" if gpu.uuid else str(gpu.index) for gpu in host]
    return f"its GPUs are {', '.join(listed)}"
