"""What config.yml, models.yml and keys.yml may say.

Every key that was ever valid stays valid; ``schema`` names the version a file was written for.
Times are seconds. The text below a field is its description in docs/reference (`make docs`).
"""

from __future__ import annotations

import ipaddress
import json
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainValidator,
)

from llm_router.engine_environment import GPU, MAX_GPU, MAX_VARIABLES, gpus_problem
from llm_router.engine_files import DEFAULT_PORTS, KEY_FILES
from llm_router.logs.lines import LogFormat
from llm_router.model_files import MODELS_DIR, REPO, REVISION

Backend = Literal["sglang", "vllm", "tabby", "llamacpp", "command"]
StatusStyle = Literal["auto", "content", "event", "reasoning", "off"]
ResidencyWish = Literal["auto", "stop", "sleep", "discard", "unload"]
Scope = Literal["use", "switch", "admin"]

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+@-]*")
UNIT_NAME = re.compile(r"[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\@-]+)?\.service")


def _argument(value: Any) -> Any:
    """``args: [--ctx-size, 4096]`` is what people write; an argument is text all the same."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return value


def _off(value: Any) -> Any:
    """YAML 1.1 (Ansible's) reads ``off`` as false."""
    return "off" if value is False else value


def _seconds(value: Any) -> Any:
    """A whole number is a time like any other; strict mode would take fractions alone."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _compiles(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    return value


def _reachable(value: str) -> str:
    """Clients and proxies resolve such parts of a path before they send it."""
    if any(part in ("", ".", "..") for part in value.split("/")):
        raise ValueError(
            f"{value!r} cannot be part of a URL: nothing, '.' or '..' stands beside a '/'"
        )
    return value


def _address(value: str) -> str:
    """An IP address in its short form; ``[::1]`` is what URLs say."""
    bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return value


def _json(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise ValueError("has a number that JSON cannot say") from error
    return value


def _gpu(value: Any) -> int | str:
    """A GPU as `nvidia-smi` numbers or names it."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_GPU:
        return value
    if isinstance(value, str) and GPU.fullmatch(value):
        return value
    raise ValueError(
        f"is not a GPU: use its number (0 to {MAX_GPU}), or its UUID as `nvidia-smi -L` shows it "
        "(GPU-… or MIG-…)"
    )


def _listed_once(value: list[int | str]) -> list[int | str]:
    problem = gpus_problem(value)
    if problem is not None:
        raise ValueError("; ".join(problem))
    return value


def _nothing(value: Any) -> bool:
    """A key that is not set is not written either: what is kept of a model stays as it was."""
    return not value


def _within_repository(value: str) -> str:
    if not value or value.startswith("/") or ".." in value.split("/") or not value.isprintable():
        raise ValueError("is no path or pattern of a file in a repository")
    return value


Argument = Annotated[str, BeforeValidator(_argument)]
Style = Annotated[StatusStyle, BeforeValidator(_off)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0, allow_inf_nan=False)]
Deadline = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]
Part = Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Fallback = Literal["none", "loaded"]
Pattern = Annotated[str, AfterValidator(_compiles)]
HostName = Annotated[str, Field(pattern=r"^[a-z0-9.-]+$")]
Origin = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://[a-z0-9._:\[\]-]+$", max_length=300)]
Port = Annotated[int, Field(ge=1, le=65535)]
RequestValues = Annotated[dict[str, JsonValue], AfterValidator(_json)]
OptionName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$", max_length=200)]
Options = Annotated[dict[OptionName, JsonValue], AfterValidator(_json)]
OwnPath = Annotated[str, Field(pattern=r"^(GET|POST|PUT|PATCH|DELETE) (/[A-Za-z0-9_.~@:+-]+)+$")]
Gpu = Annotated[int | str, PlainValidator(_gpu, json_schema_input_type=int | str)]
Gpus = Annotated[list[Gpu], AfterValidator(_listed_once)]
Variables = Annotated[dict[str, Argument], Field(max_length=MAX_VARIABLES)]
GroupName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
AbsolutePath = Annotated[str, Field(pattern=r"^/")]
RepoFile = Annotated[str, AfterValidator(_within_repository)]
Label = Annotated[str, Field(min_length=1, max_length=200)]
ModelName = Annotated[
    str,
    Field(pattern=rf"^{MODEL_NAME.pattern}$", max_length=200),
    AfterValidator(_reachable),
]


