"""Files that look like a librkllmrt.so, made of an ELF header and the bytes that a test wants inside."""

from __future__ import annotations

import struct
from pathlib import Path

from exo_rkllm.runtime import elf
from exo_rkllm.runtime.elf import Elf

NUMBERS = {name: number for number, name in elf.MACHINES.items()}
HERE = elf.of_this_interpreter()


def header(machine: str = HERE.machine, *, bits: int = 64, kind: int = elf.SHARED_OBJECT, little: bool = True) -> bytes:
    head = b"\x7fELF" + bytes([bits // 32, 1 if little else 2, 1]) + bytes(9)
    return head + struct.pack("<HH" if little else ">HH", kind, NUMBERS[machine]) + bytes(44)


def banner(release: str) -> bytes:
    return f"RKLLM SDK (version: {release} | target: Linux | build: 27637c95 2025-05-02 17:46:07)".encode()


def names(*exported: str) -> bytes:
    """A string table of exported names."""
    return b"\0" + b"".join(name.encode() + b"\0" for name in exported)


def write(path: Path, release: str = "", machine: str = HERE.machine, body: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header(machine) + bytes(4000) + (banner(release) if release else b"") + body + bytes(100))
    return path


OTHER: Elf = Elf(64, "aarch64" if HERE.machine != "aarch64" else "x86-64", shared=True)
