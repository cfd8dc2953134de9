"""Which exo nodes and clusters are on the local network: the decisions of discovery, without a socket."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from exo_rkllm.cluster.discovery.namespace import digest, namespace_of
from exo_rkllm.cluster.discovery.packets import Hello, Packet, WhatsUp
from exo_rkllm.config.table import AUTO

# Every exo node says Hello once a second: after this time all clusters of the network were heard.
DISCOVERY_WINDOW = 1.2
# What was not heard for so long is gone.
FORGET = 30.0
# An answer that comes later is to nobody's question.
VALID = 10.0
# A Hello that nobody answered for is asked about again, but not at each repetition.
ASK_AGAIN = 3.0
DISCOVERY_PORT = 52413
# Nodes that are remembered: the port is open to everybody.
NODES = 64
# exo's default namespace is its version; hashes of these are known by name.
KNOWN_NAMESPACES = tuple(f"0.3.{patch}" for patch in range(60, 120))


@dataclass(frozen=True, slots=True)
class PacketSource:
    """Where a datagram came from; `scope` is the interface's index for link-local addresses."""

    address: str
    scope: int = 0

    def __str__(self) -> str:
        return f"{self.address}%{self.scope}" if self.scope else self.address


@dataclass(frozen=True, slots=True)
class DiscoveredPeer:
    """An exo node that zenoh can be connected to."""

    node_id: str
    source: PacketSource
    port: int

    @property
    def endpoint(self) -> str:
        return f"tcp/[{self.source}]:{self.port}"


@dataclass(frozen=True, slots=True)
class OtherCluster:
    """A cluster that is heard and not joined."""

    namespace: str
    source: PacketSource


@dataclass(frozen=True, slots=True)
class SendHello:
    """Send a Hello to this source, or to everybody where it is None."""

    packet: Hello
    source: PacketSource | None = None


@dataclass(frozen=True, slots=True)
class AmbiguousClusters:
    """More than one cluster is heard and none was named: none is joined."""

    namespaces: tuple[str, ...]


Outcome: TypeAlias = SendHello | DiscoveredPeer | AmbiguousClusters
# A namespace, and who asked or answered in it.
Speaker: TypeAlias = tuple[bytes, PacketSource]


