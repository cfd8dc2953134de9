"""Driver and device-node changes as they happen: libudev's events through one file descriptor, no thread, no polling.

pyudev is imported by whoever makes a `Monitor`, so that the rest of the board stays free of it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

Action: TypeAlias = Literal["add", "remove", "bind", "unbind", "change", "lost"]
# libudev filters by these in the kernel, so other hardware does not even wake the daemon.
SUBSYSTEMS = ("platform", "drm", "misc", "accel")


@dataclass(frozen=True, slots=True)
class Change:
    """`lost`: the socket overflowed or libudev failed, so anything may have changed."""

    action: Action
    subsystem: str
    device: str

    @property
    def sentence(self) -> str:
        return SENTENCES.get(self.action, "udev: {device} {action}").format(device=self.device, action=self.action)


SENTENCES = {
    "bind": "The NPU driver was bound to {device}.",
    "unbind": "The NPU driver was unbound from {device}.",
    "add": "The device {device} appeared.",
    "remove": "The device {device} went away.",
    "lost": "Device events were lost, so the board is looked at again.",
}


def concerns_npu(subsystem: str, name: str, action: str) -> bool:
    """Whether to look at the board again: platform `*.npu`, DRM and accel minors, the misc device.

    A DRM minor that goes away names no driver any more, so every minor counts; `change` on one is a display's
    hotplug (npu-platform 2.4), and connectors (`card0-HDMI-A-1`) are nobody's NPU.
    """
    if subsystem == "platform":
        return name.endswith(".npu")
    if subsystem == "misc":
        return name == "rknpu"
    minor = name.startswith(("card", "renderD", "accel")) and "-" not in name
    return minor and action != "change"


class EventSource(Protocol):
    """What the loop watches: readable descriptor, and all events that are there now."""

    def fileno(self) -> int: ...

    def drain(self) -> list[Change]: ...

    def close(self) -> None: ...


class Monitor:
    """Started at once: whoever enumerates afterwards misses nothing in between (2.4)."""

    def __init__(self) -> None:
        import pyudev

        # udevd's events come after its rules have set the groups; where no udevd runs, the kernel's must do.
        source = "udev" if Path("/run/udev/control").exists() else "kernel"
        self._context = pyudev.Context()
        self._monitor = pyudev.Monitor.from_netlink(self._context, source=source)
        for subsystem in SUBSYSTEMS:
            self._monitor.filter_by(subsystem)
        self._monitor.start()

    def fileno(self) -> int:
        return int(self._monitor.fileno())

    def drain(self) -> list[Change]:
        found: list[Change] = []
        try:
            found.extend(
                Change(device.action, device.subsystem, device.sys_name)
                for device in iter(self._next, None)
                if concerns_npu(device.subsystem or "", device.sys_name, device.action or "")
            )
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EINTR):
                found.append(Change("lost", "", ""))
        return found

    def npus(self) -> Iterator[str]:
        """Platform devices that libudev knows now, by name."""
        for device in self._context.list_devices(subsystem="platform"):
            if concerns_npu("platform", device.sys_name, "add"):
                yield str(device.sys_name)

    def close(self) -> None:
        """The socket belongs to libudev's object and goes with it."""
        del self._monitor, self._context

    def _next(self):  # type: ignore[no-untyped-def]  # pyudev has no types
        return self._monitor.poll(timeout=0)
