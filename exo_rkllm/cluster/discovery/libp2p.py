"""exo's releases up to 1.0.71 speak libp2p, which this board does not: they are heard by mDNS, and named."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet

LIBP2P = "exo 1.0.71 or older (libp2p)"
NOT_SPOKEN = "This board joins exo from its main branch of 2026-06-03 on (zenoh), and nothing older."
HINT = "Run exo from its main branch there: docs/joining-exo.md"

GROUP, PORT = "224.0.0.251", 5353
# The service of every libp2p program. exo's is told by the lifetime of its records, which no default is.
SERVICE = ("_p2p", "_udp", "local")
EXO_TTL = 2500
PTR, IN = 12, 1
RESPONSE = 0x8000
# Seconds between two questions; one who has not answered three of them is gone.
ASK_EVERY = 60.0
FORGET = 3.5 * ASK_EVERY
# Hosts that are remembered, and datagrams that are looked at in one go: the port is open to everybody.
HOSTS = 64
BURST = 64
LONGEST = 9000

_HEAD = struct.Struct("!6H")
_QUESTION = struct.Struct("!2H")
_RECORD = struct.Struct("!2HIH")


def sentence_of(hosts: Sequence[str]) -> tuple[str, str]:
    """What is to be told of such hosts, and what to do."""
    return f"{LIBP2P} is heard at {', '.join(hosts)}. {NOT_SPOKEN}", HINT


def encoded(name: tuple[str, ...]) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name) + b"\0"


def question() -> bytes:
    """Asks all libp2p programs of the network for their names; they answer to everybody."""
    return _HEAD.pack(0, 0, 1, 0, 0, 0) + encoded(SERVICE) + _QUESTION.pack(PTR, IN)


def is_exo(data: bytes) -> bool:
    """Whether a datagram of mDNS is the answer of an exo that speaks libp2p."""
    if len(data) < _HEAD.size or encoded(SERVICE) not in data:
        return False
    try:
        return any(kind == PTR and name == SERVICE and ttl == EXO_TTL for name, kind, ttl in _answers(data))
    except (IndexError, struct.error, UnicodeDecodeError):
        return False


def _answers(data: bytes) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """Name, type and lifetime of the records; raises IndexError, struct.error or UnicodeDecodeError for garbage."""
    _, flags, questions, *counts = _HEAD.unpack_from(data)
    if not flags & RESPONSE:
        return
    position = _HEAD.size
    for _ in range(questions):
        _, position = _name(data, position)
        position += _QUESTION.size
    for _ in range(sum(counts)):
        name, position = _name(data, position)
        kind, _, ttl, length = _RECORD.unpack_from(data, position)
        yield name, kind, ttl
        position += _RECORD.size + length


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
    """Hosts of the local network on which such an exo runs; `on_heard` is called with each new one."""

    def __init__(self, is_neighbour: Callable[[str], bool], on_heard: Callable[[str], None]) -> None:
        self._is_neighbour = is_neighbour
        self._on_heard = on_heard
        self._heard: dict[str, float] = {}
        self._loop = asyncio.get_running_loop()
        self._indices: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._socket = _open()
        if self._socket is not None:
            self._loop.add_reader(self._socket, self._read)

    def hosts(self) -> tuple[str, ...]:
        now = self._loop.time()
        return tuple(sorted(host for host, at in self._heard.items() if now - at < FORGET))

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
            self._timer = self._loop.call_later(ASK_EVERY, self._ask_again)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _ask_again(self) -> None:
        self._timer = self._loop.call_later(ASK_EVERY, self._ask_again)
        self._ask(self._indices)

    def _ask(self, indices: AbstractSet[int]) -> None:
        for index in sorted(indices):
            if self._socket is not None:
                with contextlib.suppress(OSError):  # another minute comes
                    self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _membership(index))
                    self._socket.sendto(question(), (GROUP, PORT))

    def _read(self) -> None:
        for _ in range(BURST):
            try:
                data, (address, _) = self._socket.recvfrom(LONGEST)  # type: ignore[union-attr]  # read while it is open
            except OSError:
                return
            if is_exo(data) and self._is_neighbour(address):
                self._hear(address, self._loop.time())

    def _hear(self, address: str, now: float) -> None:
        self._heard = {host: at for host, at in self._heard.items() if now - at < FORGET}
        if address not in self._heard:
            if len(self._heard) >= HOSTS:
                return
            self._on_heard(address)
        self._heard[address] = now


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
