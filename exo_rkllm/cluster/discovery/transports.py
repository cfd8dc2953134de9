"""The two transports of exo, of which a node speaks one, and which one the configuration names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from exo_rkllm.config.table import AUTO


class Transport(str, Enum):
    ZENOH = "zenoh"  # exo's main from 2026-06-03 on
    LIBP2P = "libp2p"  # releases up to 1.0.71

    @property
    def other(self) -> Transport:
        return Transport.LIBP2P if self is Transport.ZENOH else Transport.ZENOH


LIBRARIES: Mapping[Transport, str] = {Transport.ZENOH: "zenoh", Transport.LIBP2P: "exo_libp2p"}
# A namespace that begins so is of the older exo; its nodes have this one unless they were given another.
PREFIX, DEFAULT = "libp2p", "v0.0.1"


@dataclass(frozen=True, slots=True)
class WantedCluster:
    """What the configuration asks for; `transport` is None where it is the one that is there."""

    transport: Transport | None
    zenoh: str  # the namespace, or `auto`
    libp2p: str
    endpoints: Mapping[Transport, tuple[str, ...]]

    @property
    def libp2p_label(self) -> str:
        """The namespace as it is configured and shown."""
        return f"{PREFIX}/{self.libp2p}"


def wanted(namespace: str, endpoints: Sequence[str], installed: Collection[Transport]) -> WantedCluster:
    """zenoh's endpoints are `tcp/...`, those of libp2p `/ip4/...`. A library that is missing decides for the other."""
    split = {
        Transport.ZENOH: tuple(one for one in endpoints if not one.startswith("/")),
        Transport.LIBP2P: tuple(one for one in endpoints if one.startswith("/")),
    }
    prefix, _, name = namespace.partition("/")
    if prefix == PREFIX:
        return WantedCluster(Transport.LIBP2P, AUTO, name or DEFAULT, split)
    if namespace != AUTO:
        return WantedCluster(Transport.ZENOH, namespace, DEFAULT, split)
    named = [transport for transport, ones in split.items() if ones]
    possible = named if len(named) == 1 else list(installed)
    return WantedCluster(possible[0] if len(possible) == 1 else None, AUTO, DEFAULT, split)
