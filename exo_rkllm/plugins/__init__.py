"""Models and engines of other packages: what a plugin calls, and what a host calls to load plugins.

Importing this is cheap and needs nothing else of the package, so that a plugin may do it anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from exo_rkllm.errors import ConfigError
from exo_rkllm.plugins import loading
from exo_rkllm.plugins.loading import PATIENCE, Plugin, Plugins
from exo_rkllm.plugins.offers import ALL, names, offers
from exo_rkllm.plugins.registry import PROCESS
from exo_rkllm.plugins.spec import ModelSpec

VARIABLE = "EXO_RKLLM_PLUGINS"


def register_model(spec: ModelSpec | None = None, **keywords: Any) -> ModelSpec:
    """A ModelSpec, or its fields as keywords."""
    if spec is not None and keywords:
        raise TypeError("Give a ModelSpec or keywords, not both.")
    return PROCESS.register(ModelSpec(**keywords) if spec is None else spec)


def register_processor(name: str, make: Callable[..., Any]) -> None:
    """A tokenizer class under a name that a ModelSpec's `processor` may say."""
    PROCESS.register_processor(name, make)


def get_model_spec(model_type: str | None) -> ModelSpec | None:
    return PROCESS.specs.get((model_type or "").strip().lower())


def registered_model_types() -> tuple[str, ...]:
    return tuple(sorted(PROCESS.specs))


def load(
    allow: Sequence[str] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    patience: float = PATIENCE,
    changed: Callable[[], None] = lambda: None,
) -> Plugins:
    """Load what the installed packages offer. Never raises for a plugin's sake, and twice is as good as once.

    `allow` is what the configuration says where it is not given.
    """
    chosen = allowing(os.environ if environment is None else environment) if allow is None else allow
    return loading.run(offers(), chosen, patience=patience, changed=changed)


def allowing(environment: Mapping[str, str]) -> tuple[str, ...]:
    """`[plugins] allow`, or its variable where the configuration cannot be read."""
    from exo_rkllm.config import load as load_config

    try:
        return load_config(environment).plugins.allow
    except ConfigError:
        said = environment.get(VARIABLE)
        return (ALL,) if said is None else names(said)


__all__ = [
    "ModelSpec",
    "Plugin",
    "Plugins",
    "allowing",
    "get_model_spec",
    "load",
    "register_model",
    "register_processor",
    "registered_model_types",
]
