"""The board as the daemon holds it: detected at start, and again when udev reports a change of its NPU."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from exo_rkllm.board.detect import Board, detect
from exo_rkllm.board.sources import Sources, find_sources, refresh_folder

log = logging.getLogger(__name__)

Action: TypeAlias = Literal["add", "remove", "bind", "unbind", "change", "lost"]
# libudev filters by these in the kernel, so other hardware does not even wake the daemon.
SUBSYSTEMS = ("platform", "drm", "misc", "accel")


@dataclass(frozen=True, slots=True)
class Change:
    """One event of a device. `lost`: the socket overflowed or libudev failed, so anything may have changed."""

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
    """Whether the board must be detected again: platform `*.npu`, DRM and accel minors, the misc device.

    A DRM minor that goes away names no driver any more, so every minor counts; `change` on one is a display's
    hotplug (npu-platform 2.4), and connectors (`card0-HDMI-A-1`) are no NPU's.
    """
    if subsystem == "platform":
        return name.endswith(".npu")
    if subsystem == "misc":
        return name == "rknpu"
    minor = name.startswith(("card", "renderD", "accel")) and "-" not in name
    return minor and action != "change"


class EventSource(Protocol):
    """A descriptor for the event loop, readable when there are events, and `drain`, which takes all of them."""

    def fileno(self) -> int: ...

    def drain(self) -> list[Change]: ...

    def close(self) -> None: ...


class Monitor:
    """libudev's events through one descriptor: no thread, no polling.

    It listens from its construction on, so that an enumeration afterwards misses nothing in between (2.4).
    """

    def __init__(self) -> None:
        import pyudev  # here, so that the rest of the board runs without it

        # udevd's events come after its rules have set the groups; without a udevd there are the kernel's only.
        source = "udev" if Path("/run/udev/control").exists() else "kernel"
        self._context = pyudev.Context()
        self._monitor = pyudev.Monitor.from_netlink(self._context, source=source)
        for subsystem in SUBSYSTEMS:
            self._monitor.filter_by(subsystem)
        self._monitor.start()

    def fileno(self) -> int:
        return int(self._monitor.fileno())

    def drain(self) -> list[Change]:
        changes: list[Change] = []
        try:
            changes.extend(
                Change(device.action, device.subsystem, device.sys_name)
                for device in iter(self._next, None)
                if concerns_npu(device.subsystem or "", device.sys_name, device.action or "")
            )
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EINTR):
                changes.append(Change("lost", "", ""))
        return changes

    def close(self) -> None:
        """The socket belongs to libudev's object, which closes it."""
        del self._monitor, self._context

    def _next(self):  # type: ignore[no-untyped-def]  # pyudev has no types
        return self._monitor.poll(timeout=0)


class BoardWatch:
    """The board, detected at start and again after every event that concerns its NPU.

    `on_change` gets the board before and after, on the loop's thread, only when they differ. `start` detects once
    more, since events before the event source's construction are in no queue.
    """

    def __init__(self, root: Path, on_change: Callable[[Board, Board], None] | None = None) -> None:
        self._root = root
        self._on_change = on_change
        self._source: EventSource | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.board = detect(root)
        self._sources = find_sources(root, self.board)

    @property
    def sources(self) -> Sources:
        self._sources = refresh_folder(self._sources, self.board)
        return self._sources

    def start(self, loop: asyncio.AbstractEventLoop, source: EventSource) -> None:
        self._loop, self._source = loop, source
        loop.add_reader(source.fileno(), self._readable)
        self.look()

    def look(self) -> Board:
        """Detect again now, for instance after a path of the old board turned out to be gone."""
        board = detect(self._root)
        self._sources = find_sources(self._root, board)
        self._take(board)
        return self.board

    def close(self) -> None:
        if self._loop is not None and self._source is not None:
            self._loop.remove_reader(self._source.fileno())
            self._source.close()
        self._loop = self._source = None

    def _readable(self) -> None:
        changes: list[Change] = self._source.drain() if self._source is not None else []
        for change in changes:
            log.debug("%s", change.sentence)
        if not changes:
            return
        before = self.board
        if self.look() == before and before.npu is not None:
            for change in changes:
                if change.action == "unbind" and change.device in before.npu.devices:
                    self._reloaded(before, change)

    def _reloaded(self, board: Board, change: Change) -> None:
        """Report a loss and a return: the driver is back already, and handles from before are dead."""
        away = replace(board, state="no_driver", sentence=change.sentence, npu=None)
        self._take(away)
        self._take(board)

    def _take(self, board: Board) -> None:
        before, self.board = self.board, board
        if board != before:
            log.info("%s", board.sentence)
            if self._on_change is not None:
                self._on_change(before, board)
