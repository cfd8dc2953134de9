"""Network interfaces as the kernel reports them over netlink: one dump at the start, then changes only."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from exo_rkllm.cluster.wire.events import Raw

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_DONE = 3
_REQUEST, _DUMP = 0x1, 0x300
_GROUPS = 0x1 | 0x10 | 0x100  # links, IPv4 addresses, IPv6 addresses
_IFLA_IFNAME, _IFA_ADDRESS, _IFA_LOCAL = 3, 1, 2
_UP, _LOOPBACK, _RUNNING = 0x1, 0x8, 0x40
_TENTATIVE = 0x40  # an IPv6 address whose uniqueness is still being checked cannot send yet

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBi")
_ATTRIBUTE = struct.Struct("=HH")

_KINDS = (("wl", "wifi"), ("en", "ethernet"), ("eth", "ethernet"), ("thunderbolt", "thunderbolt"))


@dataclass(frozen=True, slots=True)
class Interface:
    index: int
    name: str = ""
    up: bool = False
    loopback: bool = False
    addresses: tuple[str, ...] = ()
    networks: tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether discovery can speak on it."""
        return self.up and not self.loopback and any(":" in address for address in self.addresses)

    @property
    def kind(self) -> str:
        """exo's name of the interface's type, derived from the kernel's naming scheme."""
        return next((kind for start, kind in _KINDS if self.name.startswith(start)), "unknown")


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        if length < _ATTRIBUTE.size:
            return
        yield kind, data[position + _ATTRIBUTE.size : position + length]
        position += (length + 3) & ~3


class Interfaces:
    """The interfaces of this machine, kept up to date by `feed`; `names` limits them, an empty one does not."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names = frozenset(names)
        self._all: dict[int, Interface] = {}

    def usable(self) -> tuple[Interface, ...]:
        return tuple(entry for entry in self._selection() if entry.usable)

    def addresses(self) -> tuple[Raw, ...]:
        """Addresses in exo's words (`NetworkInterfaceInfo`), without link-local ones."""
        return tuple(
            {"name": entry.name, "ip_address": address, "interface_type": entry.kind}
            for entry in self._selection()
            for address in entry.addresses
            if not ipaddress.ip_address(address).is_link_local
        )

    def is_neighbour(self, address: str, scope: int = 0) -> bool:
        """Whether the address is link-local on one of these interfaces, or in a network that one has an address in.

        `scope` is the index of the interface that a link-local address belongs to.
        """
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        ip = getattr(ip, "ipv4_mapped", None) or ip
        if ip.is_link_local and ip.version == 6:
            return any(entry.index == scope for entry in self._selection())
        return any(ip in one.network for entry in self._selection() for one in entry.networks)

    def feed(self, data: bytes) -> bool:
        """Take in the data of one read of the netlink socket; returns whether anything changed."""
        before = dict(self._all)
        position = 0
        while position + _HEADER.size <= len(data):
            length, kind, *_ = _HEADER.unpack_from(data, position)
            if length < _HEADER.size:
                break
            self._message(kind, data[position + _HEADER.size : position + length])
            position += (length + 3) & ~3
        return self._all != before

    def _selection(self) -> Iterator[Interface]:
        for entry in self._all.values():
            if entry.up and not entry.loopback and (not self._names or entry.name in self._names):
                yield entry

    def _message(self, kind: int, body: bytes) -> None:
        if kind in (_NEWLINK, _DELLINK) and len(body) >= _LINK.size:
            _, _, index, flags, _ = _LINK.unpack_from(body)
            if kind == _DELLINK:
                self._all.pop(index, None)
                return
            names = [value for key, value in _attributes(body[_LINK.size :]) if key == _IFLA_IFNAME]
            known = self._all.get(index, Interface(index))
            self._all[index] = replace(
                known,
                name=names[0].rstrip(b"\0").decode() if names else known.name,
                up=flags & (_UP | _RUNNING) == _UP | _RUNNING,
                loopback=bool(flags & _LOOPBACK),
            )
        elif kind in (_NEWADDR, _DELADDR) and len(body) >= _ADDRESS.size:
            family, prefix, flags, _, index = _ADDRESS.unpack_from(body)
            found = dict(_attributes(body[_ADDRESS.size :]))
            raw = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS))
            if family not in (socket.AF_INET, socket.AF_INET6) or raw is None:
                return
            ip = ipaddress.ip_address(raw)
            address = ipaddress.ip_interface(f"{ip}/{min(prefix, ip.max_prefixlen)}")
            self._address(index, address, there=kind == _NEWADDR and not flags & _TENTATIVE)

    def _address(self, index: int, address: ipaddress.IPv4Interface | ipaddress.IPv6Interface, *, there: bool) -> None:
        known = self._all.get(index, Interface(index))
        networks = tuple(one for one in known.networks if one.ip != address.ip)
        if there:
            networks = (*networks, address)
        addresses = tuple(sorted(str(one.ip) for one in networks))
        self._all[index] = replace(known, addresses=addresses, networks=networks)


def open_netlink() -> socket.socket:
    """A netlink socket that receives every change of links and addresses from now on."""
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    netlink.settimeout(0)
    netlink.bind((0, _GROUPS))
    return netlink


def request_dump(netlink: socket.socket, kind: int) -> None:
    """Ask the kernel to list LINKS or ADDRESSES; one dump must end before the next one is requested."""
    body = bytes(_LINK.size)
    netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | _DUMP, kind, 0) + body)


def ends_dump(data: bytes) -> bool:
    """Whether the data contains the end of a dump."""
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, position)
        if kind == _DONE:
            return True
        position += max(_HEADER.size, (length + 3) & ~3)
    return False


LINKS, ADDRESSES = _GETLINK, _GETADDR


def hosts_in(endpoints: Sequence[str]) -> frozenset[str]:
    """The addresses in zenoh's endpoints, such as fd00::10 of tcp/[fd00::10]:52414."""
    return frozenset(one.partition("/")[2].rpartition(":")[0].strip("[]").partition("%")[0] for one in endpoints)
