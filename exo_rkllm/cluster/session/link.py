"""What the cluster node needs of a link to exo nodes, and what comes out of one."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from exo_rkllm.config.places import VENDOR_FOLDER
from exo_rkllm.errors import ExoRkllmError

PUBLISHED = ("local_events", "commands", "election_messages")
SUBSCRIBED = ("global_events", "election_messages", "download_commands")


def available(library: str, vendor_folder: Path = VENDOR_FOLDER) -> bool:
    """Whether a link's library can be imported; the package's own is appended to the path, behind one of pip's."""
    if vendor_folder.is_dir() and str(vendor_folder) not in sys.path:
        sys.path.append(str(vendor_folder))
    return importlib.util.find_spec(library) is not None


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


class Link(Protocol):
    """A link to a cluster: at most one connection to it at a time."""

    async def open(self, endpoints: Sequence[str]) -> None:
        """Connect and listen; raises `LinkFailed`. A connection that was open is given up: nothing more is received
        of it, not even that it is down.
        """

    def meet(self, endpoint: str) -> None:
        """An endpoint was discovered while the link is open."""

    async def receive(self) -> list[Incoming]:
        """What has come in since the last call; waits until there is something."""

    def send(self, topic: str, payload: bytes) -> bool:
        """Hand a message over without waiting; false if there is no room, and then it is lost."""

    def declare(self, node: str) -> None:
        """Make a silent cluster hold an election."""

    async def addresses(self) -> Mapping[str, tuple[str, ...]]:
        """IP addresses of exo nodes, by id."""

    async def close(self) -> None:
        """Give the connection up, and wait for its end where that takes no time."""
