"""Every part of the daemon but its sockets, made once and held together: configuration, board, library, dispatcher."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack, aclosing, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exo_rkllm import plugins
from exo_rkllm.api.control import ControlContext, PullRequest
from exo_rkllm.backends.base import JSON, Engine, Model
from exo_rkllm.backends.host import EngineHost, engine_host
from exo_rkllm.backends.registry import EngineRegistry
from exo_rkllm.board.counters import read_load
from exo_rkllm.board.detect import Board
from exo_rkllm.board.performance import SOCKET, Performance
from exo_rkllm.board.sampler import Sampler
from exo_rkllm.board.watch import BoardWatch, Monitor
from exo_rkllm.catalogue.contributions import from_plugins
from exo_rkllm.catalogue.progress import PullProgress
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.config import Config
from exo_rkllm.daemon import clocks, engines
from exo_rkllm.daemon.keys import read_keys
from exo_rkllm.daemon.library_watch import LibraryWatch
from exo_rkllm.daemon.memory import available
from exo_rkllm.daemon.node import node
from exo_rkllm.dispatch.dispatcher import Dispatcher
from exo_rkllm.errors import ConfigError, ExoRkllmError
from exo_rkllm.log.ring import Ring
from exo_rkllm.log.setup import set_level
from exo_rkllm.metrics.serving import ServingMetrics
from exo_rkllm.runtime import abi, locate
from exo_rkllm.runtime.locate import Place

if TYPE_CHECKING:
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
    "api.listen",
    "api.port",
    "models.directory",
    "metrics",
)


class Daemon:
    """`begin` and `end` stand around everything; `reload` in between takes a new configuration over."""

    def __init__(self, config: Config, environment: Mapping[str, str], ring: Ring, read: Callable[[], Config]) -> None:
        self.config = config
        self.keys = read_keys(config.api, environment)
        self.ring = ring
        self.node: ClusterNode | None = None
        self._environment = environment
        self._read = read
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = ExitStack()
        self.catalogue = Catalogue(Path(config.models.directory))
        self.kinds = EngineRegistry(instead=config.models.engine)
        self.plugins: plugins.Plugins | None = None
        self._plugins_late = False
        self.watch = BoardWatch(Path(config.board.root), self._board_changed)
        self.library: Place | None = None
        self._library_trouble: ExoRkllmError | None = None
        self.serving = ServingMetrics()
        self.sampler = Sampler(lambda: self.watch.sources, asyncio.get_running_loop())
        self._closing.callback(self.sampler.close)
        self.dispatcher = Dispatcher(
            find=self.catalogue.resolve,
            engine=self._engine,
            needs=lambda model: engines.needs(model, self.kinds),
            available=lambda: available(Path(config.board.root)),
            observer=self.serving,
            limits=engines.limits(config, self.watch.board, frozenset()),
        )

    # ── begin, end ───────────────────────────────────────────────────────────────────────────────

    async def plug_in(self) -> None:
        """Before anything works; beside the loop, and what is not there by then counts when it is."""
        loop = asyncio.get_running_loop()

        def changed() -> None:
            with suppress(RuntimeError):  # the daemon ended before its slowest plugin
                loop.call_soon_threadsafe(self._plugins_changed)

        wanted = self.config.plugins
        load = functools.partial(plugins.load, wanted.allow, more=wanted.load, changed=changed)
        self.plugins = await loop.run_in_executor(None, load)
        self._take_plugins()

    def _plugins_changed(self) -> None:
        """Also called by those that were quick, of which there is nothing more to take."""
        if self.plugins is None or not self._plugins_late:
            return
        self._take_plugins()
        self._apply()

    def _take_plugins(self) -> None:
        found = self.plugins
        if found is None:
            return
        self._plugins_late = bool(found.loading)
        self.kinds = EngineRegistry(found.kinds, self.config.models.engine, found.loading)
        self.catalogue.take(from_plugins(found))

    def begin(self) -> None:
        """Nothing here waits: models that are to be there from the start load while the API already answers."""
        log.info("%s", self.watch.board.sentence)
        if self.config.runtime.log_level:
            # Children inherit it; the library reads it when a model is loaded (reference 4.6).
            os.environ["RKLLM_LOG_LEVEL"] = str(self.config.runtime.log_level)
        self._watch_board()
        self._watch_library()
        self._look_at_library()
        self._apply()
        self._spawn(self._sample_while_answering())
        if self.config.board.performance:
            unit = Path(self.config.board.root) / SOCKET.relative_to("/")
            self._spawn(clocks.follow(self.dispatcher.subscribe(), Performance(unit)))

    async def join(self) -> None:
        """The exo cluster, once the API answers: a board that cannot join still serves."""
        try:
            joining = node(self.config, self._environment, self.dispatcher, self.catalogue, lambda: self.watch.board)
            if joining is not None:
                await joining.start()
                self.node = joining
        except (ExoRkllmError, OSError) as error:
            log.error("No exo cluster is joined: %s", error)  # noqa: TRY400 - the sentence is all there is

    async def leave(self) -> None:
        """So that no node of the cluster waits for this board."""
        leaving, self.node = self.node, None
        if leaving is not None:
            await leaving.stop()

    async def end(self) -> None:
        """After the dispatcher has drained."""
        self._closing.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _engine(self, model: Model) -> Engine:
        """While the file loads, its template is compiled beside the loop: the first question finds it done."""
        asyncio.get_running_loop().run_in_executor(None, self._compile, model.id)
        return self.kinds.make(model, self._host())

    def _compile(self, name: str) -> None:
        with suppress(ExoRkllmError):  # whoever asks is told
            self.catalogue.get(name).chat_format()

    async def _sample_while_answering(self) -> None:
        """An answer wakes the NPU, whose counters are worth sampling then."""
        async with aclosing(self.dispatcher.subscribe()) as changes:
            async for status in changes:
                if status.running:
                    self.sampler.touch()

    # ── board and library ────────────────────────────────────────────────────────────────────────

    def _watch_board(self) -> None:
        """A board below another root is a picture of one, of which the kernel tells nothing."""
        if self.config.board.root != "/":
            return
        with suppress(OSError, ImportError):
            self.watch.start(asyncio.get_running_loop(), Monitor())
            self._closing.callback(self.watch.close)

    def _watch_library(self) -> None:
        places = [place.path.absolute() for place in locate.search(self._chosen()).places]
        with suppress(OSError):
            appearance = LibraryWatch(places, self._library_changed)
            self._closing.callback(appearance.close)

    def _chosen(self) -> Path | None:
        return Path(self.config.runtime.library) if self.config.runtime.library else None

    def _look_at_library(self) -> None:
        try:
            self.library = place = locate.search(self._chosen()).require()
        except ExoRkllmError as trouble:
            self.library, self._library_trouble = None, trouble
            log.warning("%s", trouble)
        else:
            self._library_trouble = None
            log.info("%s is %s.", place.path, place.held)

    def _library_changed(self) -> None:
        self._look_at_library()
        self._tell_dispatcher()

    def _board_changed(self, before: Board, after: Board) -> None:
        self._tell_dispatcher()
        self.dispatcher.reconfigure(engines.limits(self.config, after, self._pinned()))

    def _tell_dispatcher(self) -> None:
        reason = engines.unavailable_reason(self.watch.board, self._library_trouble)
        if reason is not None:
            self.dispatcher.npu_unavailable(reason)
        else:
            self.dispatcher.npu_available()

    def _host(self) -> EngineHost:
        library = None if self.library is None else self.library.path
        return engine_host(self.config, library, self._report)

    def _report(self, lines: Sequence[str]) -> None:
        asked_for = logging.INFO if self.config.runtime.log_level else logging.DEBUG
        for line in lines:
            vendor.log(VENDOR_LEVELS.get(line[:2], asked_for), "%s", line)

    # ── configuration ────────────────────────────────────────────────────────────────────────────

    def reload(self) -> Mapping[str, JSON]:
        """Takes over what can be taken over; a configuration with a mistake leaves the old one in force."""
        try:
            new = self._read()
            keys = read_keys(new.api, self._environment)
        except ConfigError as error:
            log.error("The configuration was not taken over: %s", error)  # noqa: TRY400 - the sentence is all there is
            raise
        waits = list(differing(self.config, new, AT_START))
        changed = [name for name in differing(self.config, new) if name not in waits]
        changed += ["API keys"] if keys != self.keys else []
        self.config, self.keys = new, keys
        self._apply()
        log.info("Configuration taken over: %s.", ", ".join(changed) or "nothing changed")
        if waits:
            log.warning("These changes wait for a restart: %s. systemctl restart exo-rkllm", ", ".join(waits))
        return {"changed": changed, "restart": waits}

    def _apply(self) -> None:
        set_level(self.config.log.level)
        pinned = self._pinned()
        self.dispatcher.reconfigure(engines.limits(self.config, self.watch.board, pinned))
        self._tell_dispatcher()
        for name in sorted(pinned):
            self._spawn(self._preload(name))

    def _pinned(self) -> frozenset[str]:
        found: set[str] = set()
        for name in self.config.models.preload:
            try:
                found.add(self.catalogue.resolve(name).id)
            except ExoRkllmError as error:
                log.error("models.preload: %s", error)  # noqa: TRY400 - the sentence is all there is
        return frozenset(found)

    async def _preload(self, name: str) -> None:
        try:
            await self.dispatcher.load(name)
        except ExoRkllmError as error:
            log.error("%s is not preloaded: %s", name, error, extra={"model": name})  # noqa: TRY400 - as above

    # ── for the faces ────────────────────────────────────────────────────────────────────────────

    def controls(self, facts: Callable[[], Mapping[str, JSON]]) -> ControlContext:
        return ControlContext(
            dispatcher=self.dispatcher,
            ring=self.ring,
            reload=self.reload,
            facts=lambda: {**self.facts(), **facts()},
            pull=self.pull,
            remove=self.remove,
            cluster=lambda: self.node,
        )

    async def remove(self, name: str) -> str:
        """By its full name only; gigabytes are deleted beside the loop."""
        name = self.catalogue.removable(name)
        await self.dispatcher.unload(name)
        await asyncio.get_running_loop().run_in_executor(None, self.catalogue.remove, name)
        return name

    def pull(self, asked: PullRequest) -> AsyncGenerator[PullProgress, None]:
        """With the asker's own token and mirror where there are any, else with the daemon's."""
        from exo_rkllm.catalogue.hub import Access
        from exo_rkllm.catalogue.pull import PullTarget, pull

        named = {"HF_ENDPOINT": asked.endpoint, "HF_TOKEN": asked.token}
        access = Access.of({**self._environment, **{name: value for name, value in named.items() if value}})
        here = self.watch.board.soc
        soc = asked.soc or ("" if here is None else here.name)
        return pull(
            self.catalogue, PullTarget.parse(asked.model), access, soc=soc, name=asked.name, replace=asked.replace
        )

    def runtime(self) -> tuple[str, str] | None:
        """Release and generation of the vendor's library, for the metrics."""
        version = None if self.library is None else self.library.version
        return None if version is None else (version.release, abi.RELEASES[version.release])

    def facts(self) -> Mapping[str, JSON]:
        """What a status says besides the dispatcher's own."""
        board = self.watch.board
        return {
            "board": board.title,
            "board_says": board.sentence,
            # For `top` of a user who may not read the driver's counters.
            "npu": {"load": read_load(self.watch.sources)},
            "cluster": None if self.node is None else self.node.view().plain(),
            "library": "" if self.library is None else str(self.library.path),
            "models_directory": str(self.catalogue.directory),
            "config_files": list(self.config.files),
            "plugins": [] if self.plugins is None else [asdict(row) for row in self.plugins.rows],
        }

    def headline(self) -> str:
        """One line for `systemctl status`."""
        status = self.dispatcher.status()
        if status.draining:
            return "Stopping: running answers may end."
        ready = [model.name for model in status.models if model.state == "ready"]
        if status.unavailable_reason and not ready:
            return status.unavailable_reason
        return f"Ready: {', '.join(ready)}." if ready else "No model is loaded; the first request loads one."

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def differing(old: Config, new: Config, among: tuple[str, ...] = ()) -> list[str]:
    """Names of the settings whose values differ, as section.key; `among` holds sections and such names."""
    found: list[str] = []
    for section in fields(old):
        if section.name == "files":
            continue
        before, after = getattr(old, section.name), getattr(new, section.name)
        names = [
            f"{section.name}.{key.name}"
            for key in fields(before)
            if getattr(before, key.name) != getattr(after, key.name)
        ]
        found += [name for name in names if not among or section.name in among or name in among]
    return found
