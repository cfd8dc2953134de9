"""The other end of the lease socket: a turn on the NPU for a program of the owner's."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from exo_rkllm.client.control import DaemonUnreachable, connect, listening, not_running, sockets
from exo_rkllm.config.places import lease_socket
from exo_rkllm.errors import Busy

WITHOUT_DAEMON = "Without a daemon nothing takes turns: sudo systemctl start exo-rkllm, or run the command by itself."


class Lease:
    """A connection to the daemon that holds the NPU, or waits for it; closing it gives the NPU back.

    `socket` becomes readable when the daemon wants the NPU back or is gone. A process that inherits it keeps the lease
    for as long as it lives.
    """

    def __init__(self, path: Path) -> None:
        self.socket = connect(path, None)

    def acquire(self, name: str) -> None:
        """Returns once no model computes; raises why that will not be."""
        try:
            self.socket.sendall(f"ACQUIRE {' '.join(name.split())}\n".encode())
            answer, _, sentence = self.message().partition(" ")
        except OSError:
            answer, sentence = "", ""
        if answer == "REFUSED":
            raise Busy(sentence, "exo-rkllm ps shows what computes on the NPU.")
        if answer != "GRANTED":
            raise DaemonUnreachable("The daemon went away before the NPU was free.", "exo-rkllm logs")

    def message(self) -> str:
        """The daemon's next line; empty where it is gone."""
        line = b""
        while not line.endswith(b"\n"):
            byte = self.socket.recv(1)  # what follows is for later
            if not byte:
                return ""
            line += byte
        return line.decode(errors="replace").strip()

    def release(self) -> None:
        """At once, whoever else has inherited the connection."""
        try:
            self.socket.sendall(b"RELEASE\n")
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the daemon has ended it already
        self.socket.close()


def open_lease(environment: Mapping[str, str] = os.environ) -> Lease:
    """With the user's own daemon, else the service."""
    leases = [lease_socket(control) for control in sockets(environment)]
    path = listening(leases)
    if path is None:
        raise DaemonUnreachable(not_running(leases).sentence, WITHOUT_DAEMON)
    return Lease(path)
