"""Who was heard on the local network, and which cluster that makes: decisions of discovery, without a socket."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from exo_rkllm.cluster.namespace import digest, named
from exo_rkllm.cluster.packets import Hello, Packet, WhatsUp
from exo_rkllm.cluster.settings import AUTO

# Every exo node says Hello once a second: after this time all clusters of the network were heard.
EVERYBODY_SPOKE = 1.2
# What was not heard for so long is gone.
FORGET = 30.0
# What we asked comes back to us by multicast loop: on a slow or busy board after the next round of questions, when
# nobody's answer to it counts any more.
OUR_OWN = 10.0
# Nodes and strangers that are remembered: the port is open to everybody.
NODES, STRANGERS = 64, 16
# exo's default namespace is its version; hashes of these are known by name.
KNOWN_NAMESPACES = tuple(f"0.3.{patch}" for patch in range(60, 120))


@dataclass(frozen=True, slots=True)
class Source:
    """Where a datagram came from; `scope` is the interface's index for link-local addresses."""

    address: str
    scope: int = 0

    def __str__(self) -> str:
        return f"{self.address}%{self.scope}" if self.scope else self.address


@dataclass(frozen=True, slots=True)
class Peer:
    """An exo node that zenoh can be connected to."""

    node_id: str
    source: Source
    port: int

    @property
    def endpoint(self) -> str:
        return f"tcp/[{self.source}]:{self.port}"


