"""Every setting is a row: kind, meaning, default, example. Files, variables, docs and checks are derived from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, TypeAlias

from exo_rkllm.schema import toml
from exo_rkllm.schema.quantities import Bytes, Seconds, written
from exo_rkllm.schema.specs import FieldSpec, Free, List, ObjectSpec, Switch, Text, Whole
from exo_rkllm.schema.tables import object_of, row

Placement: TypeAlias = Literal["own", "dashboard"]
ErrorForm: TypeAlias = Literal["answer", "error"]
SamplingPolicy: TypeAlias = Literal["ignore", "reload", "refuse"]
TEXT, TEXTS, PORT = Text(), List(Text()), Whole(0, 65535)
AUTO = "auto"  # the namespace of the one cluster that is discovered


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """The OpenAI, Ollama and Anthropic APIs and the status page: address, keys and limits."""

    listen: str = row(
        TEXT,
        "Address that the API listens on. Beyond loopback, `keys` or `allow_anonymous` is required.",
        "127.0.0.1",
        "0.0.0.0",  # noqa: S104 - an example of what needs keys
    )
    port: int = row(PORT, "Port of the API. The default is exo's own, so that exo's clients find it.", 52415, 11434)
    keys: str = row(
        TEXT,
        "File with one API key per line. `control` after a key also allows pulling, loading, unloading and deleting. "
        "Empty: the systemd credential `api-keys`, if there is one.",
        "",
        "/etc/exo-rkllm/api-keys",
    )
    allow_anonymous: bool = row(
        Switch(), "Serve the network without keys: everyone who can reach the port may ask.", False, True
    )
    loopback_open: bool = row(
        Switch(), "Let programs on this machine ask without a key although there are keys.", False, True
    )
    hosts: tuple[str, ...] = row(
        TEXTS,
        "Host names, besides localhost, that clients may use where no key is needed: on loopback, and with "
        "`allow_anonymous`.",
        (),
        ("rock5.local",),
    )
    origins: tuple[str, ...] = row(
        TEXTS,
        "Web origins whose pages may call the API, besides those of loopback, apps (`app://`, `tauri://`, "
        "`vscode-webview://`) and browser extensions; `*` allows any.",
        (),
        ("https://chat.example.org",),
    )
    body_bytes: int = row(
        Bytes(1), "Maximum size of a request, including the images of a conversation.", 8_000_000, 32_000_000
    )
    fetch_images: bool = row(
        Switch(),
        "Fetch images that a request names by an http or https address. Addresses of private networks and of the "
        "board's own are refused, also after redirects; the images of a request count as part of `body_bytes`.",
        False,
        True,
    )
    body_seconds: float = row(Seconds(1), "Time a client has to send its request.", 30.0, 60.0)
    idle_seconds: float = row(
        Seconds(1), "How long a client may stop reading its answer before it is disconnected.", 60.0, 30.0
    )
    strict: bool = row(
        Switch(),
        "Refuse requests that set what has no effect on the answer: sampling settings that the model's engine does not "
        "support, tools that the model cannot call, thinking of a model that does not think, a `keep_alive` that the "
        "client may not set. Otherwise these are ignored and listed in the response's `X-Ignored-Fields`.",
        False,
        True,
    )


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The models, and how long they stay loaded."""

    directory: str = row(
        TEXT,
        "Folder with one folder per model. Empty: the service's own state folder, or `exo-rkllm/models` in the "
        "user's data folder.",
        "",
        "/mnt/nvme/models",
    )
    engine: str = row(
        TEXT,
        "Engine for every model, regardless of its card. Empty: the card's, or the one for the file's suffix.",
        "",
        "dummy",
    )
    preload: tuple[str, ...] = row(TEXTS, "Models to load at start and keep loaded.", (), ("qwen3-1.7b",))
    keep_alive: float = row(
        Seconds(), "How long an idle model stays loaded; 0 unloads it at once, a negative value never.", 300.0, 3600.0
    )
    max_loaded: int = row(Whole(0), "Maximum number of models loaded at the same time; 0 means as many as fit.", 0, 2)
    reserve_memory: int = row(
        Bytes(), "Memory that loading a model must leave free for the rest of the system.", 256 << 20, 1 << 30
    )


