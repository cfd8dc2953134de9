"""exo's releases up to 1.0.71 speak libp2p and are heard by mDNS.

libp2p's programs answer a question for `_p2p._udp.local` to everybody, each with the addresses of its own. One that
starts asks such questions itself, and is asked back.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

LIBP2P = "exo 1.0.71 or older (libp2p)"

GROUP, PORT = "224.0.0.251", 5353
# The service of every libp2p program. exo's is told by the lifetime of its records, which no default is.
SERVICE = ("_p2p", "_udp", "local")
EXO_TTL = 2500
PTR, TXT, IN = 12, 16, 1
RESPONSE = 0x8000
# Seconds between two questions, while no cluster is joined and later; who has not answered for FORGET is gone.
SEARCH_EVERY, ASK_EVERY = 5.0, 60.0
FORGET = 3.5 * ASK_EVERY
# Questions of other programs make us ask as well, but not more often than this.
ASK_BACK = 0.5
# Hosts that are remembered, nodes on one of them, and datagrams that are looked at in one go: the port is open to
# everybody.
HOSTS, NODES = 64, 4
BURST = 64
LONGEST = 9000

_HEAD = struct.Struct("!6H")
_QUESTION = struct.Struct("!2H")
_RECORD = struct.Struct("!2HIH")
# Nodes choose a free port: nobody makes a board connect to a service of the system.
_ADDRESS = re.compile(
    r"dnsaddr=(/ip4/(\d{1,3}(?:\.\d{1,3}){3})/tcp/(?:102[4-9]|10[3-9]\d|1[1-9]\d\d|[2-9]\d{3}|\d{5})/p2p/[1-9A-HJ-NP-Za-km-z]{40,64})"
)


_SET = 'Set namespace in [cluster] to "libp2p" to join it.'
# Why such an exo is not joined, and what to do.
NOT_JOINED = {
    "missing": ("exo_libp2p is not installed.", "See docs/joining-exo.md, or run exo from its main branch there."),
    "named": ("namespace in [cluster] names another cluster.", _SET),
    "newer": ("the newer exo is joined.", _SET),
}


def sentence_of(hosts: Sequence[str], why: str) -> tuple[str, str]:
    """What is to be told of hosts with such an exo; `why` is of NOT_JOINED."""
    reason, hint = NOT_JOINED[why]
    return f"{LIBP2P} is heard at {', '.join(hosts)} and not joined: {reason}", hint


def silent(hosts: Sequence[str], namespace: str) -> tuple[str, str]:
    """What is to be told of hosts that are heard and do not answer in this namespace."""
    return (
        f"{LIBP2P} is heard at {', '.join(hosts)} and does not answer in the namespace {namespace}.",
        'Where it runs with EXO_LIBP2P_NAMESPACE=NAME, set namespace in [cluster] to "libp2p/NAME".',
    )


def encoded(name: tuple[str, ...]) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name) + b"\0"


def question() -> bytes:
    """Asks all libp2p programs of the network for their addresses. Boards ask with the id 0, they with any other."""
    return _HEAD.pack(0, 0, 1, 0, 0, 0) + encoded(SERVICE) + _QUESTION.pack(PTR, IN)


@dataclass(frozen=True, slots=True)
class MdnsAnswer:
    """An exo's answer: host and address of each of its endpoints."""

    endpoints: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class MdnsQuestion:
    """A libp2p program asks who is there."""


def read(data: bytes) -> MdnsAnswer | MdnsQuestion | None:
    """What a datagram of mDNS says of exo, if anything."""
    if len(data) < _HEAD.size or encoded(SERVICE) not in data:
        return None
    asked_with, flags, *_ = _HEAD.unpack_from(data)
    if not flags & RESPONSE:
        return MdnsQuestion() if asked_with else None
    try:
        records = list(_answers(data))
    except (IndexError, struct.error, UnicodeDecodeError):
        return None
    if not any(kind == PTR and name == SERVICE and ttl == EXO_TTL for name, kind, ttl, _ in records):
        return None
    texts = (text[1:].decode("ascii", "replace") for _, kind, _, text in records if kind == TXT)
    matches = (_ADDRESS.fullmatch(text) for text in texts)
    return MdnsAnswer(tuple((match[2], match[1]) for match in matches if match))


def _answers(data: bytes) -> Iterator[tuple[tuple[str, ...], int, int, bytes]]:
    """Name, type, lifetime and data of records; raises IndexError, struct.error or UnicodeDecodeError for garbage."""
    _, _, questions, *counts = _HEAD.unpack_from(data)
    position = _HEAD.size
    for _ in range(questions):
        _, position = _name(data, position)
        position += _QUESTION.size
    for _ in range(sum(counts)):
        name, position = _name(data, position)
        kind, _, ttl, length = _RECORD.unpack_from(data, position)
        position += _RECORD.size + length
        yield name, kind, ttl, data[position - length : position]


