"""Which layout a release of the library has. A release that is not in this table is refused, never guessed at."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exo_rkllm.runtime.abi.shared import Generation

# Release to the module of its generation. Only releases whose headers were measured stand here (reference 1.1).
RELEASES: Mapping[str, str] = {
    "1.1.0": "v1_1",
    "1.1.1": "v1_1",
    "1.1.2": "v1_1",
    "1.1.3": "v1_1",
    "1.1.4": "v1_1",
    "1.2.0": "v1_2_0",
    "1.2.1b1": "v1_2_1b1",
    "1.2.1": "v1_2_1",
    "1.2.2": "v1_2_1",
    "1.2.3": "v1_2_1",
    "1.3.0": "v1_3_0",
    "1.3.1": "v1_3_1",
}


def load(release: str) -> Generation:
    """The layouts of a supported release; KeyError for any other. Nothing of another generation is imported."""
    module = importlib.import_module(f"exo_rkllm.runtime.abi.{RELEASES[release]}")
    generation: Generation = module.GENERATION
    return generation
