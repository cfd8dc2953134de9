"""exo's discovery datagrams (reference 2.1): no I/O, no clock, nothing but bytes and values."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TypeAlias

GROUP = "ff12::e0a1:de89"

_MAGIC = b"EXO"
_HELLO, _WHATS_UP = 0, 1
_HEAD = struct.Struct("<3sB8s")
_WHATS_UP_TAIL = struct.Struct("<16sH")
_NODE_ID = re.compile(r"[1-9a-f][0-9a-f]{0,31}")


@dataclass(frozen=True, slots=True)
class Hello:
    """Asks for the nodes of a namespace; each of them answers with a WhatsUp to the sender's address and port."""

    nonce: bytes
    namespace: bytes


@dataclass(frozen=True, slots=True)
class WhatsUp:
    """The answer to a Hello: the sender's node id, and the port on which its zenoh listens."""

    nonce: bytes
    node_id: str
    port: int


Packet: TypeAlias = Hello | WhatsUp


def valid_node_id(text: str) -> bool:
    return _NODE_ID.fullmatch(text) is not None


def encode(packet: Packet) -> bytes:
    if isinstance(packet, Hello):
        return _HEAD.pack(_MAGIC, _HELLO, packet.nonce) + packet.namespace
    number = int(packet.node_id, 16).to_bytes(16, "little")
    return _HEAD.pack(_MAGIC, _WHATS_UP, packet.nonce) + _WHATS_UP_TAIL.pack(number, packet.port)


def decode(data: bytes) -> Packet | None:
    """The packet in a datagram, None if it is none of exo's."""
    if len(data) < _HEAD.size:
        return None
    magic, kind, nonce = _HEAD.unpack_from(data)
    rest = data[_HEAD.size :]
    if magic != _MAGIC:
        return None
    if kind == _HELLO and len(rest) == 8:
        return Hello(nonce, rest)
    if kind == _WHATS_UP and len(rest) == _WHATS_UP_TAIL.size:
        number, port = _WHATS_UP_TAIL.unpack(rest)
        node_id = f"{int.from_bytes(number, 'little'):x}"
        return WhatsUp(nonce, node_id, port) if valid_node_id(node_id) and port else None
    return None
