"""The mDNS side of an exo that speaks libp2p: it answers questions for `_p2p._udp.local` to everybody."""

from __future__ import annotations

import argparse
import socket
import struct

GROUP, PORT = "224.0.0.251", 5353


def name(*labels: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"


SERVICE = name("_p2p", "_udp", "local")
NODE = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
PEER = name("h2mqkfgt6b0yzk8xw1d3s5v7n9rjc4pl", "_p2p", "_udp", "local")


def answer(
    ttl: int, address: str = "10.77.0.1", *, pointers: bool = False, port: int = 50123, node: str = NODE
) -> bytes:
    """A PTR record for the peer, and a TXT record with its address; `pointers` as other libraries compress names."""
    text = f"dnsaddr=/ip4/{address}/tcp/{port}/p2p/{node}".encode()
    text = bytes([len(text)]) + text
    peer = PEER[:33] + b"\xc0\x0c" if pointers else PEER
    head = struct.pack("!6H", 0, 0x8400, 0, 1, 0, 1)
    pointer = SERVICE + struct.pack("!2HIH", 12, 1, ttl, len(peer)) + peer
    return head + pointer + peer + struct.pack("!2HIH", 16, 0x8001, ttl, len(text)) + text


def open_port(address: str) -> socket.socket:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    udp.bind(("", PORT))
    udp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + socket.inet_aton(address))
    udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    return udp


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--ttl", type=int, default=2500)
    args = parser.parse_args()
    udp = open_port(args.address)
    print("ready", flush=True)
    while True:
        data, _ = udp.recvfrom(9000)
        if SERVICE in data and not data[2] & 0x80:
            udp.sendto(answer(args.ttl, args.address), (GROUP, PORT))


if __name__ == "__main__":
    main()