@dataclass(frozen=True, slots=True)
class DispatchSettings:
    """The queue, its limits, and what may run in parallel."""

    queue: int = row(
        Whole(1), "Maximum number of requests waiting for one model; more are refused with Retry-After.", 128, 32
    )
    queue_per_client: int = row(Whole(1), "How many of these may come from one client.", 32, 4)
    queue_timeout: float = row(Seconds(1), "Maximum time a request waits in the queue.", 600.0, 60.0)
    npu_parallel: int = row(
        Whole(1),
        "Number of models that may compute on the NPU at the same time. The NPU runs its jobs one after another "
        "anyway, and more than one model at a time is known to freeze it.",
        1,
        2,
    )
    lease_timeout: float = row(
        Seconds(1),
        "How long another program may hold the NPU by `exo-rkllm npu run` or the lease socket before it has to stop.",
        600.0,
        60.0,
    )
    drain_timeout: float = row(
        Seconds(0), "Time that running answers get to finish when the daemon stops.", 30.0, 120.0
    )


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Conversations that others displace from a model's KV cache, and continue without being read again."""

    memory: int = row(
        Bytes(),
        "Memory for such conversations, in the service's runtime folder; 0 keeps none there. A thousand tokens of a "
        "1.7B model take 115 MB, of a 4B model 147 MB. Loading a model takes this memory first.",
        512 << 20,
        2 << 30,
    )
    disk: int = row(
        Bytes(),
        "Space in the service's state folder for those that `memory` has no room for; 0 keeps none there. They outlive "
        "a restart of the daemon. Writing them wears flash memory.",
        0,
        4 << 30,
    )


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """The vendor's library, librkllmrt.so."""

    library: str = row(
        TEXT,
        "Path of the default library; a folder `runtimes` beside it may hold other versions. Empty: the first usable "
        "one in the usual places.",
        "",
        "/opt/rkllm/librkllmrt.so",
    )
    encoder_library: str = row(
        TEXT,
        "Path of librknnrt.so, which models that see need too. Empty: the first one in the usual places.",
        "",
        "/opt/rkllm/librknnrt.so",
    )
    log_level: int = row(
        Whole(0, 2), "What the library logs: 0 warnings and errors, 1 also timings and memory, 2 everything.", 0, 1
    )
    sampling: SamplingPolicy = row(
        Text(("ignore", "reload", "refuse")),
        "How to handle a request with other sampling settings than the loaded model's, if the library accepts them "
        "only at load (before 1.3.0): `ignore` answers with the loaded ones and lists the others in "
        "`X-Ignored-Fields`, `reload` loads the model again with the new settings, `refuse` refuses the request.",
        "ignore",
        "reload",
    )


