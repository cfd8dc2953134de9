"""A board's files as a value: what /sys, /proc and /dev hold, before anything is written to a disk.

Links are written relative, since an absolute one would leave a tree that lies below another folder.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class File:
    data: bytes
    mode: int = 0o444


@dataclass(frozen=True)
class Link:
    """`target` as written, relative to the link's own folder."""

    target: str


@dataclass(frozen=True)
class Folder:
    mode: int = 0o755


Entry = File | Link | Folder


class Tree:
    """Paths without a leading slash; later calls replace earlier entries, so that a trap is a change of a good tree."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def data(self, path: str, data: bytes, mode: int = 0o444) -> None:
        self.entries[path] = File(data, mode)

    def line(self, path: str, text: str, mode: int = 0o444) -> None:
        """A sysfs attribute: its text and a newline."""
        self.data(path, text.encode() + b"\n", mode)

    def strings(self, path: str, *texts: str) -> None:
        """A device-tree property: every string ends in NUL, no newline anywhere (reference 1.1)."""
        self.data(path, b"".join(text.encode() + b"\0" for text in texts))

    def link(self, path: str, to: str) -> None:
        self.entries[path] = Link(posixpath.relpath(to, posixpath.dirname(path)))

    def folder(self, path: str, mode: int = 0o755) -> None:
        self.entries[path] = Folder(mode)

    def remove(self, path: str) -> None:
        """The entry and everything below it."""
        below = path + "/"
        self.entries = {
            name: entry for name, entry in self.entries.items() if name != path and not name.startswith(below)
        }

    def has(self, path: str) -> bool:
        return path in self.entries or any(name.startswith(path + "/") for name in self.entries)

    def below(self, path: str) -> Iterator[tuple[str, Entry]]:
        start = path + "/"
        return ((name[len(start) :], entry) for name, entry in self.entries.items() if name.startswith(start))

    def write(self, root: Path) -> None:
        """Folders get their modes last: one without the write bit would refuse its own files."""
        root.mkdir(parents=True, exist_ok=True)
        for name, entry in sorted(self.entries.items()):
            place = root / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(entry, Folder):
                place.mkdir(exist_ok=True)
            elif isinstance(entry, Link):
                place.unlink(missing_ok=True)
                place.symlink_to(entry.target)
            else:
                place.unlink(missing_ok=True)
                place.write_bytes(entry.data)
                place.chmod(entry.mode)
        for name, entry in self.entries.items():
            if isinstance(entry, Folder):
                (root / name).chmod(entry.mode)


def umockdev(tree: Tree) -> str:
    """The tree's devices in umockdev's description language; a folder below /sys/devices with a uevent is a device."""
    devices = sorted(
        posixpath.dirname(name)
        for name in tree.entries
        if name.startswith("sys/devices/") and posixpath.basename(name) == "uevent"
    )
    return "\n".join("\n".join(_device(tree, path, set(devices))) + "\n" for path in devices)


def _device(tree: Tree, path: str, devices: set[str]) -> Iterator[str]:
    yield f"P: /{path.removeprefix('sys/')}"
    uevent = tree.entries[f"{path}/uevent"]
    properties = uevent.data.decode().splitlines() if isinstance(uevent, File) else []
    for text in properties:
        if text.startswith("DEVNAME="):
            yield f"N: {text.removeprefix('DEVNAME=')}"
    subsystem = tree.entries.get(f"{path}/subsystem")
    if isinstance(subsystem, Link):
        yield f"E: SUBSYSTEM={posixpath.basename(subsystem.target)}"
    for text in properties:
        yield "E: " + (text.replace("DEVNAME=", "DEVNAME=/dev/") if text.startswith("DEVNAME=") else text)
    for name, entry in sorted(tree.below(path)):
        inner = posixpath.dirname(f"{path}/{name}")
        if name in ("uevent", "subsystem") or (inner != path and any(_inside(inner, other, path) for other in devices)):
            continue
        if isinstance(entry, File):
            yield _attribute(name, entry.data)
        elif isinstance(entry, Link):
            yield f"L: {name}={entry.target}"


def _inside(folder: str, device: str, outer: str) -> bool:
    return device != outer and device.startswith(outer + "/") and (folder == device or folder.startswith(device + "/"))


def _attribute(name: str, data: bytes) -> str:
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        return f"H: {name}={data.hex().upper()}"
    if any(character < " " and character != "\n" for character in text):
        return f"H: {name}={data.hex().upper()}"
    return f"A: {name}=" + text.replace("\\", "\\\\").replace("\n", "\\n")