def _name(data: bytes, position: int) -> tuple[tuple[str, ...], int]:
    """The name at a position, and the position behind it. Labels may point back to earlier ones, never forward."""
    labels: list[str] = []
    after = 0
    while length := data[position]:
        if length >= 0xC0:
            after = after or position + 2
            target = (length & 0x3F) << 8 | data[position + 1]
            if target >= position:
                raise IndexError("a name that points forward")
            position = target
            continue
        labels.append(data[position + 1 : position + 1 + length].decode())
        position += 1 + length
    return tuple(labels), after or position + 1


class LibP2pWatch:
    """Hosts of the local network on which such an exo runs. `on_heard` is called with each new one, `on_endpoint` with
    each new endpoint on it; only endpoints at the address that an answer came from are believed.
    """

    def __init__(
        self,
        is_neighbour: Callable[[str], bool],
        on_heard: Callable[[str], None],
        on_endpoint: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._is_neighbour = is_neighbour
        self._on_heard, self._on_endpoint = on_heard, on_endpoint
        self._heard: dict[str, float] = {}
        self._endpoints: dict[str, tuple[str, ...]] = {}  # by host, the last one first
        self._loop = asyncio.get_running_loop()
        self._indices: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._every = SEARCH_EVERY
        self._asked_at = -ASK_BACK
        self._socket = _open()
        if self._socket is not None:
            self._loop.add_reader(self._socket, self._read)

    def hosts(self, seconds: float = FORGET) -> tuple[str, ...]:
        """Those that answered in the last seconds."""
        now = self._loop.time()
        return tuple(sorted(host for host, at in self._heard.items() if now - at < seconds))

    def endpoints(self) -> tuple[str, ...]:
        """Of all hosts, the one that answered last first."""
        recent = sorted(self.hosts(), key=self._heard.__getitem__, reverse=True)
        return tuple(endpoint for host in recent for endpoint in self._endpoints.get(host, ()))

    def forget(self) -> None:
        """Whoever was heard is heard anew if it is still there."""
        self._heard.clear()
        self._endpoints.clear()

    def use(self, indices: AbstractSet[int]) -> None:
        """Listen and ask on these interfaces from now on."""
        if self._socket is None:
            return
        for index in indices - self._indices:
            with contextlib.suppress(OSError):  # one without an IPv4 address, or one that has just gone
                self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _membership(index))
        fresh, self._indices = indices - self._indices, set(indices)
        self._ask(fresh)
        if self._timer is None:
            self._timer = self._loop.call_later(self._every, self._ask_again)

    def search(self, *, on: bool) -> None:
        """Ask more often while no cluster is joined."""
        every = SEARCH_EVERY if on else ASK_EVERY
        if every != self._every:
            self._every = every
            if self._timer is not None:
                self._timer.cancel()
                self._timer = self._loop.call_later(self._every, self._ask_again)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _ask_again(self) -> None:
        self._timer = self._loop.call_later(self._every, self._ask_again)
        self._ask(self._indices)

    def _ask(self, indices: AbstractSet[int]) -> None:
        self._asked_at = self._loop.time()
        for index in sorted(indices):
            if self._socket is not None:
                with contextlib.suppress(OSError):  # the next question comes
                    self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _membership(index))
                    self._socket.sendto(question(), (GROUP, PORT))

    def _read(self) -> None:
        for _ in range(BURST):
            try:
                data, (address, _) = self._socket.recvfrom(LONGEST)  # type: ignore[union-attr]  # read while it is open
            except OSError:
                return
            message = read(data)
            if message is None or not self._is_neighbour(address):
                continue
            now = self._loop.time()
            if isinstance(message, MdnsAnswer):
                self._hear(address, message, now)
            elif now - self._asked_at >= ASK_BACK:
                self._ask(self._indices)

    def _hear(self, address: str, answer: MdnsAnswer, now: float) -> None:
        self._heard = {host: at for host, at in self._heard.items() if now - at < FORGET}
        self._endpoints = {host: ones for host, ones in self._endpoints.items() if host in self._heard}
        if address not in self._heard:
            if len(self._heard) >= HOSTS:
                return
            self._on_heard(address)
        self._heard[address] = now
        for host, endpoint in answer.endpoints:
            known = self._endpoints.get(address, ())
            if host == address and endpoint not in known:
                self._endpoints[address] = (endpoint, *known)[:NODES]
                self._on_endpoint(endpoint)


def _membership(index: int) -> bytes:
    """`ip_mreqn`: the group on the interface of this index."""
    return struct.pack("@4s4si", socket.inet_aton(GROUP), bytes(4), index)


def _open() -> socket.socket | None:
    """The port of mDNS, which programs share; None where another one has it for itself."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        udp.settimeout(0)
        udp.bind(("", PORT))
    except OSError:
        udp.close()
        return None
    return udp
