"""Everything that the checks judge, read once and as values."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from exo_rkllm import plugins
from exo_rkllm.backends.host import language_domain, takes_domains
from exo_rkllm.board import files, kernel_log
from exo_rkllm.board.counters import Reading, read
from exo_rkllm.board.detect import Board, detect
from exo_rkllm.board.kernel_log import NpuLog
from exo_rkllm.board.neighbours import Neighbours, find_neighbours
from exo_rkllm.board.sources import find_sources
from exo_rkllm.board.speeds import outlook
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.classic.launcher import HostKind, host_kind
from exo_rkllm.client.control import DaemonStatus
from exo_rkllm.config import Config, load
from exo_rkllm.doctor.identity import UserIdentity
from exo_rkllm.errors import ExoRkllmError, ModelNotFound
from exo_rkllm.plugins import PluginStatus
from exo_rkllm.rknn import encoderfile
from exo_rkllm.rknn import locate as rknn_locate
from exo_rkllm.rknn import version as rknn_version
from exo_rkllm.rknn.encoderfile import EncoderFacts
from exo_rkllm.runtime import locate, modelfile, selection
from exo_rkllm.runtime.locate import Search
from exo_rkllm.runtime.modelfile import ModelFacts, Objection
from exo_rkllm.runtime.selection import RuntimeChoice

# glibc's loader looks here for the vendor library's own needs (npu-platform 7).
LIBRARIES = (
    "usr/lib/aarch64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib",
    "usr/local/lib",
)
# Context for which a file without a card is assumed to be loaded, when its memory is estimated.
SHORTEST = 512


@dataclass(frozen=True, slots=True)
class CpuPolicy:
    first: int
    governor: str
    maximum: int | None  # kHz that is allowed now
    top: int | None  # kHz that the CPU has


@dataclass(frozen=True, slots=True)
class ModelInspection:
    """A model file and what speaks against loading it here, or the error of reading it."""

    name: str
    facts: ModelFacts | None = None
    objections: tuple[Objection, ...] = ()
    memory: int | None = None  # estimated bytes that loading it takes
    runtime: RuntimeChoice | None = None  # the vendor library that it would be loaded with
    pace: str = ""  # the tokens a second to expect on this SoC, where a model of this name was measured
    error: ExoRkllmError | None = None


@dataclass(frozen=True, slots=True)
class EncoderInspection:
    """A model's encoder, or the error of reading it; `domain` is where the NPU would load the language model."""

    name: str
    facts: EncoderFacts | ExoRkllmError
    domain: int = 0
    memory: int | None = None  # estimated bytes of the language model
    width: int | None = None  # floats that the language model takes for a token


@dataclass(frozen=True, slots=True)
class VisionInspection:
    """The encoders of the catalogue's models, and librknnrt for them."""

    encoders: tuple[EncoderInspection, ...] = ()
    library: Path | None = None
    release: str = ""
    error: ExoRkllmError | None = None  # why there is no library


@dataclass(frozen=True, slots=True)
class Scene:
    """One look at the machine, its files and its daemon; `root` is where the board's files were read."""

    root: Path
    board: Board
    reading: Reading
    identity: UserIdentity
    config: Config | None
    config_error: ExoRkllmError | None
    machine: str
    gomp: bool
    cpus: tuple[CpuPolicy, ...]
    search: Search
    models: tuple[ModelInspection, ...]
    models_error: ExoRkllmError | None
    kernel_log: NpuLog | str  # what it says of the NPU, or why it cannot be read
    service: DaemonStatus
    plugins: tuple[PluginStatus, ...]
    exo: HostKind
    neighbours: Neighbours
    vision: VisionInspection = VisionInspection()

    @property
    def runtime(self) -> str:
        """The default release of the vendor's library; empty if there is none."""
        return "" if self.search.found is None else self.search.found.release


def look(
    environment: Mapping[str, str],
    identity: UserIdentity,
    service: DaemonStatus,
    catalogue: Catalogue | None,
    root: Path | None = None,
    model: str = "",
) -> Scene:
    """Look at everything once; nothing that is found raises.

    `model` is a name or a file; empty means every model of the catalogue.
    """
    config, config_error = _config(environment)
    base = root or Path(config.board.root if config is not None else "/")
    board = detect(base)
    library = Path(config.runtime.library) if config is not None and config.runtime.library else None
    search = locate.search(library, environment)
    models, models_error = _models(catalogue, model, board, search)
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
        models=models,
        models_error=models_error,
        kernel_log=_kernel_log(base),
        service=service,
        plugins=_plugins(environment, service),
        exo=host_kind(),
        neighbours=find_neighbours(base, board, _daemon_process(service)),
        vision=_vision(catalogue, config, board, search),
    )


