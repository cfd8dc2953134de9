"""What systemd and a service tell each other: sd_notify(3), sd_listen_fds(3). Datagrams and variables, no library."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

FIRST_SOCKET = 3


class Notifier:
    """Says how the service is to whoever started it; without one, nobody hears it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._status = ""

    def say(self, **state: object) -> None:
        if not self._address:
            return
        text = "\n".join(f"{name}={value}" for name, value in state.items())
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            sock.sendto(text.encode(), self._address)

    def ready(self) -> None:
        self.say(READY=1)

    def reloading(self) -> None:
        """`Type=notify-reload` wants the time of it, too."""
        self.say(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)

    def stopping(self) -> None:
        self.say(STOPPING=1)

    def alive(self) -> None:
        self.say(WATCHDOG=1)

    def status(self, text: str) -> None:
        """One line in `systemctl status`, sent when it changed."""
        if text != self._status:
            self._status = text
            self.say(STATUS=text)


def watchdog_seconds(environment: Mapping[str, str], pid: int) -> float | None:
    """How often systemd wants to hear that we are alive; None where it does not."""
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdecimal() and int(text) > 0 else None


def inherited(environment: Mapping[str, str], pid: int) -> tuple[socket.socket, ...]:
    """Sockets that systemd listened on for us; meant for the process that LISTEN_PID names, and no child of it."""
    if environment.get("LISTEN_PID") != str(pid):
        return ()
    numbers = range(FIRST_SOCKET, FIRST_SOCKET + int(environment.get("LISTEN_FDS") or 0))
    for number in numbers:
        os.set_inheritable(number, False)
    return tuple(socket.socket(fileno=number) for number in numbers)
