"""Builds what serves models on this machine: catalogue, engines and dispatcher, with what plugins add to each.

Nothing else in the package constructs them. The daemon, the command line, classic exo's engine and current exo's all
call `open_node`, so that a plugin has the same effect wherever a model is loaded.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from exo_rkllm import plugins
from exo_rkllm.backends.base import Engine, GenerationEvent, GenerationRequest, Model
from exo_rkllm.backends.registry import EngineRegistry
from exo_rkllm.catalogue.contributions import from_plugins
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.config import Config
from exo_rkllm.errors import ExoRkllmError
from exo_rkllm.plugins import LoadedPlugins
from exo_rkllm.runtime import locate
from exo_rkllm.runtime.locate import Search

if TYPE_CHECKING:  # imported where they are used: a command that only looks at models loads and serves none
    from exo_rkllm.backends.host import EngineHost
    from exo_rkllm.backends.observer import Observer
    from exo_rkllm.backends.prefix_store import PrefixStore
    from exo_rkllm.dispatch.dispatcher import Dispatcher
    from exo_rkllm.dispatch.state import DispatchLimits, ModelNeeds
    from exo_rkllm.runner.parent import LineSink
    from exo_rkllm.runner.spare import SpareChild
    from exo_rkllm.runtime.selection import RuntimeChoice
    from exo_rkllm.vision.pictures import Pictures

# What a load takes besides the file where no card says more (reference 3.2, an estimate).
OVERHEAD = 300 << 20
UNLIMITED = 1 << 62
# Where programs on librknnrt start, llama.cpp's NPU build among them (rknn-vision 3). It puts 2 GiB into a domain, half
# of what placement counts with, and goes on in the next one.
RKNN_DOMAIN = 0
RKNN_SHARE = 2
# Seconds that the running answers of a process without a daemon get when it ends.
DRAIN = 0.5
NO_PLUGINS = LoadedPlugins()


def open_node(
    config: Config,
    loaded: LoadedPlugins | None = None,
    *,
    models: Path | None = None,
    library: Path | None = None,
    engine: str = "",
    root: Path | None = None,
    report: LineSink = lambda _lines: None,
) -> Node:
    """The node that `config` describes; `models`, `library`, `engine` and the board's `root` replace what it says.

    `loaded` are this process's plugins. Without them the configured ones are loaded here, which waits for each as long
    as `plugins.load` does by default. `report` receives the vendor library's own lines.
    """
    if loaded is None:
        loaded = plugins.load(config.plugins.allow, more=config.plugins.load)
    folder = models or Path(config.models.directory)
    return Node(config, loaded, folder, library, engine or config.models.engine, root, report)


class Node:
    """One process's catalogue and engines, and the dispatcher over them where it serves.

    `runtimes` are the vendor libraries of which the next load uses one; a daemon changes them while it runs. Without
    them each load looks for itself, or uses `library`, whatever else is installed.
    """

    def __init__(
        self,
        config: Config,
        loaded: LoadedPlugins,
        models: Path,
        library: Path | None,
        engine: str,
        root: Path | None,
        report: LineSink,
    ) -> None:
        self.config = config
        self.runtimes: Search | None = None
        self._library = library
        self._engine = engine
        self._root = root or Path(config.board.root)
        self._report = report
        self._pictures: Pictures | None = None
        self.prefixes: PrefixStore | None = None  # a daemon keeps conversations, other processes are too short
        self.spare: SpareChild | None = None  # for the same reason
        self.catalogue = Catalogue(models)
        self.catalogue.aliases = config.aliases
        self.use_plugins(loaded)

    def use_plugins(self, loaded: LoadedPlugins) -> None:
        """Take over what `loaded` has registered by now. Models that are in memory stay as they are."""
        self.plugins = loaded
        self.engines = EngineRegistry(loaded.engines, self._engine, loaded.loading)
        self.catalogue.set_contributions(from_plugins(loaded))

    def find(self, name: str) -> Model:
        """The model file of that path where `name` looks like one, else the catalogue's entry; raises ModelNotFound."""
        if not is_file(name):
            return self.catalogue.resolve(name)
        from exo_rkllm.backends.rkllm_file import RkllmFile

        return RkllmFile(Path(name))

    def host(self) -> EngineHost:
        """What a load is given besides the model: libraries, platform and CPUs as they are now."""
        from exo_rkllm.backends.host import engine_host

        return engine_host(
            self.config, self.search(), self._report, self._root, self.pictures, self.prefixes, self.spare
        )

    def search(self) -> Search:
        """The vendor libraries that a load may use."""
        if self.runtimes is not None:
            return self.runtimes
        if self._library is not None:
            return locate.only(self._library)
        return locate.search(Path(self.config.runtime.library) if self.config.runtime.library else None)

    def runtime_of(self, model: Model) -> RuntimeChoice | None:
        """The vendor library that a load of the model would use now; None for a model that has no file.

        Raises where the load would raise for it.
        """
        if model.path is None:
            return None
        from exo_rkllm.runtime import modelfile, selection

        wanted = str(model.options.get(selection.OPTION, ""))
        return selection.choose(self.search(), modelfile.inspect(model.path), wanted)

    def pictures(self) -> Pictures:
        """What this process has been shown; made, and its modules imported, with the first picture."""
        if self._pictures is None:
            from exo_rkllm.vision.pictures import Pictures

            self._pictures = Pictures(self._report)
        return self._pictures

    async def prepare(self, request: GenerationRequest, model: Model) -> GenerationRequest:
        """A request with images as the model's engine wants it; raises where the model cannot see, or the images
        cannot be read, before anything is loaded for it."""
        spec = self.engines.of(model)
        spec.check_sight(model)
        if not spec.encoder:
            return request
        from exo_rkllm.backends.rkllm_vision import with_pixels

        return await with_pixels(request, model, self.pictures())

    def engine(self, model: Model) -> Engine:
        """The engine of one load, which kept conversations make room for."""
        if self.prefixes is not None:
            self.prefixes.make_room(self.needs(model).memory)
        return self.engines.make(model, self.host())

    def dispatcher(
        self,
        limits: DispatchLimits | None = None,
        *,
        observer: Observer | None = None,
        available: Callable[[], int] | None = None,
        find: Callable[[str], Model] | None = None,
    ) -> Dispatcher:
        """Requests for the models of this node; call it on the loop that will serve them.

        `available` tells the bytes of free memory. Without it a load is admitted whatever it takes, one model at a
        time: for a process whose only user asked for exactly this model.
        """
        from exo_rkllm.dispatch.dispatcher import Dispatcher
        from exo_rkllm.dispatch.state import DispatchLimits, ModelNeeds

        if limits is None:
            limits = DispatchLimits(keep_alive=-1, max_loaded=1, reserve=0, queue_per_client=DispatchLimits().queue)
        return Dispatcher(
            find=find or self.catalogue.resolve,
            engine=self.engine,
            needs=self.needs if available is not None else lambda _model: ModelNeeds(),
            available=available or (lambda: UNLIMITED),
            observer=observer,
            limits=limits,
            prepare=self.prepare,
            prefixes=None if self.prefixes is None else self.prefixes.tally,
        )

    def needs(self, model: Model) -> ModelNeeds:
        """Memory from the card where there is one, otherwise the file's size plus OVERHEAD."""
        from exo_rkllm.dispatch.state import ModelNeeds

        size = 0
        if model.path is not None:
            with suppress(OSError):  # loading it says what is wrong with the file
                size = model.path.stat().st_size
        memory = model.card.memory if isinstance(model, Entry) and model.card.memory else size and size + OVERHEAD
        if model.vision is not None:
            with suppress(OSError):
                memory += model.vision.file.stat().st_size
        spec = self.engines.get(self.engines.name_for(model))
        if spec is None or not self.engines.uses_npu(model):
            return ModelNeeds(memory)
        if not spec.on_npu:  # a build of llama.cpp for the NPU
            return ModelNeeds(memory, RKNN_SHARE * max(size, 1), RKNN_DOMAIN, library=False)
        domain = model.options.get("base_domain_id")
        return ModelNeeds(memory, max(size, 1), domain if isinstance(domain, int) else self._only_domain(model))

    def _only_domain(self, model: Model) -> int | None:
        """Domain 0 for a model of a release that takes no other; looked at only where such a release is installed."""
        from exo_rkllm.backends.host import takes_domains

        if all(takes_domains(place.release) for place in self.search().installed):
            return None
        with suppress(ExoRkllmError):  # loading it says what is wrong
            choice = self.runtime_of(model)
            return None if choice is None or takes_domains(choice.release) else 0
        return None


def is_file(name: str) -> bool:
    """Whether a user who gives `name` means a model's file rather than an entry of the catalogue."""
    return name.endswith(".rkllm") or "/" in name or Path(name).is_file()


class LocalSource:
    """Answers from a dispatcher of this process, where no daemon serves the board."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def answer(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        return self._dispatcher.generate(request, client=request.id)

    async def load(self, model: str) -> None:
        await self._dispatcher.load(model)

    async def close(self) -> None:
        await self._dispatcher.drain(DRAIN)
