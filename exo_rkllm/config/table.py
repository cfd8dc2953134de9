"""Every setting: its section, name, type, default, what it does, and an example. Everything else is made from this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, TypeAlias

from exo_rkllm.schema import toml
from exo_rkllm.schema.quantities import Bytes, Seconds, written
from exo_rkllm.schema.specs import FieldSpec, List, ObjectSpec, Switch, Text, Whole
from exo_rkllm.schema.tables import object_of, row

Placement: TypeAlias = Literal["own", "dashboard"]
AUTO = "auto"  # the namespace of the one cluster that is heard


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Where clients of the OpenAI, Ollama and Anthropic APIs and the status page find the daemon."""

    listen: str = row(
        Text(),
        "Address that the API listens on. Anything but loopback needs `keys` or `allow_anonymous`.",
        "127.0.0.1",
        example="0.0.0.0",  # noqa: S104 - an example of what needs keys
    )
    port: int = row(Whole(0, 65535), "Port of the API; exo's own, so that exo's clients find it.", 52415, example=11434)
    keys: str = row(
        Text(),
        "File with an API key a line, and `control` after one that may also pull, load, unload and delete. Empty: "
        "the systemd credential `api-keys`, where there is one.",
        "",
        example="/etc/exo-rkllm/api-keys",
    )
    allow_anonymous: bool = row(
        Switch(), "Serve the network without keys: everybody who reaches the port may ask.", False, example=True
    )
    hosts: tuple[str, ...] = row(
        List(Text()),
        "Names, besides localhost, under which a loopback API may be called.",
        (),
        example=("rock5.local",),
    )
    origins: tuple[str, ...] = row(
        List(Text()), "Web origins whose pages may call the API; `*` is any.", (), example=("https://chat.example.org",)
    )
    body_bytes: int = row(
        Bytes(1), "Largest request that is read; images in a conversation count.", 32_000_000, example=64_000_000
    )
    body_seconds: float = row(Seconds(1), "Time that a client has for sending its request.", 30.0, example=60.0)
    idle_seconds: float = row(
        Seconds(1), "Time for which a client may take nothing of its answer before it is let go.", 60.0, example=30.0
    )
    strict: bool = row(
        Switch(),
        "Refuse requests with sampling settings that the model's engine does not take. Otherwise such settings are "
        "ignored and listed in the answer's `X-Ignored-Fields`.",
        False,
        example=True,
    )


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Which models there are, and how long they stay loaded."""

    directory: str = row(
        Text(),
        "Folder with one folder a model. Empty: the service's own state folder, or `exo-rkllm/models` in the "
        "user's data folder.",
        "",
        example="/mnt/nvme/models",
    )
    engine: str = row(
        Text(),
        "Engine of every model, whatever its card says. Empty: the card's, or what the file's name tells.",
        "",
        example="dummy",
    )
    preload: tuple[str, ...] = row(
        List(Text()), "Models that are loaded at start and stay.", (), example=("qwen3-1.7b",)
    )
    keep_alive: float = row(
        Seconds(),
        "Time that an idle model stays loaded; 0 unloads it at once, a negative value never.",
        300.0,
        example=3600.0,
    )
    max_loaded: int = row(Whole(0), "Most models that are loaded together; 0 means as many as fit.", 0, example=2)
    reserve_memory: int = row(
        Bytes(), "Memory that loading a model leaves to the rest of the system.", 256 << 20, example=1 << 30
    )


@dataclass(frozen=True, slots=True)
class DispatchSettings:
    """Who waits, how long, and what runs together."""

    queue: int = row(
        Whole(1), "Requests that may wait for one model; more are refused with Retry-After.", 128, example=32
    )
    queue_per_client: int = row(Whole(1), "Of these, how many may come from one client.", 32, example=4)
    queue_timeout: float = row(Seconds(1), "Longest time that a request waits for its turn.", 600.0, example=60.0)
    npu_parallel: int = row(
        Whole(1),
        "Models that may compute on the NPU at the same time. The NPU runs one job after the other anyway, and "
        "more than one model at a time is known to freeze it.",
        1,
        example=2,
    )
    drain_timeout: float = row(
        Seconds(0), "Time that running answers have to end when the daemon stops.", 30.0, example=120.0
    )


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """The vendor library, librkllmrt.so."""

    library: str = row(
        Text(),
        "The library's file. Empty: the first one in the usual places that can be used.",
        "",
        example="/opt/rkllm/librkllmrt.so",
    )
    log_level: int = row(
        Whole(0, 2),
        "What the library tells the log: 0 warnings and errors, 1 also timings and memory, 2 everything.",
        0,
        example=1,
    )
    sampling: str = row(
        Text(("refuse", "reload")),
        "What becomes of a request for another sampling than the model's own, where the library takes one at load "
        "only (before 1.3.0): `refuse` says so, `reload` loads the model with it, and anew for the next other one.",
        "refuse",
        example="reload",
    )

    @property
    def reloads(self) -> bool:
        return self.sampling == "reload"


@dataclass(frozen=True, slots=True)
class BoardSettings:
    """The machine."""

    root: str = row(
        Text(), "Where /proc, /sys and /dev are found; another folder makes another board of it.", "/", example="/host"
    )
    performance: bool = row(
        Switch(),
        "Run CPU, NPU and memory at their highest clocks while a model is loaded; needs the unit "
        "`exo-rkllm-clocks.socket`.",
        False,
        example=True,
    )


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """The exo cluster on the network."""

    enabled: bool = row(Switch(), "Join an exo cluster when one is heard.", True, example=False)
    namespace: str = row(
        Text(),
        "The cluster's namespace. `auto` joins the one that is heard, when there is exactly one.",
        AUTO,
        example="lab",
    )
    interfaces: tuple[str, ...] = row(
        List(Text()), "Network interfaces to look on. Empty: all of them.", (), example=("eth0",)
    )
    endpoints: tuple[str, ...] = row(
        List(Text()),
        "Nodes to connect to, for networks where discovery is not heard.",
        (),
        example=("tcp/[fd00::10]:52414",),
    )
    name: str = row(Text(), "The board's name in the cluster. Empty: its host name.", "", example="rock5-kitchen")
    models: tuple[str, ...] = row(
        List(Text()), "Models that the cluster may use; `*` means all.", ("*",), example=("qwen3-1.7b",)
    )
    placement: Placement = row(
        Text(("own", "dashboard")),
        "`own` places the board's models itself and disturbs nobody. `dashboard` lets them be launched from exo's "
        "dashboard.",
        "own",
        example="dashboard",
    )
    discovery_port: int = row(Whole(0, 65535), "exo's `--discovery-port`.", 52413, example=52513)
    api_port: int = row(
        Whole(0, 65535), "exo's `--api-port`, where every node answers `/node_id`.", 52415, example=52515
    )


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """What Prometheus reads."""

    enabled: bool = row(Switch(), "Answer `/metrics` on the API port.", True, example=False)
    listen: str = row(
        Text(),
        "Address and port that answer nothing but `/metrics`, for a Prometheus elsewhere.",
        "",
        example="0.0.0.0:9115",
    )


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """The socket that the command line uses."""

    socket: str = row(
        Text(),
        "The socket's file. Empty: `control.sock` in the service's own runtime folder, or in the user's.",
        "",
        example="/run/exo-rkllm/control.sock",
    )
    group: str = row(Text(), "Group whose members may load, unload, pull and delete.", "exo-rkllm", example="staff")


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """Models and backends of other packages."""

    allow: tuple[str, ...] = row(
        List(Text()),
        "Names of the plugins that are used; `*` means all, an empty list none.",
        ("*",),
        example=(),
        variable="EXO_RKLLM_PLUGINS",
    )
    load: tuple[str, ...] = row(
        List(Text()),
        "Plugins that are no package: modules by name, or files. To be listed is to be used.",
        (),
        example=("/etc/exo-rkllm/zorg.py",),
    )
    native: tuple[str, ...] = row(
        List(Text()),
        "Native libraries that the process of every model on the NPU opens before the vendor's.",
        (),
        example=("/usr/lib/exo-rkllm/libextra.so",),
        variable="EXO_RKLLM_BACKEND_PLUGINS",
    )


@dataclass(frozen=True, slots=True)
class ClassicSettings:
    """The engine inside classic exo (`exo-rkllm exo-classic`, or exo's own `--inference-engine rkllm`)."""

    daemon: bool = row(
        Switch(), "Ask the daemon that runs on this board, so that there is one queue for its NPU.", True, example=False
    )
    ring: str = row(
        Text(("refuse", "first")),
        "What a node does that exo gave only some of a model's layers: `refuse` says why, `first` lets the node "
        "with the first layer answer alone while the others hand its tokens on.",
        "refuse",
        example="first",
    )
    idle: float = row(
        Seconds(),
        "An answer that exo asks no more of for so long is ended: exo does not say that it left.",
        60.0,
        example=20,
    )
    keep_engine: bool = row(
        Switch(), "Keep exo from replacing this engine by another one when a second node appears.", True, example=False
    )
    shard_downloads: bool = row(
        Switch(), "Answer for our own models where exo would look for them on the internet.", True, example=False
    )


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is written down."""

    level: str = row(
        Text(("debug", "info", "warning", "error")), "Least important lines that are kept.", "info", example="debug"
    )


@dataclass(frozen=True, slots=True)
class Config:
    """What the operator decided. `files` is where it came from, in the order of reading."""

    api: ApiSettings = field(default_factory=ApiSettings)
    models: ModelSettings = field(default_factory=ModelSettings)
    dispatch: DispatchSettings = field(default_factory=DispatchSettings)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    board: BoardSettings = field(default_factory=BoardSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    control: ControlSettings = field(default_factory=ControlSettings)
    plugins: PluginSettings = field(default_factory=PluginSettings)
    classic: ClassicSettings = field(default_factory=ClassicSettings)
    log: LogSettings = field(default_factory=LogSettings)
    files: tuple[str, ...] = ()


SECTIONS: Mapping[str, Any] = {one.name: one.default_factory for one in fields(Config) if one.default is MISSING}
TABLE: Mapping[str, ObjectSpec] = {name: object_of(section) for name, section in SECTIONS.items()}
CONFIG = ObjectSpec(
    "Config", tuple(FieldSpec(name, table, "") for name, table in TABLE.items()), strict=True, noun="section"
)
# What each variable of the environment sets: section and key.
VARIABLES: Mapping[str, tuple[str, FieldSpec]] = {
    one.metadata.get("variable") or f"EXO_RKLLM_{name}_{one.name}".upper(): (name, spec)
    for name, section in SECTIONS.items()
    for one, spec in zip(fields(section), TABLE[name].fields, strict=True)
}


def assigned(spec: FieldSpec, value: Any) -> str:
    """A line of a configuration file."""
    return f"{spec.name} = {toml.value_of(written(spec.kind, value))}"