class _Section(BaseModel):
    # strict: "8080" is not a port, and a typo must not be read as something else
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


class Listen(_Section):
    """Where the public API listens."""

    host: Annotated[str, AfterValidator(_address)] = "127.0.0.1"
    """The address. Another one than loopback needs keys, or ``allow_open``."""
    port: Port = 8002
    """The port."""
    names: list[HostName] = []
    """Without any key: names beside its own by which a browser may reach it."""
    origins: list[Origin] = []
    """Origins, such as ``https://app.example.org``, whose web pages may call the API from a browser
    (CORS)."""


class Status(_Section):
    """What a person who waits is told."""

    style: Style = "auto"
    """Where status and tok/s go; see the README. ``auto`` is ``event``. A key's, a model's and a
    request's own come first."""
    interval: Deadline = 10.0
    """Seconds between the lines of the countdown."""
    usage_rate: bool = True
    """Whether ``usage`` of a chat's answer has the router's ``tokens_per_second`` and
    ``switch_seconds``."""


class SchedulerConfig(_Section):
    """Fairness between models: see docs/architecture.md."""

    max_wait: Seconds = 60.0
    """Seconds that somebody waits; then newer requests for the loaded model are kept back."""
    min_residency: Seconds = 0.0
    """Seconds that a model stays loaded at least, once it is."""
    drain_timeout: Deadline = 600.0
    """Seconds that a switch waits for running answers to end."""
    after_drain_timeout: Literal["cut", "finish"] = "cut"
    """What becomes of answers that still run then: cut off with an error, or waited for."""
    max_queue: Count = 20_000
    """How many requests may wait; who comes then is told to come back (429)."""
    max_queue_per_model: Count = 20_000
    """How many of them for the same model."""
    fallback: Fallback = "none"
    """Who answers a request that may cause no switch when its model is not loaded: nobody (409),
    or the loaded model."""


class Background(_Section):
    """Requests that no person waits for: they never swap models behind a person's back.

    One is recognised by not being streamed and by its one user message.
    """

    enabled: bool = True
    """Whether they are looked for."""
    pattern: Pattern = r"^### Task:"
    """What that message matches: Open WebUI's titles, tags and follow-ups begin so."""
    patience: Seconds = 10.0
    """Seconds that one waits for its model to be loaded for others, since a title is asked for just
    before the chat that it names."""
    fallback: Fallback = "loaded"
    """As in ``scheduler``, for them."""


class SwitchConfig(_Section):
    """How a switch runs and what happens after one that failed."""

    timeout: Deadline = 180.0
    """Seconds from an engine's start to its first token, for models that set none; a load whose
    engine says how far it has got may take longer."""
    stall_timeout: Deadline = 120.0
    """Seconds that may pass in such a load without anything new."""
    max_timeout: Deadline = 1800.0
    """Seconds after which such a load is ended, whatever it says."""
    first_timeout: Deadline = 3600.0
    """Seconds after which the first load of a model by a release of its engine is ended while
    kernels are compiled; no less than ``max_timeout``."""
    memory_timeout: Deadline = 30.0
    """Seconds that the memory of a GPU may take to come back after an engine went."""
    stop_timeout: Deadline = 30.0
    """Seconds that an engine has to end by itself; then it is killed."""
    sleep_timeout: Deadline = 60.0
    """Seconds that an engine may take to give up its device without ending; then it is stopped."""
    sleep_memory: Part = 0.5
    """The part of the host's memory, 0 to 1, that the weights of sleeping models may take
    together."""
    prewarm: bool = True
    """Whether a model's weights are read into the page cache while the one before it still has the
    device."""
    on_failure: Literal["rollback", "stop"] = "rollback"
    """After a switch that failed: the former model comes back, or nothing is loaded."""
    max_failures: Annotated[int, Field(ge=1)] = 3
    """Switches to a model that may fail in a row; then it is refused until `llm-router clear`."""


