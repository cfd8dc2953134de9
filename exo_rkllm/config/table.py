"""Every setting: its section, name, type, default, what it does, and an example. Everything else is made from this."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

from exo_rkllm.config.kinds import KINDS, Bytes, Kind, Seconds

Check: TypeAlias = "tuple[Callable[[Any], bool], str]"  # a test for the value, and what it must be, in words


def about(says: str, example: Any, *, check: Check | None = None, variable: str = "") -> Mapping[str, Any]:
    """`variable` is for the few whose name is fixed by what others do."""
    return {"says": says, "example": example, "check": check, "variable": variable}


PORT = (lambda value: 0 <= value <= 65535, "between 0 and 65535")
POSITIVE = (lambda value: value >= 1, "1 or more")
NOT_NEGATIVE = (lambda value: value >= 0, "0 or more")


def one_of(*words: str) -> Check:
    return (lambda value: value in words), " or ".join(f'"{word}"' for word in words)


@dataclass(frozen=True, slots=True)
class Api:
    """Where clients of the OpenAI, Ollama and Anthropic APIs and the status page find the daemon."""

    listen: str = field(
        default="127.0.0.1",
        metadata=about(
            "Address that the API listens on. Anything but loopback needs `keys` or `allow_anonymous`.",
            "0.0.0.0",  # noqa: S104 - an example of what needs keys
        ),
    )
    port: int = field(
        default=52415, metadata=about("Port of the API; exo's own, so that exo's clients find it.", 11434, check=PORT)
    )
    keys: str = field(
        default="",
        metadata=about(
            "File with an API key a line, and `control` after one that may also pull, load, unload and delete. Empty: "
            "the systemd credential `api-keys`, where there is one.",
            "/etc/exo-rkllm/api-keys",
        ),
    )
    allow_anonymous: bool = field(
        default=False, metadata=about("Serve the network without keys: everybody who reaches the port may ask.", True)
    )
    hosts: tuple[str, ...] = field(
        default=(),
        metadata=about("Names, besides localhost, under which a loopback API may be called.", ("rock5.local",)),
    )
    origins: tuple[str, ...] = field(
        default=(),
        metadata=about("Web origins whose pages may call the API; `*` is any.", ("https://chat.example.org",)),
    )
    body_bytes: Bytes = field(
        default=32_000_000,
        metadata=about("Largest request that is read; images in a conversation count.", 64_000_000, check=POSITIVE),
    )
    body_seconds: Seconds = field(
        default=30.0, metadata=about("Time that a client has for sending its request.", 60.0, check=POSITIVE)
    )
    idle_seconds: Seconds = field(
        default=60.0,
        metadata=about(
            "Time for which a client may take nothing of its answer before it is let go.", 30.0, check=POSITIVE
        ),
    )


@dataclass(frozen=True, slots=True)
class Models:
    """Which models there are, and how long they stay loaded."""

    directory: str = field(
        default="",
        metadata=about(
            "Folder with one folder a model. Empty: the service's own state folder, or `exo-rkllm/models` in the "
            "user's data folder.",
            "/mnt/nvme/models",
        ),
    )
    engine: str = field(
        default="",
        metadata=about(
            "Engine of every model, whatever its card says. Empty: the card's, or what the file's name tells.",
            "dummy",
        ),
    )
    preload: tuple[str, ...] = field(
        default=(), metadata=about("Models that are loaded at start and stay.", ("qwen3-1.7b",))
    )
    keep_alive: Seconds = field(
        default=300.0,
        metadata=about("Time that an idle model stays loaded; 0 unloads it at once, a negative value never.", 3600.0),
    )
    max_loaded: int = field(
        default=0,
        metadata=about("Most models that are loaded together; 0 means as many as fit.", 2, check=NOT_NEGATIVE),
    )
    reserve_memory: Bytes = field(
        default=256 << 20, metadata=about("Memory that loading a model leaves to the rest of the system.", 1 << 30)
    )


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Who waits, how long, and what runs together."""

    queue: int = field(
        default=128,
        metadata=about("Requests that may wait for one model; more are refused with Retry-After.", 32, check=POSITIVE),
    )
    queue_per_client: int = field(
        default=32, metadata=about("Of these, how many may come from one client.", 4, check=POSITIVE)
    )
    queue_timeout: Seconds = field(
        default=600.0, metadata=about("Longest time that a request waits for its turn.", 60.0, check=POSITIVE)
    )
    npu_parallel: int = field(
        default=1,
        metadata=about(
            "Models that may compute on the NPU at the same time. The NPU runs one job after the other anyway, and "
            "more than one model at a time is known to freeze it.",
            2,
            check=POSITIVE,
        ),
    )
    drain_timeout: Seconds = field(
        default=30.0,
        metadata=about("Time that running answers have to end when the daemon stops.", 120.0, check=NOT_NEGATIVE),
    )


