"""What a ModelSpec makes of a configuration, of tensors and of a folder: pure, and never while an answer runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from exo_rkllm.errors import PluginError, PluginInvalid
from exo_rkllm.plugins.spec import ModelSpec, WeightRemapper
from exo_rkllm.runner.preload import Preload, where

# Where an adapted configuration keeps what it was.
ORIGINAL, BACKEND, LIBRARIES = (
    "_exo_rkllm_original_model_type",
    "_exo_rkllm_backend_model_type",
    "_exo_rkllm_backend_plugins",
)


def adapt(config: Mapping[str, Any], spec: ModelSpec | None) -> dict[str, Any]:
    """A new one; without a spec an unchanged copy."""
    if spec is None:
        return dict(config)
    result = _apply_adapter(config, spec)
    result[ORIGINAL] = config.get("model_type")
    if libraries := spec.native_libraries():
        result[LIBRARIES] = list(libraries)
    if spec.backend_model_type:
        result[BACKEND] = result["model_type"] = spec.backend_model_type.lower()
    return result


def _apply_adapter(config: Mapping[str, Any], spec: ModelSpec) -> dict[str, Any]:
    adapter = spec.config_adapter
    if adapter is None:
        return dict(config)
    if not callable(adapter):
        return {**config, **{key: _value(config, key, value) for key, value in adapter.items()}}
    result = adapter(dict(config))
    if not isinstance(result, Mapping):
        name, kind = spec.normalized_model_types()[0], type(result).__name__
        raise PluginInvalid(
            f"The config_adapter for {name!r} returned {kind}, not a dict.", "Let it return the configuration."
        )
    return dict(result)


def _value(config: Mapping[str, Any], key: str, value: Any) -> Any:
    if callable(value):
        return value(config)
    if not isinstance(value, str) or not value.startswith("$"):
        return value
    if value[1:] not in config:
        raise PluginInvalid(f"The config_adapter takes {key!r} from {value[1:]!r}, which is not there.")
    return config[value[1:]]


def adapt_safely(config: Mapping[str, Any], spec: ModelSpec | None) -> dict[str, Any]:
    """`adapt`, where the fault of foreign code has to be a sentence."""
    try:
        return adapt(config, spec)
    except PluginError:
        raise
    except Exception as error:
        says = f"{type(error).__name__}: {error}"
        raise PluginError(f"A plugin's config_adapter failed on config.json: {says}.", "exo-rkllm plugins") from error


def remap(tensors: Any, spec: ModelSpec | None, config: Mapping[str, Any] | None = None) -> Any:
    """The remapper, then the rules in their order."""
    if spec is None:
        return tensors
    for rule in (spec.weight_remapper, *spec.weight_rules):
        tensors = tensors if rule is None else _apply_rule(rule, tensors, config)
    return tensors


def _apply_rule(rule: WeightRemapper, tensors: Any, config: Mapping[str, Any] | None) -> Any:
    """By its signature: a rule may want the configuration by name, as a second parameter, or not at all."""
    try:
        parameters = inspect.signature(rule).parameters.values()
    except (TypeError, ValueError):  # written in C without a signature
        return rule(tensors, config=config)
    if any(one.kind is one.VAR_KEYWORD or one.name == "config" for one in parameters):
        return rule(tensors, config=config)
    parameters_needed = [
        one
        for one in parameters
        if one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    return rule(tensors, config) if len(parameters_needed) > 1 else rule(tensors)


def processor_of(spec: ModelSpec | None, processors: Mapping[str, Callable[..., Any]]) -> Callable[..., Any] | None:
    """What makes a tokenizer of a model's folder: the class, else a name, else the types'. None is the usual one."""
    if spec is None:
        return None
    if spec.processor_cls is not None:
        return spec.processor_cls
    if spec.processor:
        return _processor_named(spec.processor, processors)
    for name in (spec.backend_model_type or "", *spec.normalized_model_types()):
        if name.lower() in processors:
            return processors[name.lower()]
    return None


def _processor_named(name: str, processors: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    if name.lower() in processors:
        return processors[name.lower()]
    module, colon, path = name.partition(":")
    if not colon:
        raise PluginInvalid(
            f"There is no processor {name!r}.",
            f"There are: {', '.join([*sorted(processors), 'module:Class'])}.",
        )
    try:
        processor: Callable[..., Any] = getattr(import_module(module), path)
    except (ImportError, AttributeError) as error:
        raise PluginError(f"The processor {name} cannot be imported: {error}.", "exo-rkllm plugins") from error
    return processor


def preload_of(spec: ModelSpec) -> Preload:
    libraries = tuple(where(path) for path in spec.native_libraries())
    return Preload(libraries=libraries, init=spec.backend_init, modules=tuple(spec.runner_modules))
