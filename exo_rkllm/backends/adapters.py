"""LoRA adapters as a card names them under [options]: `loras.NAME`, a file, or a table with `path` and `scale`.

`lora` is the one that answers are given with.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from exo_rkllm.errors import ModelNotFound, UsageError

MEND = "Mend loras under [options] in the model's model.toml"


class Adapter(NamedTuple):
    name: str
    path: str
    scale: float


def adapters_of(model: str, folder: Path, loras: Mapping[str, object], chosen: str) -> list[Adapter]:
    """A relative path is one from the model's own folder. A file that can't be read is named before a load begins."""
    if chosen and chosen not in loras:
        raise UsageError(f"{model} is to answer with the adapter {chosen}, which is none of its loras.", MEND)
    found = []
    for name, value in loras.items():
        path, scale = (value.get("path"), value.get("scale", 1.0)) if isinstance(value, dict) else (value, 1.0)
        if not isinstance(path, str) or isinstance(scale, bool) or not isinstance(scale, int | float):
            raise UsageError(f"{model}'s adapter {name} is neither a file nor a table of path and scale.", MEND)
        adapter = Adapter(name, str(folder / path), float(scale))
        if not Path(adapter.path).is_file() or not os.access(adapter.path, os.R_OK):
            raise ModelNotFound(
                f"{adapter.path}, the file of {model}'s adapter {name}, is not there or can't be read.", MEND
            )
        found.append(adapter)
    return found