def _daemon_process(service: DaemonStatus) -> int:
    """Whose children are no neighbours."""
    process = (service.status or {}).get("pid")
    return process if isinstance(process, int) else os.getpid()


def _plugins(environment: Mapping[str, str], service: DaemonStatus) -> tuple[PluginStatus, ...]:
    """The daemon's plugins if one runs, since this process may load others."""
    if service.status is not None and "plugins" in service.status:
        return tuple(PluginStatus(**row) for row in service.status["plugins"])
    return plugins.load(environment=environment).rows


def _config(environment: Mapping[str, str]) -> tuple[Config | None, ExoRkllmError | None]:
    try:
        return load(environment), None
    except ExoRkllmError as error:
        return None, error


def _models(
    catalogue: Catalogue | None, name: str, board: Board, search: Search
) -> tuple[tuple[ModelInspection, ...], ExoRkllmError | None]:
    platform_name = board.soc.title if board.soc is not None and board.soc.rkllm else ""
    if name and (name.endswith(".rkllm") or "/" in name):
        return (_inspect(name, Path(name), platform_name, search),), None
    if catalogue is None:
        return (), None
    try:
        listing = catalogue.scan()
        entries = (catalogue.resolve(name),) if name else listing.entries
    except ModelNotFound as error:
        return (ModelInspection(name, error=error),), None
    except ExoRkllmError as error:
        return (), error
    inspections = [_inspect_entry(entry, platform_name, search) for entry in entries]
    problems = () if name else listing.problems
    return (*inspections, *(ModelInspection(one.folder.name, error=one.error) for one in problems)), None


def _inspect_entry(entry: Entry, platform_name: str, search: Search) -> ModelInspection:
    if entry.engine != "rkllm" or entry.path is None:
        return ModelInspection(entry.id)
    wanted = str(entry.options.get(selection.OPTION, ""))
    return _inspect(entry.id, entry.path, platform_name, search, entry.context, wanted)


def _vision(catalogue: Catalogue | None, config: Config | None, board: Board, search: Search) -> VisionInspection:
    try:
        entries = () if catalogue is None else catalogue.scan().entries
    except ExoRkllmError:
        return VisionInspection()  # the models' check says it
    encoders = tuple(
        _inspect_encoder(entry, entry.vision.file, board, search) for entry in entries if entry.vision is not None
    )
    if not encoders:
        return VisionInspection()
    named = config.runtime.encoder_library if config is not None else ""
    try:
        library = rknn_locate.find(Path(named) if named else None)
        return VisionInspection(encoders, library, rknn_version.check(library))
    except ExoRkllmError as error:
        return VisionInspection(encoders, error=error)


def _inspect_encoder(entry: Entry, file: Path, board: Board, search: Search) -> EncoderInspection:
    model = _inspect_entry(entry, "", search)
    named = entry.options.get("base_domain_id")
    if isinstance(named, int):
        domain = named
    else:
        domain = language_domain(board) if model.runtime is None or takes_domains(model.runtime.release) else 0
    width = None if model.facts is None else model.facts.embedding_length
    return EncoderInspection(entry.id, _encoder(file), domain, model.memory, None if width is None else width.value)


def _encoder(file: Path) -> EncoderFacts | ExoRkllmError:
    try:
        facts = encoderfile.inspect(file)
        facts.shape()
    except ExoRkllmError as error:
        return error
    return facts


def _inspect(
    name: str, path: Path, platform_name: str, search: Search, context: int = 0, wanted: str = ""
) -> ModelInspection:
    try:
        facts = modelfile.inspect(path)
        # That none is installed is the matter of another check.
        choice = None if search.found is None else selection.choose(search, facts, wanted)
    except ExoRkllmError as error:
        return ModelInspection(name, error=error)
    objections = selection.objections_to(facts, choice, platform_name, context)
    pace = outlook(platform_name.lower(), f"{name}-{path.parent.name}-{path.name}")
    return ModelInspection(name, facts, objections, facts.memory(context or SHORTEST), choice, pace)


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


def _kernel_log(root: Path) -> NpuLog | str:
    try:
        return kernel_log.summarize(kernel_log.read(root))
    except OSError as error:
        return files.reason(error, root / "dev/kmsg", root)
