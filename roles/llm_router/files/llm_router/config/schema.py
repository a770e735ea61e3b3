"""What config.yml, models.yml and keys.yml may say.

Every key that was ever valid stays valid; ``schema`` names the version a file was written for.
Times are seconds.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from llm_router.engine_files import DEFAULT_PORTS, KEY_FILES
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


def _json(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise ValueError("has a number that JSON cannot say") from error
    return value


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
Port = Annotated[int, Field(ge=1, le=65535)]
RequestValues = Annotated[dict[str, JsonValue], AfterValidator(_json)]
OptionName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$", max_length=200)]
Options = Annotated[dict[OptionName, JsonValue], AfterValidator(_json)]
OwnPath = Annotated[str, Field(pattern=r"^(GET|POST|PUT|PATCH|DELETE) (/[A-Za-z0-9_.~@:+-]+)+$")]
AbsolutePath = Annotated[str, Field(pattern=r"^/")]
RepoFile = Annotated[str, AfterValidator(_within_repository)]
Label = Annotated[str, Field(min_length=1, max_length=200)]
ModelName = Annotated[str, Field(pattern=rf"^{MODEL_NAME.pattern}$", max_length=200)]


class _Section(BaseModel):
    # strict: "8080" is not a port, and a typo must not be read as something else
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


class Listen(_Section):
    """Where the public API listens."""

    host: str = "127.0.0.1"
    port: Port = 8002
    names: list[HostName] = []
    """Without any key: names beside its own by which a browser may reach it."""


class Status(_Section):
    """What a person who waits is told; ``interval`` is the time between countdown lines."""

    style: Style = "auto"
    interval: Deadline = 10.0


class SchedulerConfig(_Section):
    """Fairness between models: see docs/architecture.md.

    ``fallback`` says who answers a request that may cause no switch when its model is not loaded:
    nobody (409), or the loaded model. ``after_drain_timeout`` says what becomes of answers that
    still run when a switch has waited for them so long: cut off with an error, or waited for.
    """

    max_wait: Seconds = 60.0
    min_residency: Seconds = 0.0
    drain_timeout: Deadline = 600.0
    after_drain_timeout: Literal["cut", "finish"] = "cut"
    max_queue: Count = 20_000
    max_queue_per_model: Count = 20_000
    fallback: Fallback = "none"


class Background(_Section):
    """Requests that no person waits for: they never swap models behind a person's back.

    One is recognised by not being streamed and by its one user message, which matches ``pattern``
    (Open WebUI's titles, tags and follow-ups begin so). It waits up to ``patience`` seconds for
    its model to be loaded for others, since a title is asked for just before the chat it names.
    """

    enabled: bool = True
    pattern: Pattern = r"^### Task:"
    patience: Seconds = 10.0
    fallback: Fallback = "loaded"


class SwitchConfig(_Section):
    """How a switch runs and what happens after one that failed.

    ``sleep_timeout``: how long an engine may take to give up its device without ending; past it,
    it is stopped. ``sleep_memory``: the part of the host's memory, 0 to 1, that the weights of
    sleeping models may take together. ``prewarm``: whether a model's weights are read into the
    page cache while the one before it still has the device.
    """

    timeout: Deadline = 180.0
    stop_timeout: Deadline = 30.0
    sleep_timeout: Deadline = 60.0
    sleep_memory: Part = 0.5
    prewarm: bool = True
    on_failure: Literal["rollback", "stop"] = "rollback"
    max_failures: Annotated[int, Field(ge=1)] = 3


class RequestLimits(_Section):
    """``idle_timeout``: how long an engine may be silent in the middle of an answer;
    ``client_timeout``: how long a client may take nothing of what is sent to it, or send nothing
    of its body; ``header_timeout``: how long the head of a request may take to come;
    ``max_body``: bytes; ``keepalive``: seconds between comments in a stream that waits without
    status lines; ``json_keepalive``: likewise between spaces before an answer that is not
    streamed, 0 for none (with it an error may come with status 200); ``shutdown_notice``: how long
    a router that is stopped says so in its health and goes on serving, before it takes no more;
    ``shutdown_timeout``: how long running answers get after that, and with a notice those who wait
    too."""

    idle_timeout: Deadline = 600.0
    client_timeout: Deadline = 60.0
    header_timeout: Deadline = 20.0
    keepalive: Deadline = 15.0
    json_keepalive: Seconds = 0.0
    max_body: Annotated[int, Field(ge=1024)] = 64 * 1024 * 1024
    shutdown_notice: Seconds = 0.0
    shutdown_timeout: Seconds = 30.0


class Recent(_Section):
    """What is remembered of requests that ended: ``keep`` of them; with ``capture``, what they
    asked too, for whoever may administer to read."""

    keep: Annotated[int, Field(ge=1, le=10_000)] = 200
    capture: bool = False


class EngineFiles(_Section):
    """Directories that activation writes to; ``etc`` has one for each of the other engines."""

    llamacpp: str = "/etc/llamacpp"
    etc: str = "/etc"


class EngineKeys(_Section):
    """Files with the key that the router shows to an engine, one line each. One that is not there
    is no key."""

    sglang: str | None = KEY_FILES["sglang"]
    vllm: str | None = KEY_FILES["vllm"]
    tabby: str | None = KEY_FILES["tabby"]
    llamacpp: str | None = None
    command: str | None = None


class Config(_Section):
    """config.yml."""

    schema_version: Literal[1] = Field(1, alias="schema")
    listen: Listen = Listen()
    allow_open: bool = False
    units: Literal["systemd", "child"] = "systemd"
    models_file: str = "models.yml"
    keys_file: str = "keys.yml"
    state_dir: str = "/var/lib/llm-router"
    admin_socket: str = "/run/llm-router/admin.sock"
    helper_socket: str = "/run/llm-router-helper.sock"
    engine_files: EngineFiles = EngineFiles()
    engine_keys: EngineKeys = EngineKeys()
    models_dir: AbsolutePath = MODELS_DIR
    """Where models with a ``repo`` are downloaded to."""
    llamacpp_binary: str = "llama-server"
    status: Status = Status()
    scheduler: SchedulerConfig = SchedulerConfig()
    background: Background = Background()
    switch: SwitchConfig = SwitchConfig()
    requests: RequestLimits = RequestLimits()
    recent: Recent = Recent()


class RepairSwitches(_Section):
    """Which repairs of an engine's answers are made; None is as its engine needs it. What each
    one is says `engines.base.Repairs`."""

    role: bool | None = None
    done: bool | None = None
    reasoning: bool | None = None
    usage_apart: bool | None = None


class Parameters(_Section):
    """What becomes of the parameters of a request: ``strip`` takes them out, ``defaults`` stand
    where the request says nothing (any more), ``force`` stands whatever it says."""

    defaults: RequestValues = {}
    force: RequestValues = {}
    strip: list[str] = []


class ModelEntry(_Section):
    """One entry of models.yml, as the file says it."""

    backend: Backend
    service: Annotated[str, Field(pattern=rf"^{UNIT_NAME.pattern}$")] | None = None
    script: AbsolutePath | None = None
    model_name: str | None = None
    model_path: AbsolutePath | None = None
    repo: Annotated[str, Field(pattern=rf"^{REPO.pattern}$")] | None = None
    """The repository that its files are downloaded from; see `llm_router.model_files`."""
    revision: Annotated[str, Field(pattern=rf"^{REVISION.pattern}$")] | None = None
    files: list[RepoFile] = []
    """Those of its files that are needed, as names or patterns; all where there are none."""
    command: list[Argument] | None = None
    args: list[Argument] = []
    settings: Options = {}
    """The engine's own options by their own names; see `llm_router.engine_files`."""
    config_file: AbsolutePath | None = None
    """The file that its unit reads, where that is not where its name says."""
    api_key_file: AbsolutePath | None = None
    """The file with its engine's key, where that is not the one of all engines of its kind."""
    port: Port | None = None
    timeout: Deadline | None = None
    status: Style | None = None
    group: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] = "default"
    ttl: Deadline | None = None
    """Seconds without a request after which it is unloaded; None keeps it."""
    residency: ResidencyWish = "auto"
    """What becomes of it when another model needs its device; see `engines.residency`. ``auto``
    is ``sleep`` where its engine was started for it and its weights fit, else ``stop``."""
    preload: bool = False
    """Whether the router loads it when it starts and nothing else of its group is loaded."""
    warm_up: bool = True
    repairs: RepairSwitches | None = None
    aliases: list[ModelName] = []
    """Other names for it."""
    variants: dict[ModelName, Parameters] = {}
    """By name: the same loaded model with other parameters, which come before its own."""
    defaults: RequestValues = {}
    force: RequestValues = {}
    strip: list[str] = []
    context_length: Count | None = None
    """Tokens, for clients that want to know."""
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
        port = self.port or DEFAULT_PORTS[self.backend]
        return f"http://127.0.0.1:{port}"

    @property
    def upstream_name(self) -> str:
        """What its engine calls it. TabbyAPI goes by the folder, whatever it is asked for."""
        if self.backend == "tabby" and self.model_name is None and self.model_path is not None:
            return self.model_path.rstrip("/").rpartition("/")[2]
        return self.model_name or self.name


class ModelsFile(_Section):
    """models.yml."""

    schema_version: Literal[1] = Field(1, alias="schema")
    models: dict[ModelName, ModelEntry]


class ApiKey(_Section):
    """One entry of keys.yml; the key itself is nowhere on the host."""

    name: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: list[Scope] = ["use", "switch"]
    status: Style | None = None
    priority: int = 0
    """Of those who wait for different models, the highest is next; see scheduler/core.py."""
    models: list[str] | None = None
    """The models that it may use; None is all of them."""
    max_requests: Count | None = None
    """How many of its requests may wait or be answered at once; None sets no limit."""


class KeysFile(_Section):
    """keys.yml."""

    keys: list[ApiKey] = []
