"""How the next token is chosen: one row a setting. APIs, cards, flags, engines and exo's tasks are derived from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, TypeAlias

from exo_rkllm.schema.specs import FieldError, FieldSpec, Number, Whole
from exo_rkllm.schema.tables import row, specs_of

# Languages whose names for a setting may differ from ours: tasks and cards of exo, the body that vLLM takes, and the
# defaults that makers publish for transformers.
Language: TypeAlias = str
EXO, VLLM, TRANSFORMERS = "exo", "vllm", "transformers"
_REPETITION = {EXO: "repetition_penalty", VLLM: "repetition_penalty", TRANSFORMERS: "repetition_penalty"}


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings of one request, or a model's defaults. None leaves the model's own.

    A setting that an engine does not declare is refused by it, never ignored: whoever is lenient leaves it out and
    says so. `off` is the value at which a setting has no effect, so that every engine can honour it.
    """

    temperature: float | None = row(
        Number(0, 2), "Randomness: 0 always picks the most likely token, higher values vary more."
    )
    top_k: int | None = row(Whole(-1), "Sample from this many of the most likely tokens only.")
    top_p: float | None = row(
        Number(0, 1), "Sample only from the most likely tokens whose probabilities add up to this.", off=1
    )
    min_p: float | None = row(
        Number(0, 1), "Leave out tokens less likely than this fraction of the most likely one.", off=0
    )
    repeat_penalty: float | None = row(
        Number(0, 10), "Penalty for tokens that were used before; 1 is none.", off=1, names=_REPETITION
    )
    frequency_penalty: float | None = row(
        Number(-2, 2), "Penalty for a token that grows with how often it was used; negative values favour it.", off=0
    )
    presence_penalty: float | None = row(
        Number(-2, 2), "Penalty for a token that was used at all; negative values favour it.", off=0
    )
    mirostat: int | None = row(
        Whole(0, 2), "Mirostat sampling, which keeps the surprise constant: 0 is off, 1 and 2 are its versions.", off=0
    )
    mirostat_tau: float | None = row(Number(0, 1000), "The surprise that Mirostat aims at.")
    mirostat_eta: float | None = row(Number(0, 1000), "How fast Mirostat adapts.")
    seed: int | None = row(
        Whole(-(2**63), 2**63 - 1), "Seed of the random generator: the same seed and prompt give the same answer."
    )

    def explicit(self) -> dict[str, Any]:
        """What is set, by its name."""
        return {name: value for name in SPECS if (value := getattr(self, name)) is not None}

    def over(self, defaults: Sampling) -> Sampling:
        """These settings, and the defaults for what is not set."""
        return Sampling(**{**defaults.explicit(), **self.explicit()})

    def for_engine(self, takes: Collection[str], language: Language = "") -> tuple[dict[str, Any], list[str]]:
        """What is set and an engine takes, by the names of `language`; and the names of what it would lose."""
        values = self.explicit()
        lost = [name for name, value in values.items() if name not in takes and value != OFF.get(name)]
        own = names(language)
        return {own[name]: value for name, value in values.items() if name in takes}, lost


SETTINGS: tuple[FieldSpec, ...] = specs_of(Sampling)
# Names of all settings: what an engine takes that declares nothing else.
SAMPLING_NAMES = frozenset(setting.name for setting in SETTINGS)
SPECS: Mapping[str, FieldSpec] = {setting.name: setting for setting in SETTINGS}
OFF: Mapping[str, float] = {field.name: field.metadata["off"] for field in fields(Sampling) if "off" in field.metadata}


@cache
def names(language: Language = "") -> Mapping[str, str]:
    """What a language calls each of our settings, by our name."""
    return {field.name: field.metadata.get("names", {}).get(language, field.name) for field in fields(Sampling)}


def read(values: Mapping[str, Any], language: Language = "") -> Sampling:
    """Settings out of a stranger's values, by the names of `language`; what cannot be one is left out."""
    found: dict[str, Any] = {}
    for ours, theirs in names(language).items():
        with suppress(FieldError):
            if values.get(theirs) is not None:
                found[ours] = SPECS[ours].check(values[theirs], theirs)
    return Sampling(**found)
