"""What classic exo asks a plugin for (`exo.models`): a card a model, and names for people.

`RKLLM_MODELS` and `RKLLM_PRETTY_NAMES` are read from the models folder when they are asked for. Classic exo loads them
while it is half imported, so nothing of exo is imported here, and nothing heavy; and what cannot be read is an empty
mapping, since one that raises costs every other plugin its models (classic-plugin 2.7).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from exo_rkllm.assembly import open_node
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.config import load
from exo_rkllm.errors import ExoRkllmError

ENGINE = "RKLLMInferenceEngine"
SUFFIX = "-rkllm"
# What a tokenizer can be made of; tokenizer_config.json alone is none.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


def entries() -> tuple[Entry, ...]:
    try:
        return open_node(load(os.environ)).catalogue.list()
    except ExoRkllmError:
        return ()


def classic_id(entry: Entry) -> str:
    """An id of our own: a card under another engine's id would replace it (classic-plugin 2.4)."""
    return entry.id if entry.id.endswith(SUFFIX) else entry.id + SUFFIX


def tokenizer_place(entry: Entry) -> str:
    """Where a host reads the tokenizer without a network: the entry's folder, or the base model among its downloads.

    Empty where there is none. Such a model is not named to a host: every question would end in HTTP 500.
    """
    if any((entry.folder / name).is_file() for name in TOKENIZER_FILES):
        return str(entry.folder.absolute())
    home = Path(os.environ.get("EXO_HOME") or Path.home() / ".cache/exo")
    base = entry.card.base_model
    return base if base and (home / "downloads" / base.replace("/", "--")).is_dir() else ""


def classic_card(entry: Entry, place: str) -> dict[str, Any]:
    """`layers` and `repo` are what hosts read; they keep the rest for us."""
    return {
        "layers": max(entry.card.layers, 1),
        "repo": {ENGINE: place},
        "rkllm_entry": entry.id,
        "rkllm_file": str(entry.path or ""),
        "rkllm_context": entry.card.context,
        "rkllm_engine": entry.engine,
    }


def _placed() -> list[tuple[Entry, str]]:
    return [(entry, place) for entry in entries() if (place := tokenizer_place(entry))]


def __getattr__(name: str) -> dict[str, Any]:
    if name == "RKLLM_MODELS":
        return {classic_id(entry): classic_card(entry, place) for entry, place in _placed()}
    if name == "RKLLM_PRETTY_NAMES":
        return {classic_id(entry): f"{entry.card.name or entry.id} (NPU)" for entry, _ in _placed()}
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