@dataclass(frozen=True, slots=True)
class Runtime:
    """The vendor library, librkllmrt.so."""

    library: str = field(
        default="",
        metadata=about(
            "The library's file. Empty: the first one in the usual places that can be used.", "/opt/rkllm/librkllmrt.so"
        ),
    )
    log_level: int = field(
        default=0,
        metadata=about(
            "What the library tells the log: 0 warnings and errors, 1 also timings and memory, 2 everything.",
            1,
            check=(lambda value: value in (0, 1, 2), "0, 1 or 2"),
        ),
    )
    sampling: str = field(
        default="refuse",
        metadata=about(
            "What becomes of a request for another sampling than the model's own, where the library takes one at load "
            "only (before 1.3.0): `refuse` says so, `reload` loads the model with it, and anew for the next other one.",
            "reload",
            check=(lambda value: value in ("refuse", "reload"), '"refuse" or "reload"'),
        ),
    )

    @property
    def reloads(self) -> bool:
        return self.sampling == "reload"


@dataclass(frozen=True, slots=True)
class Board:
    """The machine."""

    root: str = field(
        default="/",
        metadata=about("Where /proc, /sys and /dev are found; another folder makes another board of it.", "/host"),
    )
    performance: bool = field(
        default=False,
        metadata=about(
            "Run CPU, NPU and memory at their highest clocks while a model is loaded; needs the unit "
            "`exo-rkllm-clocks.socket`.",
            True,
        ),
    )


@dataclass(frozen=True, slots=True)
class Cluster:
    """The exo cluster on the network."""

    enabled: bool = field(default=True, metadata=about("Join an exo cluster when one is heard.", False))
    namespace: str = field(
        default="auto",
        metadata=about(
            "The cluster's namespace. `auto` joins the one that is heard, when there is exactly one.", "lab"
        ),
    )
    interfaces: tuple[str, ...] = field(
        default=(), metadata=about("Network interfaces to look on. Empty: all of them.", ("eth0",))
    )
    endpoints: tuple[str, ...] = field(
        default=(),
        metadata=about("Nodes to connect to, for networks where discovery is not heard.", ("tcp/[fd00::10]:52414",)),
    )
    name: str = field(
        default="", metadata=about("The board's name in the cluster. Empty: its host name.", "rock5-kitchen")
    )
    models: tuple[str, ...] = field(
        default=("*",), metadata=about("Models that the cluster may use; `*` means all.", ("qwen3-1.7b",))
    )
    placement: str = field(
        default="own",
        metadata=about(
            "`own` places the board's models itself and disturbs nobody. `dashboard` lets them be launched from exo's "
            "dashboard.",
            "dashboard",
            check=one_of("own", "dashboard"),
        ),
    )
    discovery_port: int = field(default=52413, metadata=about("exo's `--discovery-port`.", 52513, check=PORT))
    api_port: int = field(
        default=52415, metadata=about("exo's `--api-port`, where every node answers `/node_id`.", 52515, check=PORT)
    )


@dataclass(frozen=True, slots=True)
class Metrics:
    """What Prometheus reads."""

    enabled: bool = field(default=True, metadata=about("Answer `/metrics` on the API port.", False))
    listen: str = field(
        default="",
        metadata=about(
            "Address and port that answer nothing but `/metrics`, for a Prometheus elsewhere.", "0.0.0.0:9115"
        ),
    )


