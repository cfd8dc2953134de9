"""One look at the machine, as values: the checks only judge what is in here."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from exo_rkllm import plugins
from exo_rkllm.board import files, kernel_log
from exo_rkllm.board.counters import Reading, read
from exo_rkllm.board.detect import Board, detect
from exo_rkllm.board.sources import find_sources
from exo_rkllm.catalogue.store import Catalogue, Entry
from exo_rkllm.classic.launcher import HostKind, host_kind
from exo_rkllm.client.control import DaemonStatus
from exo_rkllm.config import Config, load
from exo_rkllm.doctor.identity import ModelIdentity
from exo_rkllm.errors import ExoRkllmError, ModelNotFound
from exo_rkllm.plugins import PluginStatus
from exo_rkllm.runtime import locate, modelfile
from exo_rkllm.runtime.locate import Search
from exo_rkllm.runtime.modelfile import ModelFacts, Objection

# glibc's loader looks here for the vendor library's own needs (npu-platform 7).
LIBRARIES = (
    "usr/lib/aarch64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib",
    "usr/local/lib",
)


# What a file without a card is taken to be loaded with, when its memory is estimated.
SHORTEST = 512


@dataclass(frozen=True, slots=True)
class CpuPolicy:
    first: int
    governor: str
    maximum: int | None  # kHz that is allowed now
    top: int | None  # kHz that the CPU has


@dataclass(frozen=True, slots=True)
class ModelSeen:
    """A model file and what speaks against it, or why there is none."""

    name: str
    facts: ModelFacts | None = None
    objections: tuple[Objection, ...] = ()
    memory: int | None = None  # bytes that loading it takes, as a guess
    error: ExoRkllmError | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    root: Path
    board: Board
    reading: Reading
    identity: ModelIdentity
    config: Config | None
    config_error: ExoRkllmError | None
    machine: str
    gomp: bool
    cpus: tuple[CpuPolicy, ...]
    search: Search
    models: tuple[ModelSeen, ...]
    models_error: ExoRkllmError | None
    kernel_log: Mapping[str, int] | str  # errors by kind, or why it cannot be read
    service: DaemonStatus
    plugins: tuple[PluginStatus, ...]
    exo: HostKind

    @property
    def runtime(self) -> str:
        """The release that would be loaded, empty where there is none."""
        place = self.search.found
        return place.version.release if place is not None and place.version is not None else ""


def look(
    environment: Mapping[str, str],
    identity: ModelIdentity,
    service: DaemonStatus,
    catalogue: Catalogue | None,
    root: Path | None = None,
    model: str = "",
) -> Scene:
    """Never raises for what it finds; `model` is a name or a file, every model of the catalogue where it is empty."""
    config, config_error = _config(environment)
    base = root or Path(config.board.root if config is not None else "/")
    board = detect(base)
    library = Path(config.runtime.library) if config is not None and config.runtime.library else None
    search = locate.search(library, environment)
    release = search.found.version.release if search.found is not None and search.found.version is not None else ""
    seen, models_error = _models(catalogue, model, board, release)
    return Scene(
        root=base,
        board=board,
        reading=read(find_sources(base, board)),
        identity=identity,
        config=config,
        config_error=config_error,
        machine=platform.machine(),
        gomp=any((base / folder / "libgomp.so.1").exists() for folder in LIBRARIES),
        cpus=tuple(_cpus(base)),
        search=search,
        models=seen,
        models_error=models_error,
        kernel_log=_kernel_log(base),
        service=service,
        plugins=_plugins(environment, service),
        exo=host_kind(),
    )


def _plugins(environment: Mapping[str, str], service: DaemonStatus) -> tuple[PluginStatus, ...]:
    """The daemon's where one runs: those of this process say little of it."""
    if service.status is not None and "plugins" in service.status:
        return tuple(PluginStatus(**row) for row in service.status["plugins"])
    return plugins.load(environment=environment).rows


def _config(environment: Mapping[str, str]) -> tuple[Config | None, ExoRkllmError | None]:
    try:
        return load(environment), None
    except ExoRkllmError as error:
        return None, error


def _models(
    catalogue: Catalogue | None, wanted: str, board: Board, release: str
) -> tuple[tuple[ModelSeen, ...], ExoRkllmError | None]:
    platform_name = board.soc.title if board.soc is not None and board.soc.rkllm else ""
    if wanted and (wanted.endswith(".rkllm") or "/" in wanted):
        return (_inspected(wanted, Path(wanted), platform_name, release, 0),), None
    if catalogue is None:
        return (), None
    try:
        listing = catalogue.scan()
        entries = (catalogue.resolve(wanted),) if wanted else listing.entries
    except ModelNotFound as error:
        return (ModelSeen(wanted, error=error),), None
    except ExoRkllmError as error:
        return (), error
    seen = [_entry(entry, platform_name, release) for entry in entries]
    broken = [] if wanted else [ModelSeen(one.folder.name, error=one.error) for one in listing.problems]
    return (*seen, *broken), None


def _entry(entry: Entry, platform_name: str, release: str) -> ModelSeen:
    if entry.engine != "rkllm" or entry.path is None:
        return ModelSeen(entry.id)
    return _inspected(entry.id, entry.path, platform_name, release, entry.context)


def _inspected(name: str, path: Path, platform_name: str, release: str, context: int) -> ModelSeen:
    try:
        facts = modelfile.inspect(path)
    except ExoRkllmError as error:
        return ModelSeen(name, error=error)
    objections = modelfile.check(facts, platform_name, release, context)
    return ModelSeen(name, facts, objections, facts.memory(context or SHORTEST))


def _cpus(root: Path) -> list[CpuPolicy]:
    return [
        CpuPolicy(
            first=int(path.name.removeprefix("policy")),
            governor=files.clean(files.text(path / "scaling_governor") or "", 32),
            maximum=files.number(path / "scaling_max_freq"),
            top=files.number(path / "cpuinfo_max_freq"),
        )
        for path in files.numbered(root / "sys/devices/system/cpu/cpufreq", "policy")
    ]


def _kernel_log(root: Path) -> Mapping[str, int] | str:
    try:
        return kernel_log.count(kernel_log.read(root))
    except OSError as error:
        return files.reason(error, root / "dev/kmsg", root)
