"""Where librkllmrt.so is looked for, and what each place held: the search is a report, not only a path.

One library is the default. Beside it, the folder `runtimes` holds others, one file a release.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from exo_rkllm.errors import ExoRkllmError, RuntimeMissing
from exo_rkllm.files.stamps import Stamp, stamp_of
from exo_rkllm.runtime import version
from exo_rkllm.runtime.version import Version

Origin: TypeAlias = Literal["argument", "environment", "system"]

NAME = "librkllmrt.so"
VARIABLE = "EXO_RKLLM_RUNTIME_LIBRARY"
# Beside the default library: other releases, of which a model may be loaded with one.
VERSIONS = "runtimes"
# Where `exo-rkllm runtime --install` puts it, then where the vendor's guides and other servers do.
OURS = Path("/usr/lib/exo-rkllm")
DIRECTORIES = (
    OURS,
    Path("/usr/local/lib/exo-rkllm"),
    Path("/usr/local/lib"),
    Path("/usr/lib"),
    Path("/usr/lib/aarch64-linux-gnu"),
    Path("/usr/local/lib/aarch64-linux-gnu"),
    Path("/opt/rkllm/lib"),
)


@dataclass(frozen=True, slots=True)
class LibraryPlace:
    """One path that was looked at: `version` where it can be used, `problem` where it holds what cannot.

    `stamp` is that of the file whose version was read.
    """

    path: Path
    origin: Origin
    version: Version | None = None
    problem: ExoRkllmError | None = None
    stamp: Stamp = ()

    @property
    def held(self) -> str:
        """What was there, as a phrase for a report."""
        if self.version is not None:
            return f"librkllmrt {self.version.release}"
        return "nothing" if self.problem is None else self.problem.sentence

    @property
    def release(self) -> str:
        """Empty where nothing can be used."""
        return "" if self.version is None else self.version.release


@dataclass(frozen=True, slots=True)
class Search:
    """`places` are those of the default; `versions` are the files of `folder`, the newest first.

    `only`: somebody named the library, and no other may be used.
    """

    places: tuple[LibraryPlace, ...]
    folder: Path
    versions: tuple[LibraryPlace, ...] = ()
    only: bool = False

    @property
    def found(self) -> LibraryPlace | None:
        """The default: the first place that can be used."""
        return next((place for place in self.places if place.version is not None), None)

    @property
    def installed(self) -> tuple[LibraryPlace, ...]:
        """One place for each release that a model can be loaded with, the default first; none without a default."""
        by_release: dict[str, LibraryPlace] = {}
        for place in () if self.found is None else (self.found, *self.versions):
            if place.version is not None:
                by_release.setdefault(place.release, place)
        return tuple(by_release.values())

    def require(self) -> LibraryPlace:
        """The default, or the error that says most: what a file lacks before that there is none."""
        if self.found is not None:
            return self.found
        for place in self.places:
            if place.problem is not None:
                raise place.problem
        looked = ", ".join(str(place.path.parent) for place in self.places)
        raise RuntimeMissing(
            f"No {NAME} was found (looked in {looked}).",
            "exo-rkllm runtime --install FILE puts the vendor's library in place",
        )


def candidates(
    explicit: Path | None, environ: Mapping[str, str], root: Path, name: str = NAME, variable: str = VARIABLE
) -> tuple[tuple[Path, Origin], ...]:
    """A path that somebody named is the only one: falling back from it would hide the mistake."""
    if explicit is not None:
        return ((explicit, "argument"),)
    if environ.get(variable):
        return ((Path(environ[variable]), "environment"),)
    # The vendor's demos are started with this variable (reference 4.6).
    loader = tuple(Path(entry) for entry in environ.get("LD_LIBRARY_PATH", "").split(":") if entry.startswith("/"))
    return tuple((root / directory.relative_to("/") / name, "system") for directory in loader + DIRECTORIES)


def look(
    path: Path, origin: Origin, *, for_board: bool = False, known: MutableMapping[Stamp, Version] | None = None
) -> LibraryPlace:
    """What one place holds. A directory stands for the library in it; `for_board` as in `version.check`.

    A file whose stamp is `known` is not read, and one that was read is known afterwards.
    """
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where this user may not look
        path = path / NAME
    known, stamp = {} if known is None else known, stamp_of(path)
    try:
        found = known.get(stamp) or version.check(path, for_board=for_board)
        if stamp:
            known[stamp] = found
        return LibraryPlace(path, origin, found, stamp=stamp)
    except ExoRkllmError as error:
        if origin == "system" and not os.path.lexists(path):
            return LibraryPlace(path, origin)
        return LibraryPlace(path, origin, problem=error)


def search(
    explicit: Path | None = None,
    environ: Mapping[str, str] | None = None,
    root: Path = Path("/"),
    before: Search | None = None,
) -> Search:
    """`root` stands for the file system's, so that a test or a mounted image can be searched.

    No library is read twice, nor one that an earlier search has read and that has not changed since.
    """
    former = () if before is None else (*before.places, *before.versions)
    known = {place.stamp: place.version for place in former if place.version is not None}
    wanted = candidates(explicit, os.environ if environ is None else environ, root)
    places = tuple(look(path, origin, known=known) for path, origin in wanted)
    system = places[0].origin == "system"
    folder = root / DIRECTORIES[0].relative_to("/") / VERSIONS if system else folder_beside(places[0].path)
    versions = look_into(folder, known=known)
    # A folder that was filled by hand need not have a default.
    return Search(places + versions if system else places, folder, versions)


def only(path: Path) -> Search:
    """The library at this path, whatever else is installed beside it."""
    place = look(path, "argument")
    return Search((place,), place.path.parent, only=True)


def folder_beside(library: Path) -> Path:
    """The folder of releases that belongs to a default library, which may itself be one of its files."""
    folder = library.absolute().parent
    return folder if folder.name == VERSIONS else folder / VERSIONS


def look_into(
    folder: Path, *, for_board: bool = False, known: MutableMapping[Stamp, Version] | None = None
) -> tuple[LibraryPlace, ...]:
    """The libraries of a folder of releases, the newest first: by what is in the files, not by their names."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".so" and not path.name.startswith("."))
    except OSError:
        return ()
    places = [look(path, "system", for_board=for_board, known=known) for path in paths]
    return tuple(sorted(places, key=lambda place: version.order(place.release), reverse=True))


def find(explicit: Path | None = None) -> Path:
    """The default library; raises what is wrong where there is none."""
    return search(explicit).require().path
