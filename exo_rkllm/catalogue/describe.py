"""A card from what is there: the file's name, what the file says itself, and the files beside it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from exo_rkllm import sampling
from exo_rkllm.backends.registry import EngineSpec
from exo_rkllm.catalogue import names
from exo_rkllm.catalogue.card import Card, Weights
from exo_rkllm.catalogue.contributions import EMPTY, PluginContributions
from exo_rkllm.chat.chat_format import ChatSettings
from exo_rkllm.plugins.adapting import adapt_safely
from exo_rkllm.plugins.spec import ModelSpec
from exo_rkllm.runtime import modelfile
from exo_rkllm.sampling import Sampling

T = TypeVar("T")

# Beside the file's own size, a load takes this (reference 3.2: 100 to 300 MB, an estimate).
OVERHEAD = 200 * 1024 * 1024
# Files that make a model's chat format, with the most bytes each may have; JSON and Jinja only, never code.
COMPANIONS: Mapping[str, int] = {
    "tokenizer_config.json": 8 * 1024 * 1024,
    "chat_template.jinja": 128 * 1024,
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


def usual_names(files: Sequence[str], spec: ModelSpec | None) -> dict[str, str]:
    """Companion to file name: the plugin's name for it, or the usual one."""
    everybody = {name: name for name in files if name in COMPANIONS}
    if spec is None:
        return everybody
    own = {
        name: file
        for pattern, name in reversed(list(spec.file_names.items()))
        for file in reversed(files)
        if name in COMPANIONS and fnmatchcase(file, pattern)
    }
    return {**everybody, **own} if spec.use_builtin_weight_remapper else own


def _number(config: Mapping[str, Any], *keys: str) -> int:
    for key in keys:
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40:
            return value
    return 0


def _shape(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """config.json's numbers; vision models keep those of the language part in a table of their own."""
    for inner in ("text_config", "llm_config", "language_config"):
        if isinstance(config.get(inner), dict):
            return {**config, **config[inner]}
    return config


def _kv_heads(shape: Mapping[str, Any]) -> int:
    return _number(shape, "num_key_value_heads") or _number(shape, "num_attention_heads")


def cache_bytes(shape: Mapping[str, Any], context: int) -> int:
    """The key-value cache: fp16 (reference 2.10)."""
    heads = _number(shape, "num_attention_heads")
    kv_heads = _kv_heads(shape)
    head = _number(shape, "head_dim") or (_number(shape, "hidden_size") // heads if heads else 0)
    return 2 * _number(shape, "num_hidden_layers", "num_layers") * kv_heads * head * 2 * context


def sampling_of(folder: Path, engine: EngineSpec | None) -> Sampling:
    """The defaults that the model's makers publish, as far as the engine takes them: it would refuse the others."""
    published = sampling.read(read_json(folder / "generation_config.json"), sampling.TRANSFORMERS)
    takes = engine.sampling if engine else sampling.SAMPLING_NAMES
    defaults = Sampling(**published.for_engine(takes)[0])
    return dataclasses.replace(defaults, top_k=defaults.top_k or None)  # transformers switches it off by 0


def pretty(model: str) -> str:
    """`Qwen/Qwen2.5-1.5B-Instruct` as people write it."""
    return model.rpartition("/")[2].replace("-", " ").replace("_", " ").strip()


def describe(
    folder: Path,
    weights: Weights,
    *,
    id: str = "",
    repo: str = "",
    path: str = "",
    source: str = "",
    base_model: str = "",
    chat: ChatSettings | None = None,
    settings: Sampling | None = None,
    context: int = 0,
    contributions: PluginContributions = EMPTY,
) -> Card:
    """The card of the weights in `folder`; raises where they are no model.

    The file's own word counts most, then the name under which its repository has it (`path`). What `settings` sets
    goes before the makers' defaults.
    """
    config = read_json(folder / "config.json")
    config_type, telling = config.get("model_type"), (base_model, weights.file, repo)
    spec = contributions.spec(chat.family if chat else "", config_type, *telling)
    engine = (spec.engine if spec else "") or contributions.suffixes.get(Path(weights.file).suffix.lower(), "rkllm")
    facts = modelfile.inspect(folder / weights.file) if engine == "rkllm" else None
    by_name = names.parse_filename(path or weights.file, repo)

    def fact_or(otherwise: T, name: str) -> T:
        fact = getattr(facts, name, None)
        return otherwise if fact is None or fact.source == "name" else fact.value

    shape = _shape(adapt_safely(config, contributions.of_type(config_type)))
    tokens = context or fact_or(by_name.context, "max_context")
    cache = cache_bytes(shape, tokens or 4096) or (facts.kv_bytes_per_token or 0 if facts else 0) * (tokens or 4096)
    card = Card(
        id=id or names.id_from(weights.file, contributions.suffixes),
        name=pretty(base_model) if base_model else pretty(names.bare_name(weights.file, contributions.suffixes)),
        engine=engine,
        base_model=base_model,
        source=source,
        platform=str(fact_or(by_name.platform, "platform")).lower(),
        quantization=str(fact_or(by_name.quantization, "dtype")).lower(),
        runtime_floor=fact_or(by_name.toolkit, "toolkit"),
        context=tokens,
        layers=_number(shape, "num_hidden_layers", "num_layers") or fact_or(0, "layers"),
        hidden_size=_number(shape, "hidden_size") or fact_or(0, "embedding_length"),
        kv_heads=_kv_heads(shape),
        memory=weights.size + OVERHEAD + cache,
        reuse=contributions.families[contributions.family(config_type, *telling)].reuse,
        weights=weights,
        sampling=(settings or Sampling()).over(sampling_of(folder, contributions.engine(engine))),
        chat=chat or ChatSettings(),
    )
    # Tags that are special tokens reach us only where the runtime is told not to leave those out.
    hides = engine == "rkllm" and contributions.chat_format(folder, card).special
    return dataclasses.replace(card, options={"skip_special_token": False}) if hides else card
