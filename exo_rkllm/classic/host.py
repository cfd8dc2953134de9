"""Which exo is installed, told by the files it has: classic exo calls itself 0.0.1 for ever, and PyPI's is another."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

NONE, FORK, SEED, PLAIN, CURRENT, UNRELATED = "none", "fork", "seed", "plain", "current", "unrelated"


@dataclass(frozen=True, slots=True)
class HostKind:
    name: str
    says: str
    start: str  # what the owner types


KINDS: dict[str, HostKind] = {
    NONE: HostKind(NONE, "no exo is installed in this Python", ""),
    FORK: HostKind(FORK, "classic exo with plugins and an rkllm engine of its own", "exo --inference-engine rkllm-npu"),
    SEED: HostKind(SEED, "classic exo with plugins", "exo --inference-engine rkllm"),
    PLAIN: HostKind(PLAIN, "classic exo without plugins", "exo-rkllm exo-classic"),
    CURRENT: HostKind(CURRENT, "current exo, whose cluster the daemon joins by itself", "exo-rkllm serve"),
    UNRELATED: HostKind(UNRELATED, "an `exo` that is another project (PyPI's is one)", "pip uninstall exo"),
}
# In this order: the first path that is there tells.
MARKS: tuple[tuple[str, str], ...] = (
    ("inference/rkllm", FORK),
    ("inference/plugin_discovery.py", SEED),
    ("inference/inference_engine.py", PLAIN),
    ("worker", CURRENT),
)


def kind_at(folder: Path | None) -> HostKind:
    if folder is None:
        return KINDS[NONE]
    return KINDS[next((kind for mark, kind in MARKS if (folder / mark).exists()), UNRELATED)]


def host_kind() -> HostKind:
    """Nothing of exo is imported."""
    try:
        found = importlib.util.find_spec("exo")
    except (ImportError, ValueError):
        found = None
    places = list(found.submodule_search_locations or ()) if found is not None else []
    return kind_at(Path(places[0]) if places else None if found is None else Path("/nonexistent"))
