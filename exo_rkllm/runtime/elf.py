"""The first bytes of a shared object: enough to say why this interpreter cannot load it, before it tries."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass

HEADER_SIZE = 20
SHARED_OBJECT = 3
# e_machine of those that a librkllmrt.so, or a machine that runs this program, can have.
MACHINES: Mapping[int, str] = {3: "x86", 40: "arm", 62: "x86-64", 183: "aarch64", 243: "riscv"}


@dataclass(frozen=True, slots=True)
class Elf:
    bits: int
    machine: str
    shared: bool

    def __str__(self) -> str:
        return f"{self.bits}-bit {self.machine}"


def parse(head: bytes) -> Elf | None:
    """None where these are not the first bytes of an ELF file."""
    if len(head) < HEADER_SIZE or head[:4] != b"\x7fELF" or head[4] not in {1, 2} or head[5] not in {1, 2}:
        return None
    kind, machine = struct.unpack_from("<HH" if head[5] == 1 else ">HH", head, 16)
    return Elf(32 * head[4], MACHINES.get(machine, f"machine {machine}"), kind == SHARED_OBJECT)


def of_this_interpreter() -> Elf:
    """What a library must be to be loaded here. uname would not do: a 64-bit kernel may run a 32-bit interpreter."""
    by_name = Elf(8 * struct.calcsize("P"), os.uname().machine.replace("_", "-"), shared=True)
    file = os.open(sys.executable or "/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return parse(os.read(file, HEADER_SIZE)) or by_name
    finally:
        os.close(file)
