"""A card out of what is there: the file's name, what the file says itself, and the files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exo_rkllm.backends.base import Sampling
from exo_rkllm.catalogue import names
from exo_rkllm.catalogue.card import Card, Chat, Weights
from exo_rkllm.catalogue.families import FAMILIES, family_of
from exo_rkllm.catalogue.filenames import Named, named

# Beside the file's own size, a load takes this (reference 3.2: 100 to 300 MB, an estimate).
OVERHEAD = 200 * 1024 * 1024
ENGINES: Mapping[str, str] = {".rkllm": "rkllm", ".gguf": "llamacpp"}
# Files that make a model's voice, with the most bytes each may have; JSON and Jinja only, never code.
COMPANIONS: Mapping[str, int] = {
    "tokenizer_config.json": 8 * 1024 * 1024,
    "chat_template.jinja": 512 * 1024,
    "chat_template.json": 512 * 1024,
    "generation_config.json": 256 * 1024,
    "config.json": 1024 * 1024,
    "special_tokens_map.json": 1024 * 1024,
    "tokenizer.json": 64 * 1024 * 1024,
}


def read_json(path: Path) -> Mapping[str, Any]:
    """Empty for a file that is missing, too large, or no JSON object: each of these files is optional."""
    try:
        if path.stat().st_size > COMPANIONS.get(path.name, 1024 * 1024):
            return {}
        read = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def _number(held: Mapping[str, Any], *keys: str) -> int:
    for key in keys:
        value = held.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40:
            return value
    return 0


def _shape(folder: Path) -> Mapping[str, Any]:
    """config.json's numbers; models that also see keep the language part's in a table of their own."""
    config = read_json(folder / "config.json")
    for inner in ("text_config", "llm_config", "language_config"):
        if isinstance(config.get(inner), dict):
            return {**config, **config[inner]}
    return config


def cache_bytes(shape: Mapping[str, Any], context: int) -> int:
    """The key-value cache: fp16 (reference 2.10)."""
    heads = _number(shape, "num_attention_heads")
    kv_heads = _number(shape, "num_key_value_heads") or heads
    head = _number(shape, "head_dim") or (_number(shape, "hidden_size") // heads if heads else 0)
    return 2 * _number(shape, "num_hidden_layers", "num_layers") * kv_heads * head * 2 * context


def sampling_of(folder: Path) -> Sampling:
    """The makers' own defaults."""
    held = read_json(folder / "generation_config.json")

    def number(key: str, most: float) -> float | None:
        value = held.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            return None
        return float(value)

    top_k = number("top_k", 1e6)
    return Sampling(
        temperature=number("temperature", 10),
        top_p=number("top_p", 1),
        top_k=int(top_k) if top_k else None,
        repeat_penalty=number("repetition_penalty", 10),
    )


def pretty(model: str) -> str:
    """`Qwen/Qwen2.5-1.5B-Instruct` as people write it."""
    return model.rpartition("/")[2].replace("-", " ").replace("_", " ").strip()


def describe(
    folder: Path,
    weights: Weights,
    *,
    id: str = "",
    repo: str = "",
    source: str = "",
    base_model: str = "",
    chat: Chat | None = None,
    said: Named | None = None,
) -> Card:
    """The card of the weights in `folder`. `said` is what the file says of itself, where it could be read."""
    by_name = named(weights.file, repo)
    facts = _merged(said or Named(), by_name)
    shape = _shape(folder)
    family = FAMILIES[family_of(base_model, weights.file, repo)]
    context = facts.context
    return Card(
        id=id or names.id_from(weights.file),
        name=pretty(base_model) if base_model else pretty(names.bare_name(weights.file)),
        engine=ENGINES.get(Path(weights.file).suffix.lower(), "rkllm"),
        base_model=base_model,
        source=source,
        platform=facts.platform,
        quantization=facts.quantization,
        runtime_floor=facts.toolkit,
        context=context,
        layers=_number(shape, "num_hidden_layers", "num_layers"),
        hidden_size=_number(shape, "hidden_size"),
        memory=weights.size + OVERHEAD + cache_bytes(shape, context or 4096),
        reuse=family.reuse,
        weights=weights,
        sampling=sampling_of(folder),
        chat=chat or Chat(),
    )


def _merged(said: Named, by_name: Named) -> Named:
    return Named(
        platform=said.platform or by_name.platform,
        quantization=said.quantization or by_name.quantization,
        context=said.context or by_name.context,
        toolkit=said.toolkit or by_name.toolkit,
    )
