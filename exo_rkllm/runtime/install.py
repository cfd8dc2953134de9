"""Puts a vendor library in place: written beside its target, checked there, then renamed over it.

The rename also keeps a library that a process has mapped intact; writing into it would crash that process.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import IO, TypeAlias
from urllib.request import urlopen

from exo_rkllm.errors import ExoRkllmError, RuntimeMissing, UsageError
from exo_rkllm.privileges import give_up_root
from exo_rkllm.runtime import version
from exo_rkllm.runtime.locate import NAME
from exo_rkllm.runtime.version import Version

# Bytes so far, and in all; 0 where that is not known.
Progress: TypeAlias = Callable[[int, int], None]

CHUNK = 1 << 18
# The vendor's files have 6 to 8 MB; whatever is far larger is something else.
LARGEST = 256 << 20
TIMEOUT = 30.0
READABLE_BY_ALL = 0o644
SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def is_url(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def install(source: str, directory: Path, sha256: str, progress: Progress) -> tuple[Path, Version]:
    """Where it is now, and what it is. Where anything is wrong, the old file stays and nothing is left behind."""
    if sha256 and not SHA256.fullmatch(sha256):
        raise UsageError(f"{sha256!r} is not a SHA-256 checksum of 64 hex digits.", f"sha256sum {source}")
    if is_url(source) and not sha256:
        raise UsageError("A library from the network needs its checksum.", "Add --sha256 HEX from a source you trust")
    target = directory / NAME
    with _opened(source) as (stream, total), _beside(target) as partial:
        digest = _copy(source, stream, partial, total, progress)
        if sha256 and digest != sha256.lower():
            raise RuntimeMissing(f"{source} has the SHA-256 {digest}, not {sha256.lower()}.", "Nothing was installed")
        found = _checked(partial, source)
        partial.chmod(READABLE_BY_ALL)
        partial.replace(target)
    return target, found


@contextmanager
def _opened(source: str) -> Iterator[tuple[IO[bytes], int]]:
    """Bytes, and how many there will be."""
    try:
        if is_url(source):
            with urlopen(source, timeout=TIMEOUT) as answer:  # noqa: S310 - is_url admits http and https only
                yield answer, int(answer.headers.get("Content-Length") or 0)
        else:
            with Path(source).open("rb") as file:
                yield file, Path(source).stat().st_size
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RuntimeMissing(f"{source} cannot be read: {reason}.", "Check the path or the address") from error


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A file of its own in the target's directory, which is gone afterwards unless it was renamed."""
    give_up_root(target.parent)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{NAME}.", delete=False) as file:
            partial = Path(file.name)
        try:
            yield partial
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise RuntimeMissing(
            f"{target} cannot be written: {error.strerror}.", "Run it as root (sudo), or give --directory DIR"
        ) from error


def _copy(source: str, stream: IO[bytes], partial: Path, total: int, progress: Progress) -> str:
    """The SHA-256 of what was copied."""
    digest, done = hashlib.sha256(), 0
    with partial.open("wb") as file:
        while chunk := stream.read(CHUNK):
            done += len(chunk)
            if done > LARGEST:
                raise RuntimeMissing(
                    f"{source} is over {LARGEST >> 20} MB, so it is no librkllmrt.so.", "Check its name"
                )
            digest.update(chunk)
            file.write(chunk)
            progress(done, total)
    if total and done != total:
        raise RuntimeMissing(f"{source} ended after {done} of {total} bytes.", "Try again")
    return digest.hexdigest()


def _checked(partial: Path, source: str) -> Version:
    """As version.check, about the file that the user named."""
    try:
        return version.check(partial, for_board=True)
    except ExoRkllmError as error:
        raise type(error)(
            error.sentence.replace(str(partial), source), error.hint.replace(str(partial), source)
        ) from error
