"""Where librkllmrt.so may lie, in the order in which it is taken."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exo_rkllm.errors import ExoRkllmError, RuntimeMissing
from exo_rkllm.runtime.version import Binary, check, read

NAME = "librkllmrt.so"
VARIABLE = "EXO_RKLLM_RUNTIME_LIBRARY"
INSTALLED = Path("/usr/lib/exo-rkllm")
FOLDERS: tuple[Path, ...] = (
    INSTALLED,
    Path("/usr/local/lib/exo-rkllm"),
    Path("/usr/local/lib"),
    Path("/usr/lib"),
    Path("/usr/lib/aarch64-linux-gnu"),
    Path("/lib"),
    Path("/opt/rkllm/lib"),
)


@dataclass(frozen=True, slots=True)
class Place:
    """One place that was looked at: what lies there, or why nothing usable does."""

    path: Path
    binary: Binary | None = None
    trouble: ExoRkllmError | None = None

    @property
    def usable(self) -> bool:
        return self.binary is not None and self.trouble is None


def places(chosen: Path | None, environment: Mapping[str, str] = os.environ) -> Sequence[Path]:
    """A library that somebody named is the only one: another that happens to lie around is never a substitute."""
    if chosen is not None:
        return (chosen,)
    if named := environment.get(VARIABLE):
        return (Path(named),)
    return tuple(folder / NAME for folder in FOLDERS)


def look(chosen: Path | None = None, environment: Mapping[str, str] = os.environ) -> list[Place]:
    """Every place with what was found there, for `exo-rkllm runtime` and `doctor`."""
    return [_look_at(path) for path in places(chosen, environment)]


def find(chosen: Path | None = None, environment: Mapping[str, str] = os.environ) -> Binary:
    """The first library there is, if it can be used; its trouble otherwise, not the next one."""
    tried = look(chosen, environment)
    for place in tried:
        if place.binary is not None and place.trouble is None:
            return place.binary
        if place.trouble is not None and (place.path.exists() or len(tried) == 1):
            raise place.trouble
    raise RuntimeMissing(
        f"No {NAME} in {', '.join(str(place.path.parent) for place in tried)}.",
        "exo-rkllm runtime --install FILE with the vendor's library, from its release of rknn-llm",
    )


def _look_at(path: Path) -> Place:
    try:
        binary = read(path)
    except RuntimeMissing as trouble:
        return Place(path, trouble=trouble)
    try:
        check(binary)
    except ExoRkllmError as trouble:
        return Place(path, binary, trouble)
    return Place(path, binary)
