"""Classic exo as it was released, with our engine in it: it has no plugins, so what it looks up is put there."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from exo_rkllm import models
from exo_rkllm.classic import host
from exo_rkllm.errors import NotSupported

NAMES = ("rkllm", "rkllm-npu")
MARK = "_exo_rkllm_known"


def prepare(make: Callable[[Any], Any]) -> None:
    """Cards, names for people, and the engine; before exo.main is imported. Twice is as good as once."""
    cards = importlib.import_module("exo.models")
    for name, card in models.RKLLM_MODELS.items():
        cards.model_cards.setdefault(name, card)
    for name, pretty in models.RKLLM_PRETTY_NAMES.items():
        getattr(cards, "pretty_name", {}).setdefault(name, pretty)
    engines = importlib.import_module("exo.inference.inference_engine")
    known = getattr(engines, "inference_engine_classes", {})
    for name in NAMES:
        known.setdefault(name, models.ENGINE)
    makes = engines.get_inference_engine
    if not hasattr(makes, MARK):

        @functools.wraps(makes)
        def get(name: str, shard_downloader: Any) -> Any:
            return make(shard_downloader) if name in NAMES else makes(name, shard_downloader)

        setattr(get, MARK, True)
        setattr(engines, "get_inference_engine", get)  # noqa: B010 - a module of somebody else's


def launch(arguments: Sequence[str], make: Callable[[Any], Any]) -> int:
    """exo's own command with these arguments; ours are put where the user gave none. `make` gives the engine."""
    kind = host.host_kind()
    if kind.name in (host.NONE, host.CURRENT, host.UNRELATED):
        raise NotSupported(
            f"There is no classic exo to start: {kind.says}.",
            "Install exo v0.0.15-alpha in this Python from its checkout; a current exo is joined by exo-rkllm serve.",
        )
    prepare(make)
    given = list(arguments)
    if "--inference-engine" not in given:
        given += ["--inference-engine", NAMES[1]]
    if "--default-model" not in given and models.RKLLM_MODELS:
        given += ["--default-model", next(iter(models.RKLLM_MODELS))]
    sys.argv = ["exo", *given]
    importlib.import_module("exo.main").run()
    return 0
