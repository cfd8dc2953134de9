"""Puts librknnrt, the vendor's library for encoders, in place: one file, the newest that was installed."""

from __future__ import annotations

from pathlib import Path

from exo_rkllm.rknn import version
from exo_rkllm.rknn.locate import NAME
from exo_rkllm.runtime.install import LibraryCopy


def replace(copy: LibraryCopy, directory: Path) -> tuple[Path, str]:
    """The file in its place, and its release. The next encoder that is loaded uses it."""
    with copy.named_as_source():
        release = version.check(copy.path, for_board=True)
    target = directory / NAME
    copy.move_to(target)
    return target, release