class RequestLimits(_Section):
    """How long each side of a request may take, and how much it may send."""

    idle_timeout: Deadline = 600.0
    """Seconds for which an engine may be silent in the middle of an answer."""
    client_timeout: Deadline = 60.0
    """Seconds for which a client may take nothing of what is sent to it, or send nothing of its
    body."""
    header_timeout: Deadline = 20.0
    """Seconds that the head of a request may take to come."""
    body_timeout: Deadline = 300.0
    """Seconds that the whole body of a request may take to come."""
    keepalive: Deadline = 15.0
    """Seconds between comments in a stream that waits without status lines."""
    json_keepalive: Seconds = 0.0
    """Seconds between spaces before an answer that is not streamed, 0 for none. With it an error
    may come with status 200."""
    max_body: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    """Bytes that a request may have. A JSON body may also have 1,000,000 values at most."""
    max_bodies: Annotated[int, Field(ge=1024)] = 512 * 1024 * 1024
    """Bytes that the bodies of all requests under way may have together; a request beyond that gets
    503. With several keys, one of them may have half of it."""
    max_answer: Annotated[int, Field(ge=1024)] = 256 * 1024 * 1024
    """Bytes that an answer with text may have where it is not streamed; a larger one is a 502.
    Twice as many are held at the same time. Streams, and answers that are passed on as they come,
    have no such limit."""
    max_connections: Annotated[int, Field(ge=1)] = 30_000
    """Connections of clients at the same time; one beyond that gets 503, or its answer from
    /health. Half of the open files that the process may have are a bound too."""
    default_model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Which model answers a request that names none: ``loaded``, which is the one that is loaded or
    being loaded, or a name. Without it, such a request gets 400."""
    shutdown_notice: Seconds = 0.0
    """Seconds for which a router that is stopped says so in its health and goes on serving, before
    it takes no more."""
    shutdown_timeout: Seconds = 30.0
    """Seconds that running answers get after that, and with a notice those who wait too."""


class Recent(_Section):
    """What is remembered, in memory, of requests that ended."""

    keep: Annotated[int, Field(ge=1, le=10_000)] = 200
    """How many of them."""
    capture: bool = False
    """Whether what they asked is kept too, for whoever may administer to read."""


class Log(_Section):
    """A line for each request and each step of a switch: see docs/logs.md."""

    format: LogFormat = "logfmt"
    """`key=value`, or a JSON object in each line."""


class EngineFiles(_Section):
    """Directories that activation writes to."""

    llamacpp: str = "/etc/llamacpp"
    """llama.cpp's."""
    etc: str = "/etc"
    """Has one for each of the other engines."""


class EngineKeys(_Section):
    """Files with the key that the router shows to an engine, one line each. One that is not there
    is no key."""

    sglang: str | None = KEY_FILES["sglang"]
    """SGLang's."""
    vllm: str | None = KEY_FILES["vllm"]
    """vLLM's."""
    tabby: str | None = KEY_FILES["tabby"]
    """TabbyAPI's."""
    llamacpp: str | None = None
    """llama.cpp's."""
    command: str | None = None
    """That of models with a `command`."""


class Group(_Section):
    """A device group, by the GPUs that it has."""

    gpus: Gpus = []
    """The GPUs that its models use, for those that list none themselves."""


def _apart(value: dict[str, Group]) -> dict[str, Group]:
    owners: dict[int | str, str] = {}
    for name, group in value.items():
        for gpu in group.gpus:
            if owners.setdefault(gpu, name) != name:
                raise ValueError(f"has GPU {gpu} in {owners[gpu]} and in {name}")
    return value


