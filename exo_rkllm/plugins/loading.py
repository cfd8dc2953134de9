"""Running what the packages offer: each plugin once a process, on a thread of its own, so that none can stop another.

A plugin that takes longer than the caller's patience goes on loading; what it brings counts from then on.
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
# What a process that serves gives to all its plugins together; commands, where nobody waits, give more.
PATIENCE = 1.0
# What each still gets when that is used up: the order of registration stays the same where plugins are quick.
LEAST = 0.1

NOT_LISTED = "Not among the names that EXO_RKLLM_PLUGINS, or allow under [plugins], lists."


@dataclass(frozen=True, slots=True)
class Plugin:
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

    def __init__(self, offer: Offer, done: Callable[[], None]) -> None:
        self.offer = offer
        self.state: State = "loading"
        self.error = ""
        self.kind: EngineSpec | None = None
        self._done = done
        self.thread = threading.Thread(target=self._run, name=f"{THREAD}{offer.name}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        offer = self.offer
        try:
            if offer.group == LISTED:
                load_plugin(offer.value)
            elif offer.group == ENGINES:
                self.kind = _kind(offer, _found(offer.value))
            else:
                _called(offer, _found(offer.value))
            self.state = "used"
        except PluginConflict as error:
            self.state, self.error = "conflict", str(error)
        except BaseException as error:  # foreign code, which may also call sys.exit
            self.state, self.error = "failed", sentence(error)
            log.debug("%s did not load.", offer.value, exc_info=True)
        if self.error:
            log.warning("The plugin %s (%s) is not used: %s", offer.name, offer.value, self.error)
        self._done()


def sentence(error: BaseException) -> str:
    """One line of what went wrong in foreign code."""
    if isinstance(error, ExoRkllmError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def _found(value: str) -> Any:
    """What `module:name` means; None for a module alone, which is loaded for its effect."""
    module, _, path = value.partition(":")
    found: Any = import_module(module.strip())
    if not path:
        return None
    for name in path.partition("[")[0].strip().split("."):
        found = getattr(found, name)
    return found


def _called(offer: Offer, found: Any) -> None:
    if found is None:
        return
    if not callable(found):
        raise PluginInvalid(f"{offer.value} is {type(found).__name__}, not a function.", f"{offer.name} = module:name")
    found()


def _kind(offer: Offer, found: Any) -> EngineSpec:
    from exo_rkllm.backends.registry import BUILT_IN, EngineSpec

    if not isinstance(found, EngineSpec):
        raise PluginInvalid(
            f"{offer.value} is no exo_rkllm.backends.registry.EngineSpec.", f"{offer.name} = module:SPEC"
        )
    if found.name != offer.name:
        raise PluginInvalid(
            f"The entry point {offer.name!r} has an EngineSpec named {found.name!r}.", "Give both the same name."
        )
    if found.name in BUILT_IN:
        raise PluginConflict(f"There is an engine {found.name!r} of ours.", "Give the plugin's another name.")
    return found


class Plugins:
    """What one process has of its plugins. The rows of slow ones change by themselves."""

    def __init__(self, rows: Sequence[tuple[Offer, PluginRun | Plugin]], registry: Registry) -> None:
        self._rows = tuple(rows)
        self._registry = registry

    @property
    def rows(self) -> tuple[Plugin, ...]:
        return tuple(one if isinstance(one, Plugin) else _row(offer, one.state, one.error) for offer, one in self._rows)

    @property
    def kinds(self) -> Mapping[str, EngineSpec]:
        """The engines that are here by now."""
        found = {
            one.kind.name: one.kind for _, one in self._rows if isinstance(one, PluginRun) and one.kind is not None
        }
        return MappingProxyType(found)

    @property
    def specs(self) -> Mapping[str, ModelSpec]:
        return self._registry.specs

    @property
    def processors(self) -> Mapping[str, Callable[..., Any]]:
        return self._registry.processors

    @property
    def loading(self) -> tuple[str, ...]:
        return tuple(row.name for row in self.rows if row.state == "loading")


def _row(offer: Offer, state: State, error: str = "") -> Plugin:
    return Plugin(offer.group, offer.name, offer.value, offer.package, offer.version, state, error)


def run(
    offered: Sequence[Offer],
    allow: Sequence[str],
    *,
    patience: float = PATIENCE,
    changed: Callable[[], None] = lambda: None,
    registry: Registry = PROCESS,
) -> Plugins:
    """Start what is allowed and was not started yet; `changed` is called, on its thread, by each that ends later."""
    ends = time.monotonic() + patience
    rows: list[tuple[Offer, PluginRun | Plugin]] = []
    taken: Counter[tuple[str, str]] = Counter()
    for offer in offered:
        if offer.group != LISTED and not allowed(offer.name, allow):
            rows.append(
                (
                    offer,
                    _row(offer, "refused", NOT_LISTED),
                )
            )
            continue
        taken[offer.group, offer.name] += offer.group != LISTED
        if taken[offer.group, offer.name] > 1:
            error = PluginConflict(
                f"Another package has a plugin {offer.name!r} in this group.", f"pip uninstall {offer.package}"
            )
            rows.append((offer, _row(offer, "conflict", str(error))))
            log.warning("The plugin %s (%s) is not used: %s", offer.name, offer.value, error)
            continue
        # One value in two groups is one plugin; as an engine it is something else.
        key = (ENGINES if offer.group == ENGINES else "", offer.value)
        with registry.lock:
            begun: PluginRun | None = registry.runs.get(key)
            if begun is None:
                begun = registry.runs[key] = PluginRun(offer, changed)
        begun.thread.join(max(LEAST, ends - time.monotonic()))
        rows.append((offer, begun))
    return Plugins(rows, registry)
