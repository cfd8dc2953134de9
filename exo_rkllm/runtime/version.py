"""Which release a librkllmrt.so is, told from its bytes alone: nothing of it is loaded or called (reference 1.11)."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from exo_rkllm.errors import RuntimeMissing, RuntimeUnsupported
from exo_rkllm.runtime import abi, elf

Bytes: TypeAlias = "bytes | mmap.mmap"
StrPath: TypeAlias = "str | os.PathLike[str]"
Evidence: TypeAlias = Literal["version string", "git blob"]

STRING = re.compile(rb"RKLLM SDK \(version:\s*([0-9][0-9A-Za-z.]*)")
RELEASE = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:b(?:eta)?(\d*))?")

# Git blob ids of the vendor's own files: for releases that may not carry the string, and for a bare proof of origin.
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

# Exported names, and what their absence says of a file without a version: the first that is missing counts.
MISSING_NAMES: tuple[tuple[str, str], ...] = (
    ("rkllm_init", "is not an RKLLM runtime: it has no function rkllm_init"),
    ("rkllm_run_async", "looks like 1.0.x: it has no function rkllm_run_async"),
    ("rkllm_set_chat_template", "looks like 1.1.x: it has no function rkllm_set_chat_template"),
    ("rkllm_get_kv_cache_size", "looks like 1.2.0 or 1.2.1b1: it has no function rkllm_get_kv_cache_size"),
)
BOARD = (64, "aarch64")
INSTALL_HINT = "exo-rkllm runtime --install FILE with a librkllmrt.so from the vendor's release, aarch64"


@dataclass(frozen=True, slots=True)
class Version:
    """A release and where it was read."""

    release: str
    evidence: Evidence

    @property
    def supported(self) -> bool:
        return self.release in abi.RELEASES


def order(release: str) -> tuple[int, ...]:
    """Sorts releases; a beta comes before its release. () for a text that is no release at all."""
    match = RELEASE.fullmatch(release)
    if match is None:
        return ()
    major, minor, patch, beta = match.groups()
    return (int(major), int(minor), int(patch), 1 if beta is None else 0, int(beta or 0))


def in_string(data: Bytes) -> str | None:
    match = STRING.search(data)
    return match[1].decode() if match else None


def in_blobs(data: Bytes) -> str | None:
    import hashlib  # costs the child 3 MB, and is needed only where the string is missing

    digest = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
    digest.update(data)
    return BLOBS.get(digest.hexdigest())


def in_bytes(data: Bytes) -> Version | None:
    if (release := in_string(data)) is not None:
        return Version(release, "version string")
    if (release := in_blobs(data)) is not None:
        return Version(release, "git blob")
    return None


def guess(data: Bytes) -> str:
    """What the exported names say of a file without a version. Only ever printed: they cannot tell 1.2.1 from 1.3.0."""
    for name, verdict in MISSING_NAMES:
        if data.find(b"\0%s\0" % name.encode()) < 0:
            return verdict
    return "looks like 1.2.1 or newer, and names cannot tell which"


def supported_text() -> str:
    """As a sentence says it: releases of one generation as a range."""
    groups: dict[str, list[str]] = {}
    for release, module in abi.RELEASES.items():
        groups.setdefault(module, []).append(release)
    *first, last = (group[0] if len(group) == 1 else f"{group[0]} to {group[-1]}" for group in groups.values())
    return f"{', '.join(first)} and {last}"


def read(path: StrPath) -> Version:
    """The release of a file, supported or not, for whatever machine; raises where nothing in it says so."""
    with mapped(path) as data:
        return _release(path, data)


def check(path: StrPath, *, for_board: bool = False) -> Version:
    """The release of a file that this program supports and this interpreter can load; anything else raises.

    `for_board` takes the boards' own machine as well: an image for a board is often built elsewhere.
    """
    with mapped(path) as data:
        check_elf(path, data, (BOARD,) if for_board else ())
        found = _release(path, data)
    if not found.supported:
        raise RuntimeUnsupported(
            f"{path} is librkllmrt {found.release} (by its {found.evidence}), which is not supported;"
            f" supported are {supported_text()}.",
            INSTALL_HINT,
        )
    return found


def _release(path: StrPath, data: mmap.mmap) -> Version:
    if (found := in_bytes(data)) is not None:
        return found
    raise RuntimeUnsupported(
        f"{path} does not say which release it is and {guess(data)}; supported are {supported_text()}.", INSTALL_HINT
    )


@contextmanager
def mapped(path: StrPath, install: str = INSTALL_HINT) -> Iterator[mmap.mmap]:
    """A library's bytes; `install` is the hint where there are none.

    Without pathlib: a model's process does without its 0.7 MB.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(file)
    except OSError as error:
        hint = f"chmod a+r {path}" if isinstance(error, PermissionError) else install
        raise RuntimeMissing(f"{path} cannot be read: {error.strerror}.", hint) from error
    except ValueError as error:
        raise RuntimeMissing(f"{path} is empty.", install) from error
    with data:
        yield data


def check_elf(
    path: StrPath, data: mmap.mmap, also: Sequence[tuple[int, str]] = (), install: str = INSTALL_HINT
) -> None:
    """Raises RuntimeMissing for what is no shared library of this interpreter's machine, or of one of `also`."""
    found, here = elf.parse(data[: elf.HEADER_SIZE]), elf.of_this_interpreter()
    if found is None or not found.shared:
        raise RuntimeMissing(f"{path} is not a shared library (no ELF header).", install)
    if (found.bits, found.machine) not in ((here.bits, here.machine), *also):
        raise RuntimeMissing(f"{path} is built for {found}, and this Python is {here}.", install)
