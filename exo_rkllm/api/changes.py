"""Changes of the catalogue beside a running dispatcher: a model that goes or is replaced is unloaded first."""

from __future__ import annotations

import asyncio

from exo_rkllm.catalogue.aliases import alias_id
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.dispatch.dispatcher import Dispatcher


async def remove(catalogue: Catalogue, dispatcher: Dispatcher, name: str) -> str:
    """By its full name only: what a shorter one would find when it asks, it must not delete."""
    name = catalogue.removable(name)
    if not catalogue.is_alias(name):
        await dispatcher.unload(name)
    await asyncio.to_thread(catalogue.remove, name)
    return name


async def make_way(catalogue: Catalogue, dispatcher: Dispatcher, name: str) -> None:
    """For a new model of that name: a loaded one is to be another."""
    id_ = alias_id(name)
    if any(entry.id == id_ for entry in catalogue.list()):
        await dispatcher.unload(id_)
