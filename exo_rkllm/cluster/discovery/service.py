"""Sockets of discovery: datagrams of exo nodes on every interface that is up, now or later."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable

from exo_rkllm.cluster.discovery import interfaces
from exo_rkllm.cluster.discovery.interfaces import Interfaces
from exo_rkllm.cluster.discovery.packets import GROUP, decode, encode
from exo_rkllm.cluster.discovery.state import (
    AmbiguousClusters,
    DiscoveredPeer,
    DiscoveryState,
    Outcome,
    PacketSource,
    SendHello,
)
from exo_rkllm.errors import ExoRkllmError

EVERY = 1.0
# Each exo node says Hello once a second. While nobody is searched for, they are left with the kernel for so long and
# read together: well within the time in which an answer to our own question counts.
REST = 4.0
# Datagrams that are looked at in one go; a flood of them must not hold the loop.
BURST = 64
LONGEST = 64


class DiscoveryFailed(ExoRkllmError):
    """The discovery port cannot be had."""

    code = "cluster_discovery"


def new_nonce() -> bytes:
    return os.urandom(8)


class Discovery:
    """Feeds `DiscoveryState` from the network and reports peers, ambiguous clusters and changed interfaces.

    Only neighbours are heard, and the addresses in `configured`: exo has no authentication, and a datagram from a
    routed network would bring this board into a cluster of any stranger.

    While it searches, it sends a Hello to everybody each second.
    """

    def __init__(
        self,
        state: DiscoveryState,
        table: Interfaces,
        port: int,
        *,
        configured: frozenset[str] = frozenset(),
        on_peer: Callable[[DiscoveredPeer], None],
        on_ambiguity: Callable[[AmbiguousClusters], None],
        on_interfaces: Callable[[], None],
    ) -> None:
        self.state = state
        self.table = table
        self.garbage = 0
        self._port = port
        self._configured = configured
        self._on_peer, self._on_ambiguity, self._on_interfaces = on_peer, on_ambiguity, on_interfaces
        self._groups: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._rest: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._listing = interfaces.LINKS
        self._netlink = interfaces.open_netlink()
        self.problem: DiscoveryFailed | None = None
        self._socket = self._open_socket()

    def start(self) -> None:
        """Start to listen; only `search` makes it send."""
        self._loop.add_reader(self._netlink, self._read_netlink)
        self._listen()
        interfaces.request_dump(self._netlink, interfaces.LINKS)

    def search(self, *, on: bool) -> None:
        """Send a Hello to everybody each second, as exo does; when off, only new speakers are asked."""
        if on and self._timer is None:
            self.state.forget_answers()
            self._listen()
            self._timer = self._loop.call_later(0, self._say_hello)
        elif not on and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        self.search(on=False)
        if self._rest is not None:
            self._rest.cancel()
        for one in (self._netlink, self._socket):
            if one is not None:
                self._loop.remove_reader(one)
                one.close()

    def _listen(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if self._socket is not None:
            self._loop.add_reader(self._socket, self._read_socket)

    def _open_socket(self) -> socket.socket | None:
        udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
            udp.settimeout(0)
            # reference 2.1: exo answers to the port that asked, and so does everybody else who shares it
            udp.bind(("::", self._port))
        except OSError as error:
            udp.close()
            self.problem = DiscoveryFailed(
                f"UDP port {self._port} for exo's discovery cannot be opened: {error.strerror}.",
                f"See who has it: ss -lnup 'sport = :{self._port}'; or name exo nodes in [cluster] endpoints.",
            )
            return None
        return udp

    # ── the kernel ──

    def _read_netlink(self) -> None:
        changed = False
        while True:
            try:
                data = self._netlink.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                interfaces.request_dump(self._netlink, interfaces.LINKS)  # it had more to say than there was room for
                continue
            changed |= self.table.feed(data)
            if interfaces.ends_dump(data):
                self._dump_done()
        if changed:
            self._join()
            self._on_interfaces()

    def _dump_done(self) -> None:
        """A dump has ended: after the links, request the addresses."""
        if self._listing == interfaces.LINKS:
            self._listing = interfaces.ADDRESSES
            interfaces.request_dump(self._netlink, interfaces.ADDRESSES)
        else:
            self._listing = interfaces.LINKS

    def _join(self) -> None:
        if self._socket is None:
            return
        usable = {entry.index for entry in self.table.usable()}
        for index in usable - self._groups:
            with contextlib.suppress(OSError):  # an interface may go while it is joined
                _group(self._socket, socket.IPV6_JOIN_GROUP, index)
                self._groups.add(index)
                if self._timer is not None:
                    self._send(self.state.hellos(self._loop.time()), (index,))
        for index in self._groups - usable:
            with contextlib.suppress(OSError):  # the kernel has left the group with the interface
                _group(self._socket, socket.IPV6_LEAVE_GROUP, index)
        self._groups &= usable

    # ── the network ──

    def _say_hello(self) -> None:
        self._timer = self._loop.call_later(EVERY, self._say_hello)
        self._send(self.state.hellos(self._loop.time()), tuple(self._groups))

    def _send(self, hellos: list[SendHello], everywhere: tuple[int, ...] = ()) -> None:
        if self._socket is None:
            return
        for hello in hellos:
            data = encode(hello.packet)
            targets = (
                [(hello.source.address, self._port, 0, hello.source.scope)]
                if hello.source is not None
                else [(GROUP, self._port, 0, index) for index in everywhere]
            )
            for target in targets:
                with contextlib.suppress(OSError):  # an interface without a carrier; another second comes
                    self._socket.sendto(data, target)

    def _read_socket(self) -> None:
        if self._socket is None:
            return
        for _ in range(BURST):
            try:
                data, sender = self._socket.recvfrom(LONGEST)
            except OSError:
                break
            packet = decode(data)
            source = PacketSource(sender[0].partition("%")[0], sender[3])
            if packet is None or not self._is_heard(source):
                self.garbage += 1
                continue
            self._report(self.state.hear(packet, source, self._loop.time()))
        else:
            return  # there may be more
        if self._timer is None and self._rest is None:
            self._loop.remove_reader(self._socket)
            self._rest = self._loop.call_later(REST, self._listen)

    def _is_heard(self, source: PacketSource) -> bool:
        return source.address in self._configured or self.table.is_neighbour(source.address, source.scope)

    def _report(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, SendHello):
                self._send([outcome])
            elif isinstance(outcome, DiscoveredPeer):
                self._on_peer(outcome)
            else:
                self._on_ambiguity(outcome)


def _group(udp: socket.socket, option: int, index: int) -> None:
    udp.setsockopt(socket.IPPROTO_IPV6, option, socket.inet_pton(socket.AF_INET6, GROUP) + struct.pack("@I", index))
