"""Adds and removes releases of the vendor library: one file each in the folder `runtimes`, and a link to the default.

A file is written beside its target, checked there, then renamed over it. The rename also keeps a library that a process
has mapped intact; writing into it would crash that process. Names are made of releases that the ABI's table knows, and
a file is only removed by the release that was read from it, so no name leads out of the folder. The library for
encoders takes the same way (`rknn/install.py`).
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, TypeAlias
from urllib.error import URLError
from urllib.request import urlopen

from exo_rkllm.errors import ExoRkllmError, RuntimeMissing, UsageError
from exo_rkllm.privileges import give_up_root
from exo_rkllm.runtime import version
from exo_rkllm.runtime.locate import NAME, OURS, VERSIONS, LibraryPlace, Search, look, look_into
from exo_rkllm.runtime.version import Version

# Bytes so far, and in all; 0 where that is not known.
Progress: TypeAlias = Callable[[int, int], None]

CHUNK = 1 << 18
# The vendor's files have 6 to 8 MB; whatever is far larger is something else.
LARGEST = 256 << 20
TIMEOUT = 30.0
READABLE_BY_ALL, ENTERED_BY_ALL = 0o644, 0o755  # whatever the umask: the service has an account of its own
SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def is_url(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


@dataclass(frozen=True, slots=True)
class InstalledRuntime:
    """`default` is the release that models are loaded with if nothing speaks against it."""

    path: Path
    version: Version
    default: str


def file_of(directory: Path, release: str) -> Path:
    return directory / VERSIONS / f"librkllmrt-{release}.so"


@dataclass(frozen=True, slots=True)
class LibraryCopy:
    """What was copied from `source` into a file of its own, beside its target."""

    source: str
    path: Path
    sha256: str

    def move_to(self, target: Path) -> None:
        """In one step, so that a library which a process has mapped stays whole."""
        self.path.chmod(READABLE_BY_ALL)
        self.path.replace(target)

    @contextmanager
    def named_as_source(self) -> Iterator[None]:
        """Errors about the file name what the user named."""
        try:
            yield
        except ExoRkllmError as error:
            raise type(error)(
                error.sentence.replace(str(self.path), self.source), error.hint.replace(str(self.path), self.source)
            ) from error


def elsewhere(directory: Path) -> str:
    """What a command needs to mean this folder."""
    return "" if directory == OURS else f" --directory {directory}"


def install(source: str, directory: Path, sha256: str, progress: Progress) -> InstalledRuntime:
    """Add a release to those of `directory`, or replace it. Where anything is wrong, everything stays as it was and
    nothing is left behind."""
    with copied(source, directory, sha256, progress) as copy:
        return add(copy, directory)


@contextmanager
def copied(source: str, directory: Path, sha256: str, progress: Progress) -> Iterator[LibraryCopy]:
    """A copy of a file or of what is at a URL, for one of the libraries of `directory`; gone afterwards unless it was
    moved. Raises where it is not what `sha256` promises."""
    if sha256 and not SHA256.fullmatch(sha256):
        raise UsageError(f"{sha256!r} is not a SHA-256 checksum of 64 hex digits.", f"sha256sum {source}")
    if is_url(source) and not sha256:
        raise UsageError("A library from the network needs its checksum.", "Add --sha256 HEX from a source you trust")
    with _opened(source) as (stream, total), _beside(directory / VERSIONS) as partial:
        digest = _copy(source, stream, partial, total, progress)
        if sha256 and digest != sha256.lower():
            raise RuntimeMissing(f"{source} has the SHA-256 {digest}, not {sha256.lower()}.", "Nothing was installed")
        yield LibraryCopy(source, partial, digest)


def add(copy: LibraryCopy, directory: Path) -> InstalledRuntime:
    """Put a librkllmrt among the releases of `directory`. The first one, or one where the default is of no use, becomes
    the default."""
    with copy.named_as_source():
        found = version.check(copy.path, for_board=True)
    target = file_of(directory, found.release)
    copy.move_to(target)
    default = _search(directory).found
    if default is None or default.release == found.release:
        with _changing(directory):
            _link(directory, target)
        return InstalledRuntime(target, found, found.release)
    return InstalledRuntime(target, found, default.release)


def set_default(directory: Path, release: str) -> Path:
    """Make an installed release the default; returns its file. A library that lies in the default's own place, as
    earlier versions of this program installed it, is kept among the others."""
    with _changing(directory):
        place = _installed(directory, release)
        default = _search(directory).found
        if default is not None and default.release == release:
            return default.path
        if default is not None and not default.path.is_symlink():
            with suppress(FileExistsError):
                os.link(default.path, file_of(directory, default.release))
        _link(directory, place.path)
    return place.path


def remove(directory: Path, release: str) -> None:
    """Remove an installed release. The default goes last: others would take its place without being asked for."""
    with _changing(directory):
        _installed(directory, release)
        search = _search(directory)
        is_default = search.found is not None and search.found.release == release
        others = [place.release for place in search.versions if place.release not in ("", release)]
        if is_default and others:
            raise UsageError(
                f"librkllmrt {release} is the default, and {', '.join(others)} would remain.",
                f"exo-rkllm runtime --default {others[0]}{elsewhere(directory)}, then again",
            )
        if is_default:
            (directory / NAME).unlink(missing_ok=True)
        for place in search.versions:
            if place.release == release:
                place.path.unlink(missing_ok=True)


def _search(directory: Path) -> Search:
    """What is installed in `directory`: `found` is what the default's name leads to."""
    folder = directory / VERSIONS
    default = look(directory / NAME, "system", for_board=True)
    return Search((default,), folder, look_into(folder, for_board=True))


