"""The two generations of exo, which no node can speak to at once, and which one the configuration names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from exo_rkllm.config.table import AUTO


class Generation(str, Enum):
    ZENOH = "zenoh"  # exo's main from 2026-06-03 on
    LIBP2P = "libp2p"  # releases up to 1.0.71

    @property
    def other(self) -> Generation:
        return Generation.LIBP2P if self is Generation.ZENOH else Generation.ZENOH


LIBRARIES: Mapping[Generation, str] = {Generation.ZENOH: "zenoh", Generation.LIBP2P: "exo_libp2p"}
# A namespace that begins so is of the older generation; its nodes have this one unless they were given another.
PREFIX, DEFAULT = "libp2p", "v0.0.1"


@dataclass(frozen=True, slots=True)
class WantedCluster:
    """What the configuration asks for; `generation` is None where it is the one that is there."""

    generation: Generation | None
    zenoh: str  # the namespace, or `auto`
    libp2p: str
    endpoints: Mapping[Generation, tuple[str, ...]]

    @property
    def libp2p_label(self) -> str:
        """The namespace as it is configured and shown."""
        return f"{PREFIX}/{self.libp2p}"


def wanted(namespace: str, endpoints: Sequence[str], installed: Collection[Generation]) -> WantedCluster:
    """zenoh's endpoints are `tcp/...`, those of libp2p `/ip4/...`. A library that is missing decides for the other."""
    split = {
        Generation.ZENOH: tuple(one for one in endpoints if not one.startswith("/")),
        Generation.LIBP2P: tuple(one for one in endpoints if one.startswith("/")),
    }
    prefix, _, name = namespace.partition("/")
    if prefix == PREFIX:
        return WantedCluster(Generation.LIBP2P, AUTO, name or DEFAULT, split)
    if namespace != AUTO:
        return WantedCluster(Generation.ZENOH, namespace, DEFAULT, split)
    named = [generation for generation, ones in split.items() if ones]
    possible = named if len(named) == 1 else list(installed)
    return WantedCluster(possible[0] if len(possible) == 1 else None, AUTO, DEFAULT, split)
