"""The LoRA adapters that a model's card names: small files beside the model that change how it answers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from exo_rkllm.errors import ModelNotFound, UsageError

LORAS_HINT = "Correct loras under [options] in the model's model.toml"


class Adapter(NamedTuple):
    name: str
    path: str
    scale: float


def adapters_of(model: str, folder: Path, loras: Mapping[str, object], default: str) -> list[Adapter]:
    """The adapters that a card names under `loras`: `NAME`, a file, or a table with `path` and `scale`.

    A relative path is one from the model's own `folder`. Raises before a load begins: UsageError for a table that is
    none, or a `default` adapter that is not among them, and ModelNotFound for a file that cannot be read.
    """
    if default and default not in loras:
        raise UsageError(f"{model} is to answer with the adapter {default}, which is none of its loras.", LORAS_HINT)
    adapters = []
    for name, value in loras.items():
        path, scale = (value.get("path"), value.get("scale", 1.0)) if isinstance(value, dict) else (value, 1.0)
        if not isinstance(path, str) or isinstance(scale, bool) or not isinstance(scale, int | float):
            raise UsageError(f"{model}'s adapter {name} is neither a file nor a table of path and scale.", LORAS_HINT)
        adapter = Adapter(name, str(folder / path), float(scale))
        if not Path(adapter.path).is_file() or not os.access(adapter.path, os.R_OK):
            raise ModelNotFound(
                f"{adapter.path}, the file of {model}'s adapter {name}, is not there or can't be read.", LORAS_HINT
            )
        adapters.append(adapter)
    return adapters