class Config(_Section):
    """config.yml."""

    schema_version: Literal[1] = Field(1, alias="schema")
    """The version of this file's form."""
    listen: Listen = Listen()
    allow_open: bool = False
    """Whether an address other than loopback without any key is meant."""
    units: Literal["systemd", "child"] = "systemd"
    """What runs the engines: systemd, or the router itself, as child processes."""
    models_file: str = "models.yml"
    """Where the models are; relative to this file."""
    keys_file: str = "keys.yml"
    """Where the keys are; relative to this file. It may be missing."""
    state_dir: str = "/var/lib/llm-router"
    """What the router remembers: what it has started, how long steps take."""
    admin_socket: str = "/run/llm-router/admin.sock"
    """The API on a Unix socket; whoever can open it may administer."""
    helper_socket: str = "/run/llm-router-helper.sock"
    """Where the root helper listens, with ``units: systemd``."""
    engine_files: EngineFiles = EngineFiles()
    engine_keys: EngineKeys = EngineKeys()
    models_dir: AbsolutePath = MODELS_DIR
    """Where models with a ``repo`` are downloaded to."""
    groups: Annotated[dict[GroupName, Group], AfterValidator(_apart)] = {}
    """By name: the GPUs of a device group, as ``{gpus: [0, 1]}``, for those of its models that list
    none themselves. A group that is not here is that of all GPUs. See docs/gpu-host.md."""
    llamacpp_binary: str = "llama-server"
    """What child units run for llama.cpp; ``embedded`` is PyPI's xllamacpp."""
    status: Status = Status()
    scheduler: SchedulerConfig = SchedulerConfig()
    background: Background = Background()
    switch: SwitchConfig = SwitchConfig()
    requests: RequestLimits = RequestLimits()
    recent: Recent = Recent()
    log: Log = Log()


class RepairSwitches(_Section):
    """Which repairs of an engine's answers are made; without a word, those that its engine needs.
    What each one is says `engines.base.Repairs`."""

    role: bool | None = None
    """A choice's first delta that names no role gets one."""
    done: bool | None = None
    """A stream that ended without `[DONE]` gets it; half an event is dropped."""
    reasoning: bool | None = None
    """Reasoning comes as `reasoning` and as `reasoning_content`."""
    usage_apart: bool | None = None
    """Usage that stands beside the last choice comes in a chunk of its own."""


class Parameters(_Section):
    """What becomes of the parameters of a request."""

    defaults: RequestValues = {}
    """They stand where the request says nothing (any more)."""
    force: RequestValues = {}
    """They stand whatever it says."""
    strip: list[str] = []
    """They are taken out."""


class ModelEntry(_Section):
    """One entry of models.yml, as the file says it."""

    backend: Backend
    """The engine; ``command`` is any program that speaks OpenAI's API."""
    service: Annotated[str, Field(pattern=rf"^{UNIT_NAME.pattern}$")] | None = None
    """The systemd unit that runs it; needed with ``units: systemd``. Models may share one."""
    script: AbsolutePath | None = None
    """Of an adopted unit: what its ExecStart becomes."""
    model_name: str | None = None
    """What its engine calls it, where that is not its name here. An engine that is started by a
    ``script``, or whose unit is taken as it is, may list any single name: without this, that name
    is taken and remembered."""
    model_path: AbsolutePath | None = None
    """The GGUF file, or the model's folder. llama.cpp needs it, or ``repo``; SGLang's and vLLM's
    units are taken as they are without it."""
    repo: Annotated[str, Field(pattern=rf"^{REPO.pattern}$")] | None = None
    """``ORG/NAME`` that its files are downloaded from; ``model_path`` follows."""
    revision: Annotated[str, Field(pattern=rf"^{REVISION.pattern}$")] | None = None
    """A branch, a tag or a commit of ``repo``; without it, the default branch."""
    files: list[RepoFile] = []
    """Those of its files that are needed, as names or patterns; all where there are none. With
    llama.cpp the first is the one to load."""
    command: list[Argument] | None = None
    """The program and its arguments, with ``units: child``."""
    args: list[Argument] = []
    """More arguments for the engine. A number is text here too."""
    settings: Options = {}
    """The engine's own options by their own names; see docs/architecture.md."""
    config_file: AbsolutePath | None = None
    """The file that its unit reads, where that is not where its name says."""
    api_key_file: AbsolutePath | None = None
    """The file with its engine's key, where that is not the one of all engines of its kind."""
    port: Port | None = None
    """Where its engine listens on loopback; without it, the engine's usual port."""
    timeout: Deadline | None = None
    """Seconds from its engine's start to the first token; without it, ``switch.timeout``."""
    status: Style | None = None
    """The status style of requests for it."""
    group: GroupName = "default"
    """Its device group: the models of one take turns, those of two run side by side."""
    gpus: Annotated[Gpus, Field(exclude_if=_nothing)] = []
    """The GPUs that its engine sees: numbers as ``nvidia-smi`` shows them, or UUIDs (``GPU-…``; one
    ``MIG-…`` for a slice). Without it, those of its ``group`` in config.yml; else all. See
    docs/gpu-host.md."""
    environment: Annotated[Variables, Field(exclude_if=_nothing, repr=False)] = {}
    """By name: variables that its engine is started with. They come after those of its unit. No
    value is shown in a log or a diff."""
    ttl: Deadline | None = None
    """Seconds without a request after which it is unloaded; without it, never."""
    residency: ResidencyWish = "auto"
    """What becomes of it when another model needs its device; see docs/switching.md. ``auto``
    is ``sleep`` where its engine was started for it and its weights fit, else ``stop``."""
    preload: bool = False
    """Whether the router loads it when it starts and nothing else of its group is loaded."""
    warm_up: bool = True
    """Whether it must generate a token before it counts as loaded."""
    repairs: RepairSwitches | None = None
    aliases: list[ModelName] = []
    """Other names for it."""
    variants: dict[ModelName, Parameters] = {}
    """By name: the same loaded model with other parameters, which come before its own."""
    defaults: RequestValues = {}
    """Parameters that stand where a request says nothing."""
    force: RequestValues = {}
    """Parameters that stand whatever it says."""
    strip: list[str] = []
    """Parameters that are taken out."""
    context_length: Count | None = None
    """Tokens, shown in ``/v1/models``; without it, what the engine says."""
    display_name: Label | None = None
    """What clients may show in place of its name."""
    description: Annotated[str, Field(min_length=1, max_length=2000)] | None = None
    """What it is good for, likewise."""
    tags: list[Label] = []
    """By which clients may sort their models."""
    upstream_paths: list[OwnPath] = []
    """``METHOD /path`` of its engine, which may be reached beside those that are known."""

    @property
    def parameters(self) -> Parameters:
        """What becomes of every request for it."""
        return Parameters(defaults=self.defaults, force=self.force, strip=self.strip)