class DiscoveryState:
    """`setting` is the configured namespace, or `auto`: then the one that is heard, if it is one alone.

    A Hello is a question, and other boards of ours ask as well: only an answer shows that a cluster is there. With
    `auto` the first one that answers is connected to at once, and nothing is said to it before `is_settled`.
    """

    def __init__(
        self,
        me: str,
        setting: str,
        new_nonce: Callable[[], bytes],
        guesses: Sequence[str] = (),
        port: int = DISCOVERY_PORT,
    ) -> None:
        self.setting = setting
        self._me = me
        self._new_nonce = new_nonce
        self._ports = zenoh_ports(port)
        self._guesses = tuple(digest(guess) for guess in guesses)
        self._questions: dict[bytes, tuple[bytes, float]] = {}  # nonces: the namespace asked for, and when
        self._namespace: bytes | None = None if setting == AUTO else digest(setting)
        self._since: float | None = None
        self._ambiguous = False
        self._labels: dict[bytes, str] = {}
        self._hello_times: dict[Speaker, float] = {}
        self._answer_times: dict[Speaker, float] = {}
        self._peers: dict[str, tuple[DiscoveredPeer, float]] = {}

    @property
    def namespace(self) -> str:
        """The cluster's name, empty while none was chosen."""
        if self.setting != AUTO:
            return self.setting
        return "" if self._namespace is None else self._label(self._namespace)

    def is_settled(self, now: float) -> bool:
        """Whether the choice of the cluster stands."""
        if self.setting != AUTO:
            return True
        window_over = self._since is not None and now - self._since >= DISCOVERY_WINDOW
        return window_over and not self._ambiguous and self._namespace is not None

    def patience(self, now: float) -> float:
        """Seconds after which `is_settled` may have changed."""
        if self._since is None or now - self._since >= DISCOVERY_WINDOW:
            return DISCOVERY_WINDOW
        return DISCOVERY_WINDOW - (now - self._since)

    def hellos(self, now: float) -> list[SendHello]:
        """Hellos for everybody, with new nonces each second, as exo draws them."""
        if self._since is None:
            self._since = now
        self._mend(now)
        namespaces = self._guesses if self._namespace is None else (self._namespace,)
        return [] if self._ambiguous else [SendHello(self._question(namespace, now)) for namespace in namespaces]

    def hear(self, packet: Packet, source: PacketSource, now: float) -> list[Outcome]:
        if isinstance(packet, WhatsUp):
            return self._answer(packet, source, now)
        if packet.nonce in self._questions:
            return []  # our own, come back by multicast loop
        speaker = packet.namespace, source
        if now - self._answer_times.get(speaker, -FORGET) < FORGET:
            self._answer_times[speaker] = now
            if packet.namespace == self._namespace:
                self._refresh(source, now)
            return []
        # whoever starts later is asked once, so that nobody needs to say Hello while the link is good
        if now - self._hello_times.get(speaker, -ASK_AGAIN) < ASK_AGAIN or not _room(self._hello_times, speaker, now):
            return []
        self._hello_times[speaker] = now
        return [SendHello(self._question(packet.namespace, now), source)]

    def other_clusters(self, now: float) -> tuple[OtherCluster, ...]:
        """Clusters that are not ours, each with the node of it that spoke last."""
        spoke = sorted(self._answer_times.items(), key=lambda entry: entry[1])
        others = {
            namespace: source for (namespace, source), at in spoke if namespace != self._namespace and now - at < FORGET
        }
        return tuple(OtherCluster(self._label(namespace), source) for namespace, source in others.items())

    def endpoints(self) -> tuple[str, ...]:
        """zenoh's addresses of all known peers, the last that spoke first: a dead one keeps zenoh waiting."""
        recent = sorted(self._peers.values(), key=lambda entry: (-entry[1], entry[0].node_id))
        return tuple(peer.endpoint for peer, _ in recent)

    def sources(self, since: float) -> tuple[str, ...]:
        """Where nodes of our cluster answered after that time."""
        return tuple(str(peer.source) for peer, at in self._peers.values() if at >= since)

    def forget_answers(self) -> None:
        """Ask all nodes of our cluster again; called when the link is lost."""
        self._hello_times.clear()
        self._answer_times = {
            speaker: at for speaker, at in self._answer_times.items() if speaker[0] != self._namespace
        }

    def _question(self, namespace: bytes, now: float) -> Hello:
        self._questions = {nonce: entry for nonce, entry in self._questions.items() if now - entry[1] < VALID}
        nonce = self._new_nonce()
        self._questions[nonce] = (namespace, now)
        return Hello(nonce, namespace)

    def _answer(self, packet: WhatsUp, source: PacketSource, now: float) -> list[Outcome]:
        namespace, asked_at = self._questions.get(packet.nonce, (b"", -VALID))
        if now - asked_at >= VALID or packet.node_id == self._me or packet.port not in self._ports:
            return []
        speaker = namespace, source
        if not _room(self._answer_times, speaker, now):
            return []
        self._answer_times[speaker] = now
        if self._namespace is None and not self._ambiguous:
            self._namespace = namespace
        if namespace != self._namespace:
            return self._compare(now)
        self._refresh(source, now)
        if packet.node_id in self._peers:
            return []
        # exo draws a new id at each start: whoever was at this address before is gone
        self._peers = {
            node: entry
            for node, entry in self._peers.items()
            if (entry[0].source, entry[0].port) != (source, packet.port)
        }
        if len(self._peers) >= NODES:
            return []
        peer = DiscoveredPeer(packet.node_id, source, packet.port)
        self._peers[packet.node_id] = (peer, now)
        return [peer]

    def _refresh(self, source: PacketSource, now: float) -> None:
        for node, (peer, _) in self._peers.items():
            if peer.source == source:
                self._peers[node] = (peer, now)

    def _compare(self, now: float) -> list[Outcome]:
        """Another cluster than ours answered: within the window, that makes the choice ambiguous."""
        if self.setting != AUTO or self._ambiguous or self._since is None or now - self._since >= DISCOVERY_WINDOW:
            return []
        self._ambiguous, self._namespace = True, None
        self._peers.clear()
        return [AmbiguousClusters(tuple(sorted(self._label(namespace) for namespace in self._alive(now))))]

    def _mend(self, now: float) -> None:
        """Choose the last of several clusters that is still heard."""
        remaining = self._alive(now)
        if self._ambiguous and len(remaining) == 1:
            self._ambiguous, self._namespace = False, remaining.pop()

    def _alive(self, now: float) -> set[bytes]:
        return {namespace for (namespace, _), at in self._answer_times.items() if now - at < FORGET}

    def _label(self, namespace: bytes) -> str:
        if namespace not in self._labels:
            if len(self._labels) >= 2 * NODES:
                self._labels.clear()
            self._labels[namespace] = namespace_of(namespace, KNOWN_NAMESPACES) or namespace.hex()
        return self._labels[namespace]


def _room(speakers: dict[Speaker, float], speaker: Speaker, now: float) -> bool:
    """Whether the speaker is or can be remembered; silent ones make room."""
    if speaker in speakers or len(speakers) < NODES:
        return True
    for silent in [one for one, at in speakers.items() if now - at >= FORGET]:
        del speakers[silent]
    return len(speakers) < NODES


def zenoh_ports(discovery_port: int) -> range:
    """The hundred around exo's discovery port, where its zenoh listens: nobody makes a board connect to any other."""
    return range(discovery_port // 100 * 100, discovery_port // 100 * 100 + 100)
