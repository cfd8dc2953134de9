"""Where the daemon keeps conversations that others displace: its runtime folder, then its state folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from exo_rkllm.backends.prefix_store import FOLDER, PrefixStore, PrefixTier
from exo_rkllm.config import Config, places


def prefix_store(config: Config, environment: Mapping[str, str], available: Callable[[], int]) -> PrefixStore:
    """What an earlier daemon has left whole is taken over. `available` tells the bytes of free memory."""
    here = places(environment)
    tiers = (
        PrefixTier("memory", here.socket.parent / FOLDER, config.cache.memory),
        PrefixTier("disk", here.state / FOLDER, config.cache.disk),
    )
    return PrefixStore(tiers, lambda: available() - config.models.reserve_memory)