@dataclass(frozen=True, slots=True)
class Control:
    """The socket that the command line uses."""

    socket: str = field(
        default="",
        metadata=about(
            "The socket's file. Empty: `control.sock` in the service's own runtime folder, or in the user's.",
            "/run/exo-rkllm/control.sock",
        ),
    )
    group: str = field(
        default="exo-rkllm", metadata=about("Group whose members may load, unload, pull and delete.", "staff")
    )


@dataclass(frozen=True, slots=True)
class Plugins:
    """Models and backends of other packages."""

    allow: tuple[str, ...] = field(
        default=("*",),
        metadata=about(
            "Names of the plugins that are used; `*` means all, an empty list none.", (), variable="EXO_RKLLM_PLUGINS"
        ),
    )
    load: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Plugins that are no package: modules by name, or files. To be listed is to be used.",
            ("/etc/exo-rkllm/zorg.py",),
        ),
    )
    native: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Native libraries that the process of every model on the NPU opens before the vendor's.",
            ("/usr/lib/exo-rkllm/libextra.so",),
            variable="EXO_RKLLM_BACKEND_PLUGINS",
        ),
    )


@dataclass(frozen=True, slots=True)
class Classic:
    """The engine inside classic exo (`exo-rkllm exo-classic`, or exo's own `--inference-engine rkllm`)."""

    daemon: bool = field(
        default=True,
        metadata=about("Ask the daemon that runs on this board, so that there is one queue for its NPU.", False),
    )
    ring: str = field(
        default="refuse",
        metadata=about(
            "What a node does that exo gave only some of a model's layers: `refuse` says why, `first` lets the node "
            "with the first layer answer alone while the others hand its tokens on.",
            "first",
            check=one_of("refuse", "first"),
        ),
    )
    idle: Seconds = field(
        default=60.0,
        metadata=about("An answer that exo asks no more of for so long is ended: exo does not say that it left.", 20),
    )
    keep_engine: bool = field(
        default=True,
        metadata=about("Keep exo from replacing this engine by another one when a second node appears.", False),
    )
    shard_downloads: bool = field(
        default=True,
        metadata=about("Answer for our own models where exo would look for them on the internet.", False),
    )


@dataclass(frozen=True, slots=True)
class Log:
    """What is written down."""

    level: str = field(
        default="info",
        metadata=about(
            "Least important lines that are kept.", "debug", check=one_of("debug", "info", "warning", "error")
        ),
    )


@dataclass(frozen=True, slots=True)
class Config:
    """What the operator decided. `files` is where it came from, in the order of reading."""

    api: Api = field(default_factory=Api)
    models: Models = field(default_factory=Models)
    dispatch: Dispatch = field(default_factory=Dispatch)
    runtime: Runtime = field(default_factory=Runtime)
    board: Board = field(default_factory=Board)
    cluster: Cluster = field(default_factory=Cluster)
    metrics: Metrics = field(default_factory=Metrics)
    control: Control = field(default_factory=Control)
    plugins: Plugins = field(default_factory=Plugins)
    classic: Classic = field(default_factory=Classic)
    log: Log = field(default_factory=Log)
    files: tuple[str, ...] = ()


SECTIONS: Mapping[str, type] = {
    kind.__name__.lower(): kind
    for kind in (Api, Models, Dispatch, Runtime, Board, Cluster, Metrics, Control, Plugins, Classic, Log)
}


@dataclass(frozen=True, slots=True)
class Key:
    """One row of the table."""

    section: str
    name: str
    kind: Kind
    default: Any
    says: str
    example: Any
    check: Check | None
    variable: str


def keys(section: str) -> Iterator[Key]:
    for one in fields(SECTIONS[section]):
        about = one.metadata
        kind = KINDS[str(one.type)]
        variable = about["variable"] or f"EXO_RKLLM_{section}_{one.name}".upper()
        yield Key(section, one.name, kind, one.default, about["says"], about["example"], about["check"], variable)


TABLE: Mapping[str, Mapping[str, Key]] = {section: {key.name: key for key in keys(section)} for section in SECTIONS}
