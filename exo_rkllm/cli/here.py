"""What commands need to know of this machine, even where its configuration cannot be read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from exo_rkllm.board.detect import detect
from exo_rkllm.config import load
from exo_rkllm.errors import ConfigError
from exo_rkllm.runtime import locate
from exo_rkllm.runtime.locate import Search


@dataclass(frozen=True, slots=True)
class Here:
    """`platform` is the SoC's name, empty on a machine that is no board."""

    search: Search
    platform: str

    @property
    def release(self) -> str:
        found = self.search.found
        return "" if found is None or found.version is None else found.version.release


def look() -> Here:
    library, root = None, "/"
    try:
        config = load(os.environ)
        root = config.board.root
        # A variable is a setting as well, and the search says itself where it came from.
        library = None if os.environ.get(locate.VARIABLE) else config.runtime.library
    except ConfigError:
        pass  # `exo-rkllm config` says what is wrong with it
    soc = detect(Path(root)).soc
    return Here(locate.search(Path(library) if library else None), "" if soc is None else soc.title)
