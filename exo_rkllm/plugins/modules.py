"""Loads by name or path, once a process: Python modules, and native libraries where somebody asks for them here.

The process of a model loads its own native libraries: `runner.preload`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from exo_rkllm.errors import PluginMissing
from exo_rkllm.plugins.offers import names
from exo_rkllm.plugins.registry import PROCESS, Registry
from exo_rkllm.plugins.spec import PathLike
from exo_rkllm.runner.preload import open_library, where

VARIABLE = "EXO_RKLLM_BACKEND_PLUGINS"


def load_plugin(plugin: PathLike, registry: Registry = PROCESS) -> ModuleType:
    """Run once a process; what goes wrong in the module's own code is raised as it is."""
    name = os.fspath(plugin)
    path = Path(name).expanduser()
    is_file = name.endswith(".py") or os.sep in name
    key = str(path.resolve()) if is_file else name
    with registry.lock:
        if key in registry.modules:
            return registry.modules[key]
    module = _from_file(path.resolve()) if is_file else _by_name(name)
    with registry.lock:
        return registry.modules.setdefault(key, module)


def _by_name(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        # A plugin that lacks a module of its own is another matter, and says so itself.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise PluginMissing(f"There is no module {name!r} for a plugin.", f"{sys.executable} -m pip list") from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise PluginMissing(f"There is no plugin {path}.", f"ls {path.parent}")
    name = f"_exo_rkllm_plugin_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginMissing(f"{path} is no Python file.", "A plugin's file is called NAME.py.")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


# ── native libraries ─────────────────────────────────────────────────────────────────────────────


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
    paths: Sequence[PathLike] = plugins if isinstance(plugins, Sequence) else [] if plugins is None else [plugins]
    for one in names(paths) if isinstance(paths, str) else paths:
        load_backend_plugin(one, registry=registry)
    return loaded_backend_plugins(registry)


def load_backend_plugins_from_env(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """What EXO_RKLLM_BACKEND_PLUGINS lists: nothing of the package reads it for the process that it runs in."""
    return load_backend_plugins(environment.get(VARIABLE, ""))


def loaded_backend_plugins(registry: Registry = PROCESS) -> tuple[str, ...]:
    with registry.lock:
        return tuple(registry.native)