@dataclass(frozen=True, slots=True)
class BoardSettings:
    """The board."""

    root: str = row(
        TEXT, "Folder that contains /proc, /sys and /dev; change it to use another board's files.", "/", "/host"
    )
    performance: bool = row(
        Switch(),
        "Run CPU, NPU and memory at their highest clocks while a model is loaded. Requires the unit "
        "`exo-rkllm-clocks.socket`.",
        False,
        True,
    )


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """The exo cluster on the network."""

    enabled: bool = row(
        Switch(),
        "Join an exo cluster that is discovered on the network. A board with API keys joins only one that `namespace` "
        "or `endpoints` names.",
        True,
        False,
    )
    namespace: str = row(
        TEXT,
        "The cluster's namespace. `auto` joins the one that is discovered, if there is exactly one. `libp2p` is exo "
        "1.0.71, `libp2p/NAME` with the namespace NAME.",
        AUTO,
        "lab",
    )
    interfaces: tuple[str, ...] = row(TEXTS, "Network interfaces to use. Empty: all of them.", (), ("eth0",))
    endpoints: tuple[str, ...] = row(
        TEXTS,
        "Nodes to connect to, for networks where discovery packets do not arrive. For exo 1.0.71: "
        "`/ip4/10.0.0.5/tcp/50000`.",
        (),
        ("tcp/[fd00::10]:52414",),
    )
    name: str = row(TEXT, "The board's name in the cluster. Empty: its host name.", "", "rock5-kitchen")
    models: tuple[str, ...] = row(TEXTS, "Models that the cluster may use; `*` means all.", ("*",), ("qwen3-1.7b",))
    placement: Placement = row(
        Text(("own", "dashboard")),
        "`own`: the board places its models itself and affects no other node. `dashboard`: models are launched from "
        "exo's dashboard.",
        "own",
        "dashboard",
    )
    errors: ErrorForm = row(
        Text(("answer", "error")),
        "How a client of the cluster is told that its request failed. `answer`: as an answer that says so, since exo "
        "shows nothing of an error; only an answer that is streamed and breaks off ends with an error. `error`: always "
        "as an error.",
        "answer",
        "error",
    )
    discovery_port: int = row(PORT, "exo's `--discovery-port`.", 52413, 52513)
    api_port: int = row(PORT, "exo's `--api-port`, where every node answers `/node_id`.", 52415, 52515)


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Metrics for Prometheus."""

    enabled: bool = row(Switch(), "Serve `/metrics` on the API port.", True, False)
    listen: str = row(
        TEXT,
        "Separate address and port that serve only `/metrics`, for a Prometheus on another machine.",
        "",
        "0.0.0.0:9115",
    )


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """The socket that the command line uses."""

    socket: str = row(
        TEXT,
        "Path of the socket. Empty: `control.sock` in the service's runtime folder, or in the user's.",
        "",
        "/run/exo-rkllm/control.sock",
    )
    group: str = row(TEXT, "Group whose members may load, unload, pull and delete.", "exo-rkllm", "staff")


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """Models and engines from other packages."""

    allow: tuple[str, ...] = row(
        TEXTS,
        "Names of the plugins to use; `*` means all, an empty list means none.",
        ("*",),
        (),
        variable="EXO_RKLLM_PLUGINS",
    )
    load: tuple[str, ...] = row(
        TEXTS,
        "Plugins that are not packages: module names or files. Listed plugins are always used.",
        (),
        ("/etc/exo-rkllm/zorg.py",),
    )
    native: tuple[str, ...] = row(
        TEXTS,
        "Native libraries that the process of every model on the NPU loads before the vendor's.",
        (),
        ("/usr/lib/exo-rkllm/libextra.so",),
        variable="EXO_RKLLM_BACKEND_PLUGINS",
    )


@dataclass(frozen=True, slots=True)
class ClassicSettings:
    """The engine inside classic exo (`exo-rkllm exo-classic`, or exo's own `--inference-engine rkllm`)."""

    daemon: bool = row(
        Switch(), "Use the daemon running on this board, so that its NPU has only one queue.", True, False
    )
    ring: str = row(
        Text(("refuse", "first")),
        "What a node does when exo assigns it only some of a model's layers. `refuse`: it refuses with the reason. "
        "`first`: the node with the first layer answers alone, and the others pass its tokens on.",
        "refuse",
        "first",
    )
    idle: float = row(
        Seconds(),
        "End an answer that exo has not read from for this long, since exo does not report when a client leaves.",
        60.0,
        20,
    )
    keep_engine: bool = row(Switch(), "Keep exo from replacing this engine when a second node appears.", True, False)
    shard_downloads: bool = row(
        Switch(),
        "Answer exo's download requests for our own models instead of letting exo query the internet.",
        True,
        False,
    )


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Logging."""

    level: str = row(Text(("debug", "info", "warning", "error")), "Least important level to log.", "info", "debug")


@dataclass(frozen=True, slots=True)
class Config:
    """The settings in force. `files` are the files they were read from, in order."""

    api: ApiSettings = field(default_factory=ApiSettings)
    models: ModelSettings = field(default_factory=ModelSettings)
    dispatch: DispatchSettings = field(default_factory=DispatchSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    board: BoardSettings = field(default_factory=BoardSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    control: ControlSettings = field(default_factory=ControlSettings)
    plugins: PluginSettings = field(default_factory=PluginSettings)
    classic: ClassicSettings = field(default_factory=ClassicSettings)
    log: LogSettings = field(default_factory=LogSettings)
    aliases: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()


ALIASES_ABOUT = (
    "Other names for models, for programs that ask for a fixed one. A name with a dot or a colon wants quotes."
)
ALIASES_EXAMPLE = {"gpt-4o": "qwen3-4b"}
SECTIONS: Mapping[str, Any] = {
    one.name: one.default_factory for one in fields(Config) if one.default is MISSING and one.name != "aliases"
}
TABLE: Mapping[str, ObjectSpec] = {name: object_of(section) for name, section in SECTIONS.items()}
CONFIG = ObjectSpec(
    "Config",
    (*(FieldSpec(name, table, "") for name, table in TABLE.items()), FieldSpec("aliases", Free(Text(least=1)), "")),
    strict=True,
    noun="section",
)
# Section and key that each environment variable sets.
VARIABLES: Mapping[str, tuple[str, FieldSpec]] = {
    one.metadata.get("variable") or f"EXO_RKLLM_{name}_{one.name}".upper(): (name, spec)
    for name, section in SECTIONS.items()
    for one, spec in zip(fields(section), TABLE[name].fields, strict=True)
}


def assigned(spec: FieldSpec, value: Any) -> str:
    """A line of a configuration file."""
    return f"{spec.name} = {toml.value_of(written(spec.kind, value))}"


def aliases_lines(aliases: Mapping[str, str]) -> str:
    """The section [aliases] of a configuration file."""
    return toml.dumps(aliases).strip()
