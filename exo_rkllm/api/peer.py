"""Who is at the other end of a Unix socket, as the kernel knows it."""

from __future__ import annotations

import pwd
import socket
import struct
from dataclasses import dataclass

CREDENTIALS = struct.Struct("iII")


@dataclass(frozen=True, slots=True)
class SocketPeer:
    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        try:
            name = pwd.getpwuid(self.uid).pw_name
        except KeyError:  # a user of another container's table
            name = "somebody"
        return f"{name} (uid {self.uid}, pid {self.pid})"


def peer_of(sock: socket.socket) -> SocketPeer:
    """SO_PEERCRED: credentials at the time of connect(2), which nobody can forge."""
    return SocketPeer(*CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)))
