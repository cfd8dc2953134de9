"""A first root of a megabyte: busybox and the few modules that find the disk. Making Debian's takes minutes."""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Iterator
from pathlib import Path

from tests.system.substrate import host

MODULES = ("virtio_pci", "virtio_blk", "ext4")
INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
for module in $($b cat /modules/order); do $b insmod "/modules/$module"; done
until [ -b /dev/vda ]; do $b usleep 20000; done
# A power cut leaves a journal to be played back, which mounting does.
$b mount -t ext4 -o rw /dev/vda /root || { echo 'initrd: the disk cannot be mounted'; $b poweroff -f; }
$b umount /proc
$b mount --move /dev /root/dev
exec $b switch_root /root /sbin/init
"""
FOLDER, FILE = 0o040755, 0o100644
DEVICE = 0o020600
CONSOLE = (5, 1)


def write(root: Path, kernel: str, to: Path) -> Path:
    modules = dict(_modules(root, kernel))
    content = b"".join(
        (
            *(_entry(name, FOLDER) for name in ("bin", "dev", "proc", "root", "modules")),
            _entry("dev/console", DEVICE, device=CONSOLE),
            _entry("init", FILE | 0o111, INIT.encode()),
            _entry("bin/busybox", FILE | 0o111, _busybox(root).read_bytes()),
            _entry("modules/order", FILE, "\n".join(modules).encode()),
            *(_entry(f"modules/{name}", FILE, data) for name, data in modules.items()),
            _entry("TRAILER!!!", 0),
        )
    )
    to.write_bytes(gzip.compress(content, 1))
    return to


def _busybox(root: Path) -> Path:
    return next(path for path in (root / "usr/bin/busybox", root / "bin/busybox") if path.is_file())


def _modules(root: Path, kernel: str) -> Iterator[tuple[str, bytes]]:
    """In the order in which they can be loaded, each once."""
    seen = set()
    for wanted in MODULES:
        told = host.run("modprobe", "-d", root, "-S", kernel, "--show-depends", wanted)
        for line in told.splitlines():
            found = re.fullmatch(r"insmod (\S+)\s*", line)
            if found and found[1] not in seen:
                seen.add(found[1])
                path = Path(found[1])
                data = path.read_bytes()
                yield path.name.removesuffix(".xz"), lzma.decompress(data) if path.suffix == ".xz" else data


def _entry(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """One file in cpio's "newc" form: thirteen numbers of eight hexadecimal digits, the name, the data."""
    path = name.encode() + b"\0"
    numbers = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + path
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)
