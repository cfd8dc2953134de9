"""The one place in this process where plugins leave what they bring.

A plugin registers by being imported, so there must be something that it can reach without being handed it: PROCESS is
the only such object of the package. Whoever uses what was registered gets it as a value.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any

from exo_rkllm.errors import PluginConflict, PluginInvalid
from exo_rkllm.plugins.spec import ModelSpec

THREAD = "plugin "


class Registry:
    """Safe to use from the threads that plugins load in."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.modules: dict[str, ModuleType] = {}
        self.native: dict[str, Any] = {}
        self.runs: dict[tuple[str, str], Any] = {}  # `PluginRun`s of loading.py, once a process
        self._specs: dict[str, ModelSpec] = {}
        self._by: dict[str, str] = {}
        self._processors: dict[str, Callable[..., Any]] = {}

    @property
    def specs(self) -> Mapping[str, ModelSpec]:
        """By model type, as they are now."""
        with self.lock:
            return MappingProxyType(dict(self._specs))

    @property
    def processors(self) -> Mapping[str, Callable[..., Any]]:
        with self.lock:
            return MappingProxyType(dict(self._processors))

    def register(self, spec: ModelSpec) -> ModelSpec:
        """All of its types or none; an equal spec again changes nothing, since a plugin may run twice."""
        types = spec.normalized_model_types()
        with self.lock:
            for name in types:
                if name in self._specs and self._specs[name] is not spec and self._specs[name] != spec:
                    raise PluginConflict(
                        f"Another ModelSpec is registered for the model type {name!r} already, by {self._by[name]}.",
                        "exo-rkllm plugins lists who is here; EXO_RKLLM_PLUGINS chooses among them.",
                    )
            for name in types:
                if self._specs.setdefault(name, spec) is spec:
                    self._by.setdefault(name, _who())
        return spec

    def register_processor(self, name: str, make: Callable[..., Any]) -> None:
        if not name or not callable(make):
            raise PluginInvalid("A processor needs a name and something to call.", 'register_processor("NAME", Class)')
        with self.lock:
            if self._processors.setdefault(name.lower(), make) is not make:
                raise PluginConflict(f"There is a processor {name.lower()!r} already.", "Give it another name.")


def _who() -> str:
    """Plugins load on threads that are named after them."""
    name = threading.current_thread().name
    return f"the {name}" if name.startswith(THREAD) else "this program"


PROCESS = Registry()