def _installed(directory: Path, release: str) -> LibraryPlace:
    search = _search(directory)
    places = [place for place in (*search.versions, *search.places) if place.version is not None]
    for place in places:
        if place.release == release:
            return place
    there = ", ".join(dict.fromkeys(place.release for place in places)) or "none"
    raise RuntimeMissing(
        f"librkllmrt {release} is not installed in {directory} (there: {there}).",
        "exo-rkllm runtime lists what is installed; --directory DIR names another folder",
    )


def _link(directory: Path, target: Path) -> None:
    """Point the default's name to a file in its folder, in one step."""
    link = directory / NAME
    hidden = directory / f".{NAME}.{secrets.token_hex(8)}"
    hidden.symlink_to(os.path.relpath(target, directory))
    try:
        hidden.replace(link)
    except OSError:
        hidden.unlink()
        raise


@contextmanager
def _changing(directory: Path) -> Iterator[None]:
    """Root looks there, too, with the rights of the folder's owner only."""
    try:
        give_up_root(directory / VERSIONS)
        yield
    except OSError as error:
        raise RuntimeMissing(
            f"{directory} cannot be changed: {error.strerror}.", "Run it as root (sudo), or give --directory DIR"
        ) from error


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
        cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, OSError) else error
        reason = getattr(cause, "strerror", None) or cause
        raise RuntimeMissing(f"{source} cannot be read: {reason}.", "Check the path or the address") from error


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A file of its own in the folder, which is gone afterwards unless it was renamed."""
    try:
        give_up_root(folder)
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(ENTERED_BY_ALL)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{NAME}.", delete=False) as file:
            partial = Path(file.name)
        try:
            yield partial
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise RuntimeMissing(
            f"{folder} cannot be written: {error.strerror}.", "Run it as root (sudo), or give --directory DIR"
        ) from error


def _copy(source: str, stream: IO[bytes], partial: Path, total: int, progress: Progress) -> str:
    """The SHA-256 of what was copied."""
    digest, done = hashlib.sha256(), 0
    with partial.open("wb") as file:
        while chunk := stream.read(CHUNK):
            done += len(chunk)
            if done > LARGEST:
                raise RuntimeMissing(
                    f"{source} is over {LARGEST >> 20} MB, so it is no library of the vendor's.", "Check its name"
                )
            digest.update(chunk)
            file.write(chunk)
            progress(done, total)
    if total and done != total:
        raise RuntimeMissing(f"{source} ended after {done} of {total} bytes.", "Try again")
    return digest.hexdigest()
