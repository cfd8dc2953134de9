"""What plugins add to the catalogue's own tables: families, the tokenizers of models, and kinds of files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exo_rkllm.backends.registry import EngineSpec, built_in
from exo_rkllm.catalogue.card import Card, telling_names
from exo_rkllm.catalogue.names import SUFFIXES
from exo_rkllm.chat.chat_format import ChatFormat, model_type, read_chat_format, reasoning_of
from exo_rkllm.chat.families import FAMILIES, Family, family_of
from exo_rkllm.chat.formats import Reasoning
from exo_rkllm.errors import CardError
from exo_rkllm.plugins.adapting import processor_of
from exo_rkllm.plugins.loading import LoadedPlugins
from exo_rkllm.plugins.spec import ModelSpec
from exo_rkllm.schema.specs import nearest


@dataclass(frozen=True, slots=True)
class PluginContributions:
    """`families` has the plugins' rows before ours; a plugin's row of a name of ours stands in its place."""

    specs: Mapping[str, ModelSpec] = field(default_factory=dict)
    processors: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    families: Mapping[str, Family] = field(default_factory=lambda: FAMILIES)
    suffixes: Mapping[str, str] = field(default_factory=lambda: SUFFIXES)
    engines: Mapping[str, EngineSpec] = field(default_factory=dict)

    def engine(self, name: str) -> EngineSpec | None:
        """What that engine takes, whether it is ours or a plugin's."""
        return built_in(name) or self.engines.get(name)

    def family(self, config_type: object, *names: str) -> str:
        """The name of a row: config.json's type where a plugin knows it, else what the first telling name means."""
        kind = _type(config_type)
        if kind in self.specs and kind in self.families:
            return kind
        return family_of(*names, families=self.families)

    def of_type(self, config_type: object) -> ModelSpec | None:
        """The spec of exactly config.json's type: a plugin's adapter knows no other configuration."""
        return self.specs.get(_type(config_type))

    def spec(self, family: str, config_type: object, *names: str) -> ModelSpec | None:
        """The spec of the card's family, of config.json's type, or of the family that the names mean."""
        for kind in (family, _type(config_type)):
            if kind in self.specs:
                return self.specs[kind]
        return None if family else self.specs.get(family_of(*names, families=self.families))

    def chat_format(self, folder: Path, card: Card) -> ChatFormat:
        """The chat format of a card's model; raises CardError where its table [chat] names what is not there."""
        return read_chat_format(folder, card.id, card.chat, *self._family_and_template(folder, card))

    def reasoning(self, folder: Path, card: Card) -> Reasoning | None:
        """How the model of a card marks its thoughts; None where it does not think aloud. Raises CardError as above."""
        return reasoning_of(folder, card.id, card.chat, *self._family_and_template(folder, card))

    def _family_and_template(self, folder: Path, card: Card) -> tuple[Family, str]:
        choice, config_type, names = card.chat.family, model_type(folder), telling_names(card)
        if choice in self.specs and choice not in self.families:
            choice = ""  # a plugin's type that brings no row: its tokenizer, its engine, but no markup
        name = choice if choice not in ("", "none") else self.family(config_type, *names)
        if name not in self.families:
            raise CardError(f"The card of {card.id} says family = {name!r}.", nearest(name, self.families))
        spec = self.spec(card.chat.family, config_type, *names)
        template = None
        if spec is not None and not spec.template:
            template = getattr(processor_of(spec, self.processors), "chat_template", None)
        return self.families[name], template if isinstance(template, str) else ""


EMPTY = PluginContributions()


def from_plugins(plugins: LoadedPlugins) -> PluginContributions:
    specs = plugins.specs
    own = {kind: row for kind, spec in specs.items() if (row := family(kind, spec)) is not None}
    suffixes = {suffix.lower(): engine.name for engine in plugins.engines.values() for suffix in engine.formats}
    ours = {name: row for name, row in FAMILIES.items() if name not in own}
    return PluginContributions(specs, plugins.processors, {**own, **ours}, {**suffixes, **SUFFIXES}, plugins.engines)


def family(kind: str, spec: ModelSpec) -> Family | None:
    """The spec's own row, completed from the family it derives from; None where it says nothing about chat."""
    says = (spec.template, spec.stop, spec.bos, spec.tools, spec.reasoning, spec.backend_model_type, spec.names)
    if spec.reuse is None and not any(says):
        return None
    like = (spec.backend_model_type or "").lower()
    base = FAMILIES.get(like) or FAMILIES[family_of(like)]
    reasoning = spec.reasoning or base.reasoning
    return Family(
        pattern=spec.names or rf"(?<![a-z0-9]){re.escape(kind)}(?![a-z0-9])",
        template=spec.template or base.template,
        stop=tuple(spec.stop) or base.stop,
        bos=spec.bos or base.bos,
        tools=spec.tools or base.tools,
        reasoning=reasoning if isinstance(reasoning, str | Reasoning) else Reasoning(*reasoning),
        reuse=base.reuse if spec.reuse is None else spec.reuse,
    )


def _type(config_type: object) -> str:
    return config_type.strip().lower() if isinstance(config_type, str) else ""
