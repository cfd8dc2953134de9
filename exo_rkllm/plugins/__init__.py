"""Models and engines of other packages: what a plugin calls, and what a host calls to load plugins.

Importing this is cheap and needs little of the package, so that a plugin may do it anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from exo_rkllm.errors import ConfigError
from exo_rkllm.plugins import adapting, loading
from exo_rkllm.plugins.loading import PATIENCE, LoadedPlugins, PluginStatus
from exo_rkllm.plugins.modules import (
    load_backend_plugin,
    load_backend_plugins,
    load_backend_plugins_from_env,
    load_plugin,
    loaded_backend_plugins,
)
from exo_rkllm.plugins.offers import ALL, from_configuration, names, offers
from exo_rkllm.plugins.registry import PROCESS
from exo_rkllm.plugins.spec import ModelSpec, PathLike

VARIABLE = "EXO_RKLLM_PLUGINS"

# ── for plugins ──────────────────────────────────────────────────────────────────────────────────


def register_model(spec: ModelSpec | None = None, **keywords: Any) -> ModelSpec:
    """A ModelSpec, or its fields as keywords. The same again changes nothing, another one of a type is refused."""
    if spec is not None and keywords:
        raise TypeError("Give a ModelSpec or keywords, not both.")
    return PROCESS.register(ModelSpec(**keywords) if spec is None else spec)


def register_processor(name: str, make: Callable[..., Any]) -> None:
    """A tokenizer class under a name that a ModelSpec's `processor` may say; a model type is such a name, too."""
    PROCESS.register_processor(name, make)


def get_model_spec(model_type: str | None) -> ModelSpec | None:
    return PROCESS.specs.get((model_type or "").strip().lower())


def registered_model_types() -> tuple[str, ...]:
    return tuple(sorted(PROCESS.specs))


# ── for hosts ────────────────────────────────────────────────────────────────────────────────────


def load(
    allow: Sequence[str] | None = None,
    *,
    more: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    patience: float = PATIENCE,
    on_change: Callable[[], None] = lambda: None,
) -> LoadedPlugins:
    """Load what the installed packages offer, and `more` modules or files. Never raises for a plugin's sake, and
    twice is as good as once. Where `allow` is not given, the configuration says both."""
    if allow is None:
        allow, more = chosen(os.environ if environment is None else environment)
    return loading.run((*offers(), *from_configuration(more)), allow, patience=patience, on_change=on_change)


def load_plugins(plugins: Sequence[PathLike] | str | None = None) -> tuple[str, ...]:
    """`load`, then these by name or file, which do raise. The names of all that is used."""
    used = [row.name for row in load().rows if row.state == "used"]
    for plugin in names(plugins) if isinstance(plugins, str) else plugins or ():
        load_plugin(plugin)
        used.append(os.fspath(plugin))
    return tuple(dict.fromkeys(used))


def chosen(environment: Mapping[str, str]) -> tuple[Sequence[str], Sequence[str]]:
    """`allow` and `load` under [plugins]; the variable alone where the configuration cannot be read."""
    from exo_rkllm.config import load as load_config

    try:
        settings = load_config(environment).plugins
    except ConfigError:
        variable = environment.get(VARIABLE)
        return ((ALL,) if variable is None else names(variable)), ()
    return settings.allow, settings.load


def adapt_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json as the plugin for its `model_type` wants it; a copy, unchanged where there is none."""
    return adapting.adapt(config, get_model_spec(str(config.get("model_type") or "")))


def apply_weight_remapping(model_type: str | None, tensors: Any, config: Mapping[str, Any] | None = None) -> Any:
    """For whoever converts: a .rkllm file shows no tensors, so nothing that serves a model calls this."""
    return adapting.remap(tensors, get_model_spec(model_type), config)


def select_processor(model_type: str | None) -> Callable[..., Any] | None:
    """What makes the tokenizer of such a model from its folder; None is the usual one."""
    return adapting.processor_of(get_model_spec(model_type), PROCESS.processors)


__all__ = [
    "LoadedPlugins",
    "ModelSpec",
    "PluginStatus",
    "adapt_config",
    "apply_weight_remapping",
    "chosen",
    "get_model_spec",
    "load",
    "load_backend_plugin",
    "load_backend_plugins",
    "load_backend_plugins_from_env",
    "load_plugin",
    "load_plugins",
    "loaded_backend_plugins",
    "register_model",
    "register_processor",
    "registered_model_types",
    "select_processor",
]
