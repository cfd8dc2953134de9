"""The link to exo 1.0.71: a leaf in its libp2p network, whose thread (`native/exo-libp2p`) wakes the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from exo_rkllm.cluster.session.link import (
    PUBLISHED,
    SUBSCRIBED,
    Alive,
    Incoming,
    Linked,
    LinkFailed,
    TopicMessage,
    available,
)

if TYPE_CHECKING:
    import exo_libp2p

LIBRARY = "exo_libp2p"
# Its thread ends within milliseconds.
CLOSE_IN = 1.0
_IP = re.compile(r"/ip[46]/([^/]+)/")


def secret(namespace: str) -> bytes:
    """The key that all nodes of a network share: exo knows it by its name, `EXO_LIBP2P_NAMESPACE`."""
    return hashlib.sha3_256(b"exo_discovery_network" + namespace.encode()).digest()


class LibP2pLink:
    """The `Link` of exo 1.0.71. As exo's own nodes do, it draws a new peer id each time.

    An exo node is a peer that takes all that we publish; other boards do not.
    """

    def __init__(self, namespace: str) -> None:
        self._secret = secret(namespace)
        self._node: exo_libp2p.Node | None = None
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._waiting: list[Incoming] = []
        self._takes: dict[str, set[str]] = {}  # topics of ours that a peer takes
        self._addresses: dict[str, tuple[str, ...]] = {}  # of peers
        self._ended: asyncio.Future[None] | None = None
        self._dropped = 0

    @property
    def dropped(self) -> int:
        return self._dropped + (self._node.dropped if self._node is not None else 0)

    async def open(self, endpoints: Sequence[str]) -> None:
        await self.close()
        if not available(LIBRARY):
            raise LinkFailed("exo_libp2p is not installed.")
        import exo_libp2p

        self._node = exo_libp2p.Node(os.urandom(32), self._secret, SUBSCRIBED)
        self._ended = self._loop.create_future()
        self._loop.add_reader(self._node.fileno(), self._read, self._node)
        for endpoint in endpoints:
            self.meet(endpoint)

    def meet(self, endpoint: str) -> None:
        """Connect to it as well: 1.0.71's nodes tell each other of none."""
        if self._node is not None:
            self._node.dial(endpoint)

    async def receive(self) -> list[Incoming]:
        await self._ready.wait()
        taken, self._waiting = self._waiting, []
        self._ready.clear()
        return taken

    def send(self, topic: str, payload: bytes) -> bool:
        return self._node is not None and self._node.publish(topic, payload)

    def declare(self, node: str) -> None:
        """A connection alone makes 1.0.71's nodes hold an election."""

    async def addresses(self) -> Mapping[str, tuple[str, ...]]:
        return dict(self._addresses)

    async def close(self) -> None:
        node, self._node = self._node, None
        if node is None or self._ended is None:
            return
        self._takes.clear()
        self._addresses.clear()
        self._waiting.clear()
        self._dropped += node.dropped
        node.stop()
        await asyncio.wait([self._ended], timeout=CLOSE_IN)

    def _read(self, node: exo_libp2p.Node) -> None:
        events, over = node.receive()
        if node is self._node:
            for event in events:
                self._take(event)
        if over:
            self._loop.remove_reader(node.fileno())
            node.join()
            if node is self._node:  # it broke off: the link is opened anew
                self._node = None
                self._lose(*self._takes)
                self._put(Linked(up=False))
            if self._ended is not None and not self._ended.done():
                self._ended.set_result(None)

    def _take(self, event: exo_libp2p.Event) -> None:
        match event:
            case ("message", _, topic, payload):
                self._put(TopicMessage(topic, payload))
            case ("up", peer, address):
                self._addresses[peer] = tuple(_IP.findall(address))
            case ("subscribed", peer, topic) if topic in PUBLISHED:
                takes = self._takes.setdefault(peer, set())
                takes.add(topic)
                if len(takes) == len(PUBLISHED):
                    self._put(Alive(peer, there=True))
                    self._put(Linked(up=True))
            case ("down", peer):
                self._addresses.pop(peer, None)
                self._lose(peer)

    def _lose(self, *peers: str) -> None:
        for peer in peers:
            if self._is_exo(peer):
                self._put(Alive(peer, there=False))
                del self._takes[peer]
                if not any(map(self._is_exo, self._takes)):
                    self._put(Linked(up=False))
            self._takes.pop(peer, None)

    def _is_exo(self, peer: str) -> bool:
        return len(self._takes.get(peer, ())) == len(PUBLISHED)

    def _put(self, incoming: Incoming) -> None:
        self._waiting.append(incoming)
        self._ready.set()
