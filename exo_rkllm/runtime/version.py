"""Which release a librkllmrt.so is, read from its bytes: nothing of it is loaded or called to find out."""

from __future__ import annotations

import hashlib
import mmap
import platform
import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from exo_rkllm.errors import RuntimeMissing, RuntimeUnsupported
from exo_rkllm.runtime.abi import RELEASES

# The text every 1.2 and 1.3 build carries (reference 1.11); suffixes such as b1 belong to the version.
BANNER = re.compile(rb"RKLLM SDK \(version:\s*([0-9][0-9A-Za-z.]*)")
# Whether 1.0 and 1.1 builds carry it is unverified, so these are known by the whole file, as git names it.
BLOBS: Mapping[str, str] = {
    "a026cbe60905af0ad6c07dfa2fcc339dd4b9fa10": "1.0.1",
    "66dfdc7c25cdca9ccf9930798118e17abf7592ff": "1.1.0",
    "bfca051375287d0f5aa754a7b8681b4ede52e259": "1.1.1",
    "e8f4afc38c7394beeff83003dbc772412f649a44": "1.1.2",
    "68e79327e82f675413956be615f48c62ccd0f16e": "1.1.3",
    "3bb8cb6172c4c06e1c622c8f8c579888378784f4": "1.1.4",
    "d45ee9b8dcb9ef27d7dd875ce3be3d5e6dfb654d": "1.2.0",
    "db041c01bba5e0e8f624bb2ff50d48825dde1bfc": "1.2.1b1",
    "6b9439d59f2fe4bb8ef5ee2b09c102f1bf993da9": "1.2.1",
    "8ed9cca16f8d5ad8f7cdd7d393de6561182b3395": "1.2.2",
    "0084abc34ab43359cfa9fd5d4c92ece34127dbd0": "1.2.3",
    "34167b32f99cb7ab19e21fb579fb750d96b878f1": "1.3.0",
}
MACHINES: Mapping[int, str] = {3: "x86 (32 bit)", 40: "arm (32 bit)", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
SUPPORTED = "1.1.0 to 1.1.4, 1.2.0, 1.2.1b1, 1.2.1 to 1.2.3, 1.3.0 and 1.3.1"


@dataclass(frozen=True, slots=True)
class Binary:
    """What a file is, as far as its own bytes tell; empty text where they do not."""

    path: Path
    machine: str
    version: str

    @property
    def supported(self) -> bool:
        return self.version in RELEASES


def read(path: Path) -> Binary:
    """The file's machine and release, or RuntimeMissing where it is no shared library that can be read."""
    try:
        with path.open("rb") as file:
            machine = machine_of(file.read(20))
            if not machine:
                raise RuntimeMissing(f"{path} is not an ELF library.", "exo-rkllm runtime --install FILE")
            with closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as content:
                return Binary(path, machine, version_of(content))
    except OSError as error:
        raise RuntimeMissing(f"{path} cannot be read: {error.strerror}.", _hint(error, path)) from error


def check(binary: Binary) -> None:
    """Refuses what this process cannot load, and what nobody knows the layout of."""
    ours = platform.machine()
    if binary.machine != ours:
        raise RuntimeUnsupported(
            f"{binary.path} is built for {binary.machine}, this system is {ours}.",
            f"exo-rkllm runtime --install FILE with a librkllmrt.so for {ours}",
        )
    if not binary.supported:
        found = f"version {binary.version}" if binary.version else "of a version that it does not tell"
        raise RuntimeUnsupported(
            f"{binary.path} is {found}; supported are {SUPPORTED}.",
            "exo-rkllm runtime --install FILE with a supported librkllmrt.so",
        )


def machine_of(head: bytes) -> str:
    """The architecture in an ELF header; empty where it is none."""
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return ""
    number = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
    return MACHINES.get(number, f"ELF machine {number}")


def version_of(content: bytes | mmap.mmap) -> str:
    """The banner's version, else the one of a file that the vendor published; else empty."""
    if found := BANNER.search(content):
        return found[1].decode()
    digest = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    digest.update(content)
    return BLOBS.get(digest.hexdigest(), "")


def _hint(error: OSError, path: Path) -> str:
    if isinstance(error, PermissionError):
        return f"sudo chmod a+r {path}"
    return "exo-rkllm runtime says where it looks; --install FILE puts one in place"
