"""Other names for models: those of the configuration, and entries that are nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from exo_rkllm.catalogue import names
from exo_rkllm.catalogue.card import Card


def alias_id(name: str) -> str:
    """The id of an entry for a name as Ollama's clients write it: `gpt-4o:latest` is gpt-4o, `a:7b` is a-7b.

    Empty where nothing of the name can be an id.
    """
    return names.plain_id(name.removesuffix(":latest").replace(":", "-"))


def alias_table(configured: Mapping[str, str], cards: Iterable[Card]) -> dict[str, str]:
    """Each alias with the model that it means; the configuration's have priority."""
    return {**{card.id: card.alias_of for card in cards if card.alias_of}, **configured}


def target_of(name: str, table: Mapping[str, str]) -> str:
    """The model that a name means as an alias; empty where it is none."""
    spoken = {name.casefold(), name.removesuffix(":latest").casefold(), alias_id(name)}
    return next((target for alias, target in table.items() if alias.casefold() in spoken), "")
