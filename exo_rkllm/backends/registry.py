"""The engines there are, as rows: what each loads, what a model's card may set for it, and what makes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from exo_rkllm.backends.base import JSON, SAMPLING_NAMES, Engine, Model
from exo_rkllm.errors import ExoRkllmError, NotSupported, UsageError
from exo_rkllm.schema.specs import (
    Anything,
    FieldError,
    FieldSpec,
    Free,
    List,
    Number,
    ObjectSpec,
    Switch,
    Text,
    ValueSpec,
    Whole,
)

if TYPE_CHECKING:  # it imports the runner, which a list of engines needs nothing of
    from exo_rkllm.backends.host import EngineHost

EngineFactory: TypeAlias = "Callable[[Model, EngineHost], Engine]"
# Ours, by reference as an entry point has it: each is imported with the first model that wants it.
BUILT_IN: Mapping[str, str] = {
    "rkllm": "exo_rkllm.backends.rkllm:SPEC",
    "llamacpp": "exo_rkllm.backends.llamacpp:SPEC",
    "openai": "exo_rkllm.backends.openai:SPEC",
    "dummy": "exo_rkllm.backends.dummy:SPEC",
}

# What makes of a file one that an engine of ours loads.
CONVERTERS: Mapping[str, str] = {
    ".safetensors": "Rockchip's rkllm-toolkit makes a .rkllm of it on a PC, llama.cpp's convert_hf_to_gguf.py a .gguf.",
    ".bin": "Rockchip's rkllm-toolkit makes a .rkllm of it on a PC, llama.cpp's convert_hf_to_gguf.py a .gguf.",
    ".gguf": "Use engine = 'llamacpp', or make a .rkllm of it on a PC with Rockchip's rkllm-toolkit.",
    ".rkllm": "Use engine = 'rkllm': nothing converts a .rkllm file.",
}


@dataclass(frozen=True, slots=True)
class EngineOption:
    """What one key of a card's [options] holds; the default holds where the card is silent."""

    type: type
    default: JSON
    says: str


# What an option of each type may hold.
OPTION_SPECS: Mapping[type, ValueSpec] = {
    str: Text(), int: Whole(), float: Number(), bool: Switch(), list: List(Anything()), dict: Free(),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine, as it is known before it loads anything.

    `formats` are file suffixes, none where no file is loaded. Models of one `on_npu` share the NPU and its memory; an
    engine that uses it for some models only says by `npu_model` for which.
    `sampling`, `images`, `tools` and `logprobs` are what its models may take; a loaded one narrows them by its
    `Capabilities`. `sampling` holds names of `Sampling`'s fields. With an `encoder` those models see whose card names
    one.
    """

    name: str
    says: str
    make: EngineFactory
    options: Mapping[str, EngineOption] = field(default_factory=dict)
    formats: tuple[str, ...] = ()
    parallelism: str = "none"
    on_npu: bool = False
    npu_model: Callable[[Model], bool] = lambda _model: False
    sampling: frozenset[str] = SAMPLING_NAMES
    images: bool = False
    encoder: bool = False
    tools: bool = True
    logprobs: bool = False

    def sees(self, model: Model) -> bool | None:
        """Whether the model takes images; None where only its load can tell."""
        if self.encoder:
            return model.vision is not None
        return None if self.images and self.formats else self.images

    def check_sight(self, model: Model) -> None:
        """Refuse images for a model that is known not to see; some are made for it, and only lack their encoder."""
        if self.sees(model) is not False:
            return
        from exo_rkllm.runtime import modelfile

        hint = "Ask without images, or use a model that does."
        with suppress(ExoRkllmError):
            facts = None if model.path is None else modelfile.inspect(model.path)
            if facts is not None and facts.vision is not None and facts.vision.value:
                hint = "Put its encoder, a .rknn file, beside it, and name it under [vision] in its model.toml."
        raise NotSupported(f"{model.id} does not see images.", hint)

    def check_file(self, model: Model) -> None:
        """Before minutes of loading say the same."""
        suffix = "" if model.path is None else model.path.suffix.lower()
        if self.formats and suffix and suffix not in self.formats:
            raise NotSupported(
                f"{model.id} is a {suffix} file; engine {self.name} loads {', '.join(self.formats)}.",
                CONVERTERS.get(suffix, "exo-rkllm engines lists what each engine loads."),
            )

    def options_of(self, model: Model) -> dict[str, Any]:
        """The card's options over the defaults; raises a UsageError for an unknown name or a wrong type."""
        rows = tuple(FieldSpec(name, OPTION_SPECS[option.type], option.says) for name, option in self.options.items())
        try:
            values = ObjectSpec(self.name, rows, strict=True).check(dict(model.options), "options")
        except FieldError as error:
            raise UsageError(f"Engine {self.name} refuses the card of {model.id}: {error.clause}", error.hint) from None
        return {name: values.get(name, option.default) for name, option in self.options.items()}


def built_in(name: str) -> EngineSpec | None:
    """One of ours; its module is imported here."""
    if name not in BUILT_IN:
        return None
    module, _, attribute = BUILT_IN[name].partition(":")
    spec: EngineSpec = getattr(import_module(module), attribute)
    return spec


class EngineRegistry:
    """Our engines and those that plugins bring. A plugin's may not take the name of one of ours.

    `instead` is the engine of every model, whatever its card says; `coming` are plugins that still load.
    """

    def __init__(
        self, plugins: Mapping[str, EngineSpec] | None = None, instead: str = "", coming: Sequence[str] = ()
    ) -> None:
        self._plugins = dict(plugins or {})
        self.instead = instead
        self._coming = tuple(coming)

    def names(self) -> list[str]:
        return sorted({*BUILT_IN, *self._plugins})

    def get(self, name: str) -> EngineSpec | None:
        return built_in(name) or self._plugins.get(name)

    def name_for(self, model: Model) -> str:
        return self.instead or model.engine

    def of(self, model: Model) -> EngineSpec:
        name = self.name_for(model)
        spec = self.get(name)
        if spec is None:
            coming = f" Still loading: {', '.join(self._coming)}." if self._coming else ""
            raise NotSupported(
                f"{model.id} wants the engine {name!r}, which is not installed.",
                f"There are: {', '.join(self.names())}.{coming or ' exo-rkllm plugins says why one is not used.'}",
            )
        return spec

    def uses_npu(self, model: Model) -> bool:
        """Whether the model computes on the NPU, where only one program may at a time."""
        spec = self.get(self.name_for(model))
        return spec is not None and (spec.on_npu or spec.npu_model(model))

    def make(self, model: Model, host: EngineHost) -> Engine:
        spec = self.of(model)
        spec.check_file(model)
        return spec.make(model, host)
