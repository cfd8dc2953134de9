"""What plugins add to the catalogue's own tables: families, the tokenizers of models, and kinds of files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from exo_rkllm.catalogue.card import SUFFIXES
from exo_rkllm.chat.families import FAMILIES, Family, family_of
from exo_rkllm.chat.formats import Reasoning
from exo_rkllm.plugins.loading import Plugins
from exo_rkllm.plugins.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class PluginContributions:
    """`families` has the plugins' rows before ours; a plugin's row of a name of ours stands in its place."""

    specs: Mapping[str, ModelSpec] = field(default_factory=dict)
    processors: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    families: Mapping[str, Family] = field(default_factory=lambda: FAMILIES)
    suffixes: Mapping[str, str] = field(default_factory=lambda: SUFFIXES)

    @property
    def silent(self) -> frozenset[str]:
        """Types of plugins that say nothing of how such a model is spoken to."""
        return frozenset(self.specs.keys() - self.families.keys())

    def family(self, held: object, *names: str) -> str:
        """By what config.json says where a plugin knows the type, else by the first name that tells."""
        kind = _type(held)
        if kind in self.specs and kind in self.families:
            return kind
        return family_of(*names, families=self.families)

    def of_type(self, held: object) -> ModelSpec | None:
        """Of exactly what config.json says: only such a configuration is what a plugin's adapter knows."""
        return self.specs.get(_type(held))

    def spec(self, said: str, held: object, *names: str) -> ModelSpec | None:
        """Of the family that the card says, of config.json's type, or of the family that the names mean."""
        for kind in (said, _type(held)):
            if kind in self.specs:
                return self.specs[kind]
        return None if said else self.specs.get(family_of(*names, families=self.families))


EMPTY = PluginContributions()


def from_plugins(plugins: Plugins) -> PluginContributions:
    specs = plugins.specs
    own = {kind: row for kind, spec in specs.items() if (row := family(kind, spec)) is not None}
    suffixes = {suffix.lower(): kind.name for kind in plugins.kinds.values() for suffix in kind.formats}
    ours = {name: row for name, row in FAMILIES.items() if name not in own}
    return PluginContributions(specs, plugins.processors, {**own, **ours}, {**suffixes, **SUFFIXES})


def family(kind: str, spec: ModelSpec) -> Family | None:
    """The spec's row over that of the family it is a kind of; None where it says nothing of how to speak."""
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


def _type(held: object) -> str:
    return held.strip().lower() if isinstance(held, str) else ""