class Model(ModelEntry):
    """A model: its entry, and the name that clients use."""

    name: str

    @property
    def unit(self) -> str:
        """The unit that runs it. Models that name the same unit share it."""
        return self.service or f"child:{self.name}"

    @property
    def base_url(self) -> str:
        """Where its engine listens; always loopback."""
        return f"http://127.0.0.1:{self.listens_on}"

    @property
    def listens_on(self) -> int:
        """The port of its engine."""
        return self.port or DEFAULT_PORTS[self.backend]

    @property
    def takes_its_name(self) -> bool:
        """Whether nothing here says what its engine calls it: its script does, or a unit that is
        taken as it is. Then it is the single name that the engine lists; see `Learned`."""
        if self.service is None or self.command is not None or self.model_name is not None:
            return False
        return self.script is not None or (self.model_path is None and self.backend != "tabby")

    @property
    def upstream_name(self) -> str:
        """What its engine calls it. TabbyAPI goes by the folder, whatever it is asked for."""
        if self.backend == "tabby" and self.model_name is None and self.model_path is not None:
            return self.model_path.rstrip("/").rpartition("/")[2]
        return self.model_name or self.name


class ModelsFile(_Section):
    """models.yml."""

    schema_version: Literal[1] = Field(1, alias="schema")
    """The version of this file's form."""
    models: dict[ModelName, ModelEntry]
    """Each model's entry, by the name that clients use."""


class ApiKey(_Section):
    """One entry of keys.yml; the key itself is nowhere on the host."""

    name: str
    """What it is called in logs and metrics."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """The key's SHA-256, in hexadecimal."""
    scopes: list[Scope] = ["use", "switch"]
    """What it allows: to use a loaded model, to have another one loaded, to administer."""
    status: Style | None = None
    """The status style for whoever comes with it."""
    priority: int = 0
    """Of those who wait for different models, the highest is next."""
    models: list[str] | None = None
    """The models that it may use; without it, all."""
    max_requests: Count | None = None
    """How many of its requests may wait or be answered at once; without it, any number."""


class KeysFile(_Section):
    """keys.yml."""

    keys: list[ApiKey] = []
    """Who may come; empty means everybody."""
