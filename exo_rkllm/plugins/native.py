"""Native libraries in this very process, where somebody asks for them; a model's own process has `runner.preload`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from exo_rkllm.plugins.offers import names
from exo_rkllm.plugins.registry import PROCESS, Registry
from exo_rkllm.plugins.spec import PathLike
from exo_rkllm.runner.preload import open_library, where

VARIABLE = "EXO_RKLLM_BACKEND_PLUGINS"


def load_backend_plugin(plugin: PathLike, init: str = "", registry: Registry = PROCESS) -> None:
    """Once a path, however often it is asked for; `init` is called then, and only then."""
    path = where(os.fspath(plugin))
    with registry.lock:
        if path not in registry.native:
            registry.native[path] = open_library(path, init)


def load_backend_plugins(
    plugins: Sequence[PathLike] | PathLike | None = None, registry: Registry = PROCESS
) -> tuple[str, ...]:
    """A list, or a text with commas. What is loaded by then, of this call and of others."""
    wanted: Sequence[PathLike] = plugins if isinstance(plugins, Sequence) else [] if plugins is None else [plugins]
    for one in names(wanted) if isinstance(wanted, str) else wanted:
        load_backend_plugin(one, registry=registry)
    return loaded_backend_plugins(registry)


def load_backend_plugins_from_env(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """What EXO_RKLLM_BACKEND_PLUGINS lists: nothing of the package reads it for the process that it runs in."""
    return load_backend_plugins(environment.get(VARIABLE, ""))


def loaded_backend_plugins(registry: Registry = PROCESS) -> tuple[str, ...]:
    with registry.lock:
        return tuple(registry.native)
