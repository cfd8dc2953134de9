"""What the daemon serves: models, board, library, configuration and cluster, from `start` to `stop`."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, fields, is_dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from exo_rkllm import plugins
from exo_rkllm.api import changes
from exo_rkllm.api.bodies import Bodies
from exo_rkllm.api.control import ControlContext
from exo_rkllm.api.control.tables import PullRequest
from exo_rkllm.api.status import kernel_log_value
from exo_rkllm.assembly import NO_PLUGINS, open_node
from exo_rkllm.backends.base import JSON
from exo_rkllm.board import affinity
from exo_rkllm.board.counters import read_gauges, read_load, read_temperature
from exo_rkllm.board.history import History
from exo_rkllm.board.neighbours import NeighbourWatch, find_neighbours
from exo_rkllm.board.performance import SOCKET, Performance
from exo_rkllm.board.sampler import Sampler
from exo_rkllm.catalogue import deriving
from exo_rkllm.catalogue.downloads import Downloads
from exo_rkllm.catalogue.folder_watch import FolderWatch
from exo_rkllm.catalogue.model_tokenizers import ModelTokenizers
from exo_rkllm.catalogue.progress import PullProgress
from exo_rkllm.cluster.identity import FOLDER
from exo_rkllm.config import Config, places
from exo_rkllm.daemon.cluster_switch import UNNAMED, ClusterSwitch, may_join
from exo_rkllm.daemon.file_watch import Settling
from exo_rkllm.daemon.hardware import Hardware, NpuWitness, available_memory, keep_off_fast_cores, limits, raise_clocks
from exo_rkllm.daemon.keys import read_keys
from exo_rkllm.daemon.prefixes import prefix_store
from exo_rkllm.dispatch.status import DispatchOverview
from exo_rkllm.errors import ConfigError, ExoRkllmError
from exo_rkllm.log.ring import Ring
from exo_rkllm.log.setup import set_level
from exo_rkllm.metrics.serving import ServingMetrics
from exo_rkllm.runtime import abi
from exo_rkllm.runtime.locate import Search

if TYPE_CHECKING:
    from exo_rkllm.catalogue.gallery import GalleryItem
    from exo_rkllm.cluster.node import ClusterNode

log = logging.getLogger(__name__)
vendor = logging.getLogger("exo_rkllm.librkllmrt")

# The library marks its lines by a letter. It warns of what we do on purpose, and errors reach the client as sentences.
VENDOR_LEVELS: Mapping[str, int] = {"E ": logging.WARNING}
# Sections and keys that are read at start only; a reload says that they wait for a restart.
AT_START = (
    "board",
    "cluster",
    "control",
    "plugins",
    "models.engine",
    "runtime",
    "cache",
    "api.listen",
    "api.port",
    "models.directory",
    "metrics",
)


class Daemon:
    """Everything but sockets and signals. `read` returns the configuration as it is on disk now."""

    def __init__(self, config: Config, environment: Mapping[str, str], ring: Ring, read: Callable[[], Config]) -> None:
        self.config = config
        self.keys = read_keys(config.api, environment)
        self.ring = ring
        self.cluster = ClusterSwitch(self._cluster_node, places(environment).state / FOLDER)
        self._environment = environment
        self._read = read
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = ExitStack()
        self._plugins_late = False
        self.node = open_node(config, NO_PLUGINS, report=self._report)
        self.hardware = Hardware(config, self._hardware_changed)
        self.node.prefixes = prefix_store(config, environment, lambda: available_memory(self.hardware.root))
        self._closing.callback(self.hardware.close)
        self.neighbours = NeighbourWatch(
            lambda: find_neighbours(self.hardware.root, self.hardware.watch.board, os.getpid())
        )
        self.serving = ServingMetrics()
        self.bodies = Bodies()
        self.tokenizers = ModelTokenizers()
        self._closing.callback(self.tokenizers.close)
        self.downloads = Downloads(lambda target: self.pull(PullRequest(target)), self._discard)
        self.history = History(self._tokens_so_far, lambda: read_temperature(self.hardware.watch.sources))
        self.sampler = Sampler(
            lambda: self.hardware.watch.sources, asyncio.get_running_loop(), on_sample=self.history.add
        )
        self._closing.callback(self.sampler.close)
        self.dispatcher = self.node.dispatcher(
            limits(config, self.hardware.board, frozenset()),
            observer=NpuWitness(self.serving, self._on_npu, self.hardware.kernel_log),
            available=self._available_memory,
        )

    # ── start, stop ──────────────────────────────────────────────────────────────────────────────

    async def load_plugins(self) -> None:
        """Before anything works, beside the loop; what a slow plugin registers later counts from then on."""
        loop = asyncio.get_running_loop()

        def on_change() -> None:
            with suppress(RuntimeError):  # the daemon ended before its slowest plugin
                loop.call_soon_threadsafe(self._plugins_changed)

        settings = self.config.plugins
        load = functools.partial(plugins.load, settings.allow, more=settings.load, on_change=on_change)
        loaded = await loop.run_in_executor(None, load)
        self.node.use_plugins(loaded)
        self._plugins_late = bool(loaded.loading)

    def _plugins_changed(self) -> None:
        """Quick plugins call this, too; what they registered has been taken over already."""
        if self._plugins_late:
            self._plugins_late = bool(self.node.plugins.loading)
            self.node.use_plugins(self.node.plugins)
            self._apply()

    def start(self) -> None:
        """Nothing here waits: models that are to be there from the start load while the API already answers."""
        if self.config.runtime.log_level:
            # Children inherit it; the library reads it when a model is loaded (reference 4.6).
            os.environ["RKLLM_LOG_LEVEL"] = str(self.config.runtime.log_level)
        self.hardware.start()
        self._watch_models()
        self._apply()
        if slow := affinity.slow_cpus(self.hardware.root, self.hardware.board.soc):
            self._spawn(keep_off_fast_cores(self.dispatcher.subscribe(), slow))
        if self.config.board.performance:
            unit = self.hardware.root / SOCKET.relative_to("/")
            self._spawn(raise_clocks(self.dispatcher.subscribe(), Performance(unit)))

    def prepare_first_load(self) -> None:
        """Begins with what the first model would wait for, once the API answers."""
        self._spawn(self._prepare_first_load())

    async def _prepare_first_load(self) -> None:
        await asyncio.to_thread(import_module, "exo_rkllm.backends.rkllm")
        gc.freeze()  # modules stay, as those that `Server.startup` freezes
        from exo_rkllm.runner.spare import SpareChild

        self.node.spare = SpareChild()
        self._closing.callback(self.node.spare.close)
        if self.hardware.unavailable_reason is None:
            self.node.spare.refill()

    def _cluster_node(self) -> ClusterNode | None:
        from exo_rkllm.daemon.cluster import cluster_node

        return cluster_node(
            self.config,
            self._environment,
            self.dispatcher,
            self.node,
            lambda: self.hardware.board,
            sources=lambda: self.hardware.watch.sources,
            keys=bool(self.keys),
        )

    async def stop(self) -> None:
        """After the dispatcher has drained."""
        await self.downloads.close()
        self._closing.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # ── what changes while it runs ───────────────────────────────────────────────────────────────

    def _watch_models(self) -> None:
        """The folder may be changed by another process: `exo-rkllm import`, an editor, a file manager."""
        catalogue, loop = self.node.catalogue, asyncio.get_running_loop()
        settling = Settling(catalogue.notify)

        def on_change() -> None:
            """On the thread that looked."""
            with suppress(RuntimeError):  # the daemon ended before
                loop.call_soon_threadsafe(settling)

        with suppress(OSError):
            watch = FolderWatch(catalogue.directory, on_change)
            loop.add_reader(watch.fd, watch.holds)
            catalogue.watch = watch
            self._closing.callback(self._end_watch, watch, settling)

    def _end_watch(self, watch: FolderWatch, settling: Settling) -> None:
        self.node.catalogue.watch = None
        asyncio.get_running_loop().remove_reader(watch.fd)
        settling.cancel()
        watch.close()

    def _hardware_changed(self) -> None:
        self.dispatcher.reconfigure(limits(self.config, self.hardware.board, self._pinned()))
        self._update_availability()

    def _update_availability(self) -> None:
        self.node.runtimes, reason = self.hardware.runtimes, self.hardware.unavailable_reason
        if reason is not None:
            self.dispatcher.npu_unavailable(reason, npu_lost=self.hardware.npu_error is not None)
        else:
            self.dispatcher.npu_available()

    def reload(self) -> Mapping[str, JSON]:
        """Take over what can be taken over; a configuration with a mistake leaves the old one in force."""
        try:
            new = self._read()
            keys = read_keys(new.api, self._environment)
        except ConfigError as error:
            log.error("The configuration was not taken over: %s", error)  # noqa: TRY400 - the sentence is all there is
            raise
        pending = differing(self.config, new, AT_START)
        changes = [name for name in differing(self.config, new) if name not in pending]
        changes += ["API keys"] if keys != self.keys else []
        self.config, self.keys = new, keys
        if self.cluster.node is not None and not may_join(self.cluster.node.settings, keys=bool(keys)):
            log.warning("%s", UNNAMED)
            self._spawn(self.cluster.stop())
        self._apply()
        log.info("Configuration taken over: %s.", ", ".join(changes) or "nothing changed")
        if pending:
            log.warning("These changes wait for a restart: %s. systemctl restart exo-rkllm", ", ".join(pending))
        return {"changed": [*changes], "restart": [*pending]}

    def _apply(self) -> None:
        set_level(self.config.log.level)
        self.node.catalogue.aliases = self.config.aliases
        pinned = self._pinned()
        self.dispatcher.reconfigure(limits(self.config, self.hardware.board, pinned))
        self._update_availability()
        for name in sorted(pinned):
            self._spawn(self._preload(name))

    def _pinned(self) -> frozenset[str]:
        names: set[str] = set()
        for name in self.config.models.preload:
            try:
                names.add(self.node.catalogue.resolve(name).id)
            except ExoRkllmError as error:
                log.error("models.preload: %s", error)  # noqa: TRY400 - the sentence is all there is
        return frozenset(names)

    async def _preload(self, name: str) -> None:
        try:
            await self.dispatcher.load(name)
        except ExoRkllmError as error:
            log.error("%s is not preloaded: %s", name, error, extra={"model": name})  # noqa: TRY400 - as above

    def _report(self, lines: Sequence[str]) -> None:
        level = logging.INFO if self.config.runtime.log_level else logging.DEBUG
        for line in lines:
            vendor.log(VENDOR_LEVELS.get(line[:2], level), "%s", line)

    def _available_memory(self) -> int:
        """For a load, which kept conversations make room for."""
        kept = 0 if self.node.prefixes is None else self.node.prefixes.used("memory")
        return available_memory(self.hardware.root) + kept

    def _tokens_so_far(self) -> float:
        """Of finished answers and of those that are being written."""
        return self.serving.generated() + self.dispatcher.running_tokens

    # ── for the faces ────────────────────────────────────────────────────────────────────────────

    def controls(self, facts: Callable[[], Mapping[str, JSON]]) -> ControlContext:
        return ControlContext(
            dispatcher=self.dispatcher,
            ring=self.ring,
            reload=self.reload,
            facts=lambda: {**self.facts(), **facts()},
            pull=self.pull,
            remove=self.remove,
            copy=self.copy,
            create=self.create,
            cluster=self.cluster,
            history=self.history.points,
        )

    async def remove(self, name: str) -> str:
        return await changes.remove(self.node.catalogue, self.dispatcher, name)

    async def copy(self, source: str, name: str) -> str:
        return await asyncio.to_thread(deriving.copy, self.node.catalogue, source, name)

    async def create(self, name: str, modelfile: str) -> str:
        await changes.make_way(self.node.catalogue, self.dispatcher, name)
        return await asyncio.to_thread(deriving.create, self.node.catalogue, name, modelfile)

    def pull(self, asked: PullRequest) -> AsyncGenerator[PullProgress, None]:
        """With the caller's own token and mirror where there are any, else with the daemon's."""
        from exo_rkllm.catalogue.hub import Access
        from exo_rkllm.catalogue.pull import PullTarget, pull

        own = {"HF_ENDPOINT": asked.endpoint, "HF_TOKEN": asked.token}
        access = Access.of({**self._environment, **{name: value for name, value in own.items() if value}})
        soc = self.hardware.board.soc
        name = asked.soc or ("" if soc is None else soc.name)
        return pull(
            self.node.catalogue,
            PullTarget.of(asked.model, name),
            access,
            soc=name,
            name=asked.name,
            replace=asked.replace,
        )

    def _on_npu(self, name: str) -> bool:
        with suppress(ExoRkllmError):
            spec = self.node.engines.get(self.node.engines.name_for(self.node.catalogue.resolve(name)))
            return spec is not None and spec.on_npu
        return False  # it was removed meanwhile

    def runtime(self) -> tuple[str, str] | None:
        """Release and generation of the default one of the vendor's libraries, for the metrics."""
        library = self.hardware.library
        return None if library is None else (library.release, abi.RELEASES[library.release])

    def _discard(self, target: str, file: str) -> None:
        from exo_rkllm.catalogue.pull import PullTarget, stage_key

        soc = self.hardware.board.soc
        repo = PullTarget.of(target, "" if soc is None else soc.name).repo
        self.node.catalogue.discard_stage(stage_key(repo, file))

    async def gallery(self, words: str) -> Sequence[GalleryItem]:
        """What the Hub has for this board."""
        from exo_rkllm.catalogue.choice import BoardRoom
        from exo_rkllm.catalogue.gallery import installed_files, search
        from exo_rkllm.catalogue.hub import Access, Hub

        reading, soc = read_gauges(self.hardware.watch.sources), self.hardware.board.soc
        room = BoardRoom("" if soc is None else soc.name, reading.memory_total, reading.memory_available)
        sources = {entry.id: entry.card.source for entry in self.node.catalogue.list()}
        async with Hub(Access.of(self._environment)) as hub:
            return await search(hub, words, room, installed_files(sources))

    def facts(self) -> Mapping[str, JSON]:
        """What a status says besides the dispatcher's own."""
        board, library, cluster = self.hardware.board, self.hardware.library, self.cluster.view()
        return {
            "board": board.title,
            "board_says": board.sentence,
            "cpus": {"given": sorted(affinity.given_cpus()), "own": sorted(os.sched_getaffinity(0))},
            "kernel_log": kernel_log_value(self.hardware.kernel_log, board),
            # For `top` of a user who may not read the driver's counters.
            "npu": {"load": read_load(self.hardware.watch.sources), "neighbours": self.neighbours.read().plain()},
            "pid": os.getpid(),
            "cluster": None if cluster is None else cluster.plain(),
            "library": "" if library is None else str(library.path),
            "runtimes": runtimes_value(self.hardware.runtimes),
            "models_directory": str(self.node.catalogue.directory),
            "config_files": list(self.config.files),
            "plugins": [asdict(row) for row in self.node.plugins.rows],
        }

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def runtimes_value(search: Search | None) -> list[JSON]:
    """The installed versions of the vendor's library, the default first."""
    installed = () if search is None else search.installed
    return [
        {"version": place.release, "path": str(place.path), "default": number == 0}
        for number, place in enumerate(installed)
    ]


def headline(status: DispatchOverview) -> str:
    """One line for `systemctl status`."""
    if status.draining:
        return "Stopping: running answers may end."
    ready = [model.name for model in status.models if model.state == "ready"]
    if status.unavailable_reason and not ready:
        return status.unavailable_reason
    return f"Ready: {', '.join(ready)}." if ready else "No model is loaded; the first request loads one."


def differing(old: Config, new: Config, among: tuple[str, ...] = ()) -> list[str]:
    """Names of the settings whose values differ, as section.key; `among` holds sections and such names."""
    names: list[str] = []
    for section in fields(old):
        if section.name == "files":
            continue
        before, after = getattr(old, section.name), getattr(new, section.name)
        if not is_dataclass(before):  # aliases
            names += [section.name] if before != after else []
            continue
        names += [
            f"{section.name}.{key.name}"
            for key in fields(before)
            if getattr(before, key.name) != getattr(after, key.name)
        ]
    return [name for name in names if not among or name.partition(".")[0] in among or name in among]
