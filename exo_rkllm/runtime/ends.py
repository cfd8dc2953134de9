"""Which token ids end an answer, from what stands beside a model and in its file.

The runtime knows them too, as a rule. Runtime 1.3.0 misreads those of files that toolkits 1.2.2 and 1.2.3 wrote, and
then never ends an answer; the ids that it prints of itself are therefore no source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exo_rkllm.runtime.modelfile import ModelFacts

# What `exo-rkllm selftest` found out about the models in a folder, by the name of their file.
FINDINGS = "selftest.json"
# From the most specific to the least.
CONFIGS = ("generation_config.json", "config.json")
# A vocabulary is padded to a round size: by 271 ids in Qwen's. More is no padding but a list of tokens cut short.
MOST_PADDING = 1024


def end_tokens(facts: ModelFacts, folder: Path) -> tuple[int, ...]:
    """Those of the file's head, of the tokenizer's files in `folder` and of a selftest, and the ids of padding.

    No tokenizer has a text for padding. A runtime that does not read a model rightly gives it without end: 1.2.3 gives
    DeepSeek-R1-Distill-Qwen-1.5B as `[PAD151935]` (rknn-llm issue 467).
    """
    head = [] if facts.end_token is None else [facts.end_token.value]
    heard = _json(folder / FINDINGS).get(facts.path.name)
    measured = _ids(heard.get("end_tokens")) if isinstance(heard, dict) else []
    return tuple(dict.fromkeys((*head, *ids_beside(folder), *measured, *_padding(facts, folder))))


def ids_beside(folder: Path) -> tuple[int, ...]:
    """Those that the tokenizer's files name, the most specific first."""
    ids: list[int] = []
    for name in CONFIGS:
        config = _json(folder / name)
        text = config.get("text_config")
        for part in (config, text if isinstance(text, dict) else {}):
            ids += _ids(part.get("eos_token_id"))
    tokenizer = _json(folder / "tokenizer_config.json")
    end = _text(tokenizer.get("eos_token"))
    ids += [number for number, token in _added(tokenizer).items() if end and _text(token) == end]
    if not ids and (own := tokenizer_end(folder)) is not None:
        ids.append(own)
    return tuple(dict.fromkeys(ids))


def _ids(value: object) -> list[int]:
    return [one for one in (value if isinstance(value, list) else [value]) if type(one) is int and one >= 0]


def tokenizer_end(folder: Path) -> int | None:
    """The id of the tokenizer's own `eos_token`, which programs on transformers compare with; None without one."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if end := _text(_json(folder / name).get("eos_token")):
            return ids_of((end,), folder).get(end)
    return None


def ids_of(texts: Sequence[str], folder: Path) -> Mapping[str, int]:
    """Ids of tokens by their text, for those of these texts that are one token. Reads tokenizer.json, some megabytes,
    only where tokenizer_config.json does not list them."""
    found = {_text(token): number for number, token in _added(_json(folder / "tokenizer_config.json")).items()}
    if any(text not in found for text in texts):
        whole = _json(folder / "tokenizer.json")
        model = whole.get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        listed = vocabulary.items() if isinstance(vocabulary, dict) else ()
        found |= {text: number for text, number in listed if text in texts}
        added = whole.get("added_tokens")
        for token in added if isinstance(added, list) else ():
            if isinstance(token, dict):
                found[_text(token)] = token.get("id", -1)
    return {text: found[text] for text in texts if type(found.get(text)) is int and found[text] >= 0}


def _padding(facts: ModelFacts, folder: Path) -> range:
    config = _json(folder / "config.json").get("vocab_size")
    size = config if type(config) is int else facts.vocab_size.value if facts.vocab_size is not None else 0
    first = max(_added(_json(folder / "tokenizer_config.json")), default=size) + 1
    return range(first, size) if size - first <= MOST_PADDING else range(0)


def _added(tokenizer: Mapping[str, Any]) -> Mapping[int, Any]:
    decoder = tokenizer.get("added_tokens_decoder")
    if not isinstance(decoder, dict):
        return {}
    return {int(number): token for number, token in decoder.items() if number.isdecimal()}


def _text(token: object) -> str:
    """A special token as the files write it: text, or an object with its text in `content`."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
