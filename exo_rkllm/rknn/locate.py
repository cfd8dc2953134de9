"""Where librknnrt.so is looked for: where librkllmrt.so is, by a name and a variable of its own."""

from __future__ import annotations

import os
from pathlib import Path

from exo_rkllm.errors import RuntimeMissing
from exo_rkllm.rknn import version
from exo_rkllm.runtime.locate import candidates

NAME = "librknnrt.so"
VARIABLE = "EXO_RKLLM_RUNTIME_ENCODER_LIBRARY"


def find(explicit: Path | None = None, root: Path = Path("/")) -> Path:
    """The library to use; raises what is wrong where there is none."""
    wanted = candidates(explicit, os.environ, root, NAME, VARIABLE)
    for path, origin in wanted:
        if origin != "system" or os.path.lexists(path):
            version.check(path)
            return path
    looked = ", ".join(str(path.parent) for path, _ in wanted)
    raise RuntimeMissing(f"No {NAME} was found, which models that see need (looked in {looked}).", version.INSTALL_HINT)
