"""Runs what the packages offer: each plugin once a process, on a thread of its own, so that none can stop another.

A plugin that takes longer than the caller's limit goes on loading; what it registers counts from then on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from exo_rkllm.errors import ExoRkllmError, PluginConflict, PluginInvalid
from exo_rkllm.plugins.modules import load_plugin
from exo_rkllm.plugins.offers import ENGINES, LISTED, Offer, allowed
from exo_rkllm.plugins.registry import PROCESS, THREAD, Registry
from exo_rkllm.plugins.spec import ModelSpec

if TYPE_CHECKING:
    from exo_rkllm.backends.registry import EngineSpec

log = logging.getLogger(__name__)

# `waiting` is one that a running daemon has not seen yet.
State: TypeAlias = Literal["used", "refused", "failed", "conflict", "loading", "waiting"]
# Seconds that a serving process waits for each plugin; commands wait longer.
PATIENCE = 1.0
# Plugins start in their order, each this long before the next, so that quick ones also register in that order.
HEAD_START = 0.1

NOT_LISTED = "Not among the names that EXO_RKLLM_PLUGINS, or allow under [plugins], lists."


@dataclass(frozen=True, slots=True)
class PluginStatus:
    """One line of the list."""

    group: str
    name: str
    value: str
    package: str
    version: str
    state: State
    error: str = ""


class PluginRun:
    """One value being loaded, or loaded: `state` and `error` are final once `thread` has ended."""

    def __init__(self, offer: Offer, on_end: Callable[[], None]) -> None:
        self.offer = offer
        self.state: State = "loading"
        self.error = ""
        self.engine: EngineSpec | None = None
        self._on_end = on_end
        self.start = time.monotonic()
        self.thread = threading.Thread(target=self._run, name=f"{THREAD}{offer.name}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        offer = self.offer
        try:
            if offer.group == LISTED:
                load_plugin(offer.value)
            elif offer.group == ENGINES:
                self.engine = _engine(offer, _object(offer.value))
            else:
                _call(offer, _object(offer.value))
            self.state = "used"
        except PluginConflict as error:
            self.state, self.error = "conflict", str(error)
        except BaseException as error:  # foreign code, which may also call sys.exit
            self.state, self.error = "failed", sentence(error)
            log.debug("%s did not load.", offer.value, exc_info=True)
        if self.error:
            _warn(offer, self.error)
        self._on_end()


def _warn(offer: Offer, error: object) -> None:
    log.warning("The plugin %s (%s) is not used: %s", offer.name, offer.value, error)


def sentence(error: BaseException) -> str:
    """One line of what went wrong in foreign code."""
    if isinstance(error, ExoRkllmError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def _object(value: str) -> Any:
    """What `module:name` means; None for a module alone, which is loaded for its effect."""
    module, _, path = value.partition(":")
    target: Any = import_module(module.strip())
    if not path:
        return None
    for name in path.partition("[")[0].strip().split("."):
        target = getattr(target, name)
    return target


def _call(offer: Offer, target: Any) -> None:
    if target is None:
        return
    if not callable(target):
        raise PluginInvalid(f"{offer.value} is {type(target).__name__}, not a function.", f"{offer.name} = module:name")
    target()


def _engine(offer: Offer, target: Any) -> EngineSpec:
    from exo_rkllm.backends.registry import BUILT_IN, EngineSpec

    if not isinstance(target, EngineSpec):
        raise PluginInvalid(
            f"{offer.value} is no exo_rkllm.backends.registry.EngineSpec.", f"{offer.name} = module:SPEC"
        )
    if target.name != offer.name:
        raise PluginInvalid(
            f"The entry point {offer.name!r} has an EngineSpec named {target.name!r}.", "Give both the same name."
        )
    if target.name in BUILT_IN:
        raise PluginConflict(f"There is an engine {target.name!r} of ours.", "Give the plugin's another name.")
    return target


class LoadedPlugins:
    """What one process has of its plugins. The rows of slow ones change by themselves."""

    def __init__(self, rows: Sequence[PluginRun | PluginStatus] = (), registry: Registry = PROCESS) -> None:
        self._rows = tuple(rows)
        self._registry = registry

    @property
    def rows(self) -> tuple[PluginStatus, ...]:
        return tuple(
            row if isinstance(row, PluginStatus) else _status(row.offer, row.state, row.error) for row in self._rows
        )

    @property
    def engines(self) -> Mapping[str, EngineSpec]:
        """The engines that have been loaded by now."""
        runs = (row for row in self._rows if isinstance(row, PluginRun))
        return MappingProxyType({run.engine.name: run.engine for run in runs if run.engine is not None})

    @property
    def specs(self) -> Mapping[str, ModelSpec]:
        return self._registry.specs

    @property
    def processors(self) -> Mapping[str, Callable[..., Any]]:
        return self._registry.processors

    @property
    def loading(self) -> tuple[str, ...]:
        return tuple(row.name for row in self.rows if row.state == "loading")


def _status(offer: Offer, state: State, error: str = "") -> PluginStatus:
    return PluginStatus(offer.group, offer.name, offer.value, offer.package, offer.version, state, error)


def run(
    entries: Sequence[Offer],
    allow: Sequence[str],
    *,
    patience: float = PATIENCE,
    on_change: Callable[[], None] = lambda: None,
    registry: Registry = PROCESS,
) -> LoadedPlugins:
    """Start what is allowed and was not started yet, and wait until each has ended or has run for `patience` seconds.

    They run beside each other: one that hangs takes nothing of another's time. Each calls `on_change`, on its own
    thread, when it ends.
    """
    rows: list[PluginRun | PluginStatus] = []
    packages: Counter[tuple[str, str]] = Counter()
    for offer in entries:
        if offer.group != LISTED and not allowed(offer.name, allow):
            rows.append(_status(offer, "refused", NOT_LISTED))
            continue
        packages[offer.group, offer.name] += offer.group != LISTED
        if packages[offer.group, offer.name] > 1:
            error = PluginConflict(
                f"Another package has a plugin {offer.name!r} in this group.", f"pip uninstall {offer.package}"
            )
            rows.append(_status(offer, "conflict", str(error)))
            _warn(offer, error)
            continue
        # One value in two groups is one plugin; as an engine it is something else.
        key = (ENGINES if offer.group == ENGINES else "", offer.value)
        with registry.lock:
            plugin = registry.runs.get(key)
            if plugin is None:
                plugin = registry.runs[key] = PluginRun(offer, on_change)
        plugin.thread.join(min(HEAD_START, patience))
        rows.append(plugin)
    for row in rows:
        if isinstance(row, PluginRun):
            row.thread.join(max(0.0, row.start + patience - time.monotonic()))
    return LoadedPlugins(rows, registry)
