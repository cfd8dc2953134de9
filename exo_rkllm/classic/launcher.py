"""Which exo is installed, and the start of a classic exo as it was released, with our engine in it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exo_rkllm import models
from exo_rkllm.classic.hooks import wrap_once
from exo_rkllm.errors import NotSupported

# ── which exo ────────────────────────────────────────────────────────────────────────────────────

NONE, FORK, SEED, PLAIN, CURRENT, UNRELATED = "none", "fork", "seed", "plain", "current", "unrelated"


@dataclass(frozen=True, slots=True)
class HostKind:
    name: str
    says: str
    start: str  # what the owner types


KINDS: Mapping[str, HostKind] = {
    kind.name: kind
    for kind in (
        HostKind(NONE, "no exo is installed in this Python", ""),
        HostKind(FORK, "classic exo with plugins and an rkllm engine of its own", "exo --inference-engine rkllm-npu"),
        HostKind(SEED, "classic exo with plugins", "exo --inference-engine rkllm"),
        HostKind(PLAIN, "classic exo without plugins", "exo-rkllm exo-classic"),
        HostKind(CURRENT, "current exo, whose cluster the daemon joins by itself", "exo-rkllm serve"),
        HostKind(UNRELATED, "an `exo` that is another project (PyPI's is one)", "pip uninstall exo"),
    )
}
# Told by the files it has, since classic exo calls itself 0.0.1 for ever. The first path that exists decides.
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
    """The exo of this Python; nothing of it is imported."""
    try:
        spec = importlib.util.find_spec("exo")
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return KINDS[NONE]
    folders = list(spec.submodule_search_locations or ())
    return kind_at(Path(folders[0])) if folders else KINDS[UNRELATED]


# ── the start ────────────────────────────────────────────────────────────────────────────────────

NAMES = ("rkllm", "rkllm-npu")


def prepare(make: Callable[[Any], Any]) -> None:
    """Register cards and the engine with exo; to be called before exo.main is imported."""
    cards = importlib.import_module("exo.models")
    for name, card in models.RKLLM_MODELS.items():
        cards.model_cards.setdefault(name, card)
    engines = importlib.import_module("exo.inference.inference_engine")
    for name in NAMES:
        getattr(engines, "inference_engine_classes", {}).setdefault(name, models.ENGINE)

    def wrapper(factory: Any) -> Callable[..., Any]:
        def get(name: str, shard_downloader: Any) -> Any:
            return make(shard_downloader) if name in NAMES else factory(name, shard_downloader)

        return get

    wrap_once(engines, "get_inference_engine", wrapper)


def launch(arguments: Sequence[str], make: Callable[[Any], Any]) -> int:
    """Run exo's own command with these arguments, adding ours where the user gave none. `make` returns the engine."""
    kind = host_kind()
    if kind.name in (NONE, CURRENT, UNRELATED):
        raise NotSupported(
            f"There is no classic exo to start: {kind.says}.",
            "Install exo v0.0.15-alpha in this Python from its checkout; a current exo is joined by exo-rkllm serve.",
        )
    prepare(make)
    command = list(arguments)
    if "--inference-engine" not in command:
        command += ["--inference-engine", NAMES[1]]
    if "--default-model" not in command and models.RKLLM_MODELS:
        command += ["--default-model", next(iter(models.RKLLM_MODELS))]
    sys.argv = ["exo", *command]
    importlib.import_module("exo.main").run()
    return 0
