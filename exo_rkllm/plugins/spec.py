"""What a plugin says of a family of models: one frozen value, looked at when a model is described, opened or loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from exo_rkllm.errors import PluginInvalid

ConfigAdapter: TypeAlias = "Callable[[dict[str, Any]], Mapping[str, Any]] | Mapping[str, Any]"
# Takes the tensors by name, and config.json's content where it has a second parameter or one named `config`.
WeightRemapper: TypeAlias = Callable[..., Any]
PathLike: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """`model_type` and `model_types` are what config.json or a card's `family` may say.

    The first block has the roles of InfiniLM's ModelSpec, the second is how a model is spoken to, the third what its
    process needs. An empty field means: as for the family `backend_model_type`, or as for any model.
    """

    model_type: str | None = None
    model_types: Sequence[str] | None = None
    backend_model_type: str | None = None
    config_adapter: ConfigAdapter | None = None
    weight_remapper: WeightRemapper | None = None
    weight_rules: Sequence[WeightRemapper] = ()
    processor_cls: Callable[..., Any] | None = None
    processor: str | None = None
    backend_plugin: PathLike | None = None
    backend_plugins: Sequence[PathLike] | None = None
    use_builtin_weight_remapper: bool = True
    metadata: Mapping[str, Any] = field(default_factory=dict)

    names: str = ""  # a pattern for the names of such models; by default the type as a word of its own
    template: str = ""  # Jinja, for a model that comes without a template
    stop: Sequence[str] = ()
    bos: str = ""
    tools: Any = ""  # a row of chat.formats.TOOLS by name, or a ToolFormat
    reasoning: Any = ""  # a row of chat.formats.REASONING by name, or the two tags
    reuse: bool | None = None
    engine: str = ""
    file_names: Mapping[str, str] = field(default_factory=dict)  # how a folder calls its tokenizer files -> usual name

    backend_init: str = ""  # a function of the native libraries that is called once they are open
    runner_modules: Sequence[str] = ()  # `module` or `module:function`, run in the model's own process

    def normalized_model_types(self) -> tuple[str, ...]:
        """In lower case, each once; InfiniLM's name for it."""
        names = (self.model_type, *_several("model_types", self.model_types))
        types = tuple(dict.fromkeys(name.strip().lower() for name in names if name and name.strip()))
        if not types:
            raise PluginInvalid("A ModelSpec needs a model_type, or model_types.", 'ModelSpec(model_type="NAME", ...)')
        return types

    def native_libraries(self) -> tuple[str, ...]:
        paths = (self.backend_plugin, *_several("backend_plugins", self.backend_plugins))
        return tuple(dict.fromkeys(os.fspath(path) for path in paths if path))


def _several(name: str, value: Sequence[Any] | None) -> Sequence[Any]:
    """A text is a sequence of letters, and never meant as one."""
    if isinstance(value, str | bytes | os.PathLike):
        raise PluginInvalid(f"A ModelSpec's {name} is the text {value!r}, not a list.", f"{name}=[{value!r}]")
    return value or ()
