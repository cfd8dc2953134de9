"""What carries messages to and from a cluster; zenoh is one such thing (`link.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from exo_rkllm.errors import ExoRkllmError


class LinkFailed(ExoRkllmError):
    """No exo node could be connected to."""

    code = "cluster_link"
    status = 503


@dataclass(frozen=True, slots=True)
class TopicMessage:
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Alive:
    """The liveliness of an exo node changed."""

    node: str
    there: bool


@dataclass(frozen=True, slots=True)
class Linked:
    """The connection to the cluster came up or went down; it comes up again by itself while endpoints answer."""

    up: bool


Incoming: TypeAlias = TopicMessage | Alive | Linked


class Transport(Protocol):
    async def open(self, endpoints: Sequence[str]) -> None:
        """Connect to any one of them and listen; raises `LinkFailed`. A connection that was open is given up."""

    async def receive(self) -> list[Incoming]:
        """What has come in since the last call; waits until there is something."""

    def send(self, topic: str, payload: bytes) -> bool:
        """Hand a message over without waiting; false if there is no room, and then it is lost."""

    def declare(self, node: str) -> None:
        """Show a liveliness token, as exo nodes do."""

    async def addresses(self) -> Mapping[str, tuple[str, ...]]:
        """IP addresses of the cluster's nodes, by node id, as far as the transport knows them."""

    async def close(self) -> None:
        """Give the connection up, at once whatever state it is in."""
