"""A folder of runtimes as `exo-rkllm runtime --install` makes it, and which of them a process has loaded."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from exo_rkllm.runtime.locate import NAME, VERSIONS
from tests.processes import holds_model
from tests.simulated import Library


def put(folder: Path, library: Library, release: str) -> Path:
    """The release among those of `folder`: a file of its own, renamed into place."""
    target = folder / VERSIONS / f"librkllmrt-{release}.so"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(library(release), hidden := target.with_name(f".{target.name}"))
    hidden.rename(target)
    return target


def filled(folder: Path, library: Library, *releases: str) -> Path:
    """These releases, the first as the default, which is returned."""
    first, *_ = [put(folder, library, release) for release in releases]
    return set_default(folder, first.name)


def set_default(folder: Path, name: str) -> Path:
    link = folder / NAME
    (hidden := folder / f".{NAME}").symlink_to(f"{VERSIONS}/{name}")
    hidden.rename(link)
    return link


def mapped_release(pid: int) -> str:
    """The release of the library that a model's process has loaded, by its real file."""
    found = set(re.findall(r"librkllmrt-([0-9.b]+)\.so", Path(f"/proc/{pid}/maps").read_text()))
    assert len(found) == 1, found
    return str(*found)


def children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


def mapped_releases(daemon: int) -> list[str]:
    """Those of all its models' processes."""
    return sorted(map(mapped_release, filter(holds_model, children(daemon))))