@dataclass(frozen=True, slots=True)
class Stranger:
    """A cluster that is heard and not joined."""

    namespace: str
    source: Source


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a Hello to this source, or to everybody where it is None."""

    hello: Hello
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class Found:
    peer: Peer


@dataclass(frozen=True, slots=True)
class Torn:
    """More than one cluster is heard and none was named: none is joined."""

    namespaces: tuple[str, ...]


Outcome: TypeAlias = Ask | Found | Torn


@dataclass(slots=True)
class _Seen:
    source: Source
    at: float


class Hearing:
    """`asked` is the configured namespace, or `auto`: then the one that is heard, if it is one alone.

    With `auto` the first cluster heard is connected to at once, and nothing is said to it before `settled`.
    """

    def __init__(self, me: str, asked: str, new_nonce: Callable[[], bytes], guesses: Sequence[str] = ()) -> None:
        self.asked = asked
        self._me = me
        self._new_nonce = new_nonce
        self._guesses = tuple(digest(guess) for guess in guesses)
        self._questions: dict[bytes, tuple[bytes, float]] = {}  # nonces: the namespace asked for, and when
        self._round = 0.0
        self._namespace: bytes | None = None if asked == AUTO else digest(asked)
        self._since: float | None = None
        self._torn = False
        self._labels: dict[bytes, str] = {}
        self._heard: dict[bytes, _Seen] = {}
        self._peers: dict[str, tuple[Peer, float]] = {}
        self._known: dict[Source, float] = {}

    @property
    def namespace(self) -> str:
        """The cluster's name, empty while none was chosen."""
        if self.asked != AUTO:
            return self.asked
        return "" if self._namespace is None else self._label(self._namespace)

    def settled(self, now: float) -> bool:
        """Whether the choice stands."""
        if self.asked != AUTO:
            return True
        listened = self._since is not None and now - self._since >= EVERYBODY_SPOKE
        return listened and not self._torn and self._namespace is not None

    def patience(self, now: float) -> float:
        """Seconds until it is worth while to ask `settled` again."""
        if self._since is None or now - self._since >= EVERYBODY_SPOKE:
            return EVERYBODY_SPOKE
        return EVERYBODY_SPOKE - (now - self._since)

    def questions(self, now: float) -> list[Ask]:
        """What to say to everybody now; drawn anew each second, as exo does."""
        if self._since is None:
            self._since = now
        self._mend(now)
        self._round = now
        self._questions = {nonce: asked for nonce, asked in self._questions.items() if now - asked[1] < OUR_OWN}
        wanted = self._guesses if self._namespace is None else (self._namespace,)
        return [] if self._torn else [Ask(self._question(namespace, now)) for namespace in wanted]

    def hear(self, packet: Packet, source: Source, now: float) -> list[Outcome]:
        if isinstance(packet, WhatsUp):
            return self._answer(packet, source, now)
        if packet.nonce in self._questions:
            return []  # our own, come back by multicast loop
        self._note(packet.namespace, source, now)
        if self._namespace is None and not self._torn:
            self._namespace = packet.namespace
        if packet.namespace != self._namespace:
            return self._compare(now)
        fresh = now - self._known.get(source, -FORGET) >= FORGET
        if len(self._known) >= NODES:
            self._known = {known: at for known, at in self._known.items() if now - at < FORGET}
        self._known[source] = now
        for node, (peer, _) in self._peers.items():
            if peer.source == source:
                self._peers[node] = (peer, now)
        # whoever starts later is asked once, so that nobody needs to say Hello while the link is good
        return [Ask(self._question(packet.namespace, now), source)] if fresh and len(self._known) <= NODES else []

    def strangers(self, now: float) -> tuple[Stranger, ...]:
        """Clusters that are not ours."""
        others = (
            (namespace, seen)
            for namespace, seen in self._heard.items()
            if namespace != self._namespace and now - seen.at < FORGET
        )
        return tuple(Stranger(self._label(namespace), seen.source) for namespace, seen in others)

    def endpoints(self) -> tuple[str, ...]:
        """Whoever spoke last comes first, since a dead one keeps zenoh waiting; older ones may still be there."""
        recent = sorted(self._peers.values(), key=lambda entry: (-entry[1], entry[0].node_id))
        return tuple(peer.endpoint for peer, _ in recent)

    def lost(self) -> None:
        """The link is gone: everybody has to be asked again."""
        self._known.clear()

    def _question(self, namespace: bytes, now: float) -> Hello:
        nonce = self._new_nonce()
        self._questions[nonce] = (namespace, now)
        return Hello(nonce, namespace)

    def _answer(self, packet: WhatsUp, source: Source, now: float) -> list[Outcome]:
        if packet.nonce not in self._questions or packet.node_id == self._me:
            return []
        namespace, asked_at = self._questions[packet.nonce]
        if asked_at < self._round:
            return []
        self._note(namespace, source, now)
        if self._namespace is None and not self._torn:
            self._namespace = namespace
        if namespace != self._namespace:
            return self._compare(now)
        peer = Peer(packet.node_id, source, packet.port)
        fresh = packet.node_id not in self._peers
        if fresh:
            # exo draws a new id at each start: whoever was at this address before is gone
            self._peers = {
                node: entry
                for node, entry in self._peers.items()
                if (entry[0].source, entry[0].port) != (source, packet.port)
            }
            if len(self._peers) >= NODES:
                return []
        self._peers[packet.node_id] = (peer if fresh else self._peers[packet.node_id][0], now)
        self._known[source] = now
        return [Found(peer)] if fresh else []

    def _compare(self, now: float) -> list[Outcome]:
        """Another cluster than the chosen one is there."""
        if self.asked != AUTO or self._torn or self._since is None or now - self._since >= EVERYBODY_SPOKE:
            return []
        self._torn, self._namespace = True, None
        self._peers.clear()
        return [Torn(tuple(sorted(self._label(namespace) for namespace in self._heard)))]

    def _mend(self, now: float) -> None:
        """Of several clusters one is left."""
        left = [namespace for namespace, seen in self._heard.items() if now - seen.at < FORGET]
        if self._torn and len(left) == 1:
            self._torn, self._namespace = False, left[0]

    def _note(self, namespace: bytes, source: Source, now: float) -> None:
        if namespace not in self._heard and len(self._heard) >= STRANGERS:
            self._heard = {key: seen for key, seen in self._heard.items() if now - seen.at < FORGET}
            if len(self._heard) >= STRANGERS:
                return
        self._heard[namespace] = _Seen(source, now)

    def _label(self, namespace: bytes) -> str:
        if namespace not in self._labels:
            if len(self._labels) >= 4 * STRANGERS:
                self._labels.clear()
            self._labels[namespace] = named(namespace, KNOWN_NAMESPACES) or namespace.hex()
        return self._labels[namespace]
