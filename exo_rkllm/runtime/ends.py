"""Which token ids end an answer, from what stands beside a model.

The runtime knows them too, as a rule. Runtime 1.3.0 misreads those of files that toolkits 1.2.2 and 1.2.3 wrote, and
then never ends an answer; the ids that it prints of itself are therefore no source.

Strangers wrote these files, so a model's process reads them and not the daemon; hence no pathlib, which costs 0.7 MB.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

StrPath: TypeAlias = "str | os.PathLike[str]"

# What `exo-rkllm selftest` found out about the models in a folder, by the name of their file.
FINDINGS = "selftest.json"
# Among them: whether a prompt cache file that is loaded spares its prefill, and does so after an abort.
SPARES, AFTER_ABORT = "prompt_cache_spares", "prompt_cache_after_abort"
# From the most specific to the least.
CONFIGS = ("generation_config.json", "config.json")
# A vocabulary is padded to a round size: by 271 ids in Qwen's. More is no padding but a list of tokens cut short.
MOST_PADDING = 1024
# Of a file or a list that is parsed; Gemma's tokenizer_config.json, the largest known, has 1.1 MB.
MOST_BYTES = 8 << 20


def ends_beside(model_path: str, vocabulary: int) -> tuple[int, ...]:
    """Those of the tokenizer's files in the model's folder and of a selftest, and the ids of padding.

    `vocabulary` is the model file's own count of ids, 0 where it has none. No tokenizer has a text for padding. A
    runtime that does not read a model rightly gives it without end: 1.2.3 gives DeepSeek-R1-Distill-Qwen-1.5B as
    `[PAD151935]` (rknn-llm issue 467).
    """
    folder = os.path.dirname(model_path)  # noqa: PTH120
    measured = _ids(findings(model_path).get("end_tokens"))
    return tuple(dict.fromkeys((*ids_beside(folder), *measured, *_padding(folder, vocabulary))))


def findings(model_path: StrPath) -> Mapping[str, Any]:
    """What selftest found out about this model file; empty where nothing."""
    folder, name = os.path.split(model_path)
    known = _json(folder, FINDINGS).get(name)
    return known if isinstance(known, dict) else {}


def ids_beside(folder: StrPath) -> tuple[int, ...]:
    """Those that the tokenizer's files name, the most specific first."""
    ids: list[int] = []
    for name in CONFIGS:
        config = _json(folder, name)
        text = config.get("text_config")
        for part in (config, text if isinstance(text, dict) else {}):
            ids += _ids(part.get("eos_token_id"))
    tokenizer = _json(folder, "tokenizer_config.json")
    end = _text(tokenizer.get("eos_token"))
    ids += [number for number, token in _added(tokenizer).items() if end and _text(token) == end]
    if not ids and (own := tokenizer_end(folder)) is not None:
        ids.append(own)
    return tuple(dict.fromkeys(ids))


def _ids(value: object) -> list[int]:
    return [one for one in (value if isinstance(value, list) else [value]) if type(one) is int and one >= 0]


def tokenizer_end(folder: StrPath) -> int | None:
    """The id of the tokenizer's own `eos_token`, which programs on transformers compare with; None without one."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if end := _text(_json(folder, name).get("eos_token")):
            return ids_of((end,), folder).get(end)
    return None


def ids_of(texts: Sequence[str], folder: StrPath) -> Mapping[str, int]:
    """Ids of tokens by their text, for those of these texts that are one token. Looks into tokenizer.json, some
    megabytes, only where tokenizer_config.json does not list them."""
    found = {_text(token): number for number, token in _added(_json(folder, "tokenizer_config.json")).items()}
    if any(text not in found for text in texts):
        found |= _ids_in(os.path.join(folder, "tokenizer.json"), texts)  # noqa: PTH118 - see the module's docstring
    return {text: found[text] for text in texts if type(found.get(text)) is int and found[text] >= 0}


def _ids_in(path: str, texts: Sequence[str]) -> Mapping[str, int]:
    """Of the vocabulary and the added tokens of a tokenizer.json, which is searched and not parsed: as objects a
    vocabulary has ten times its size, and parsing it takes a second."""
    found: dict[str, int] = {}
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(file)
    except (OSError, ValueError):
        return found
    with data:
        for text in texts:
            spellings = {json.dumps(text), json.dumps(text, ensure_ascii=False)}
            keys = b"|".join(re.escape(spelling.encode("utf-8", "replace")) for spelling in spellings)
            if match := re.search(rb"(?:" + keys + rb")\s*:\s*(\d{1,9})\b", data):
                found[text] = int(match[1])
        if (at := re.search(rb'"added_tokens"\s*:\s*(?=\[)', data)) is not None:
            rest = data[at.end() : at.end() + MOST_BYTES].decode("utf-8", "replace")
            try:
                added, _ = json.JSONDecoder().raw_decode(rest)
            except (ValueError, RecursionError):
                added = []
            found |= {_text(token): token.get("id", -1) for token in added if isinstance(token, dict)}
    return found


def _padding(folder: StrPath, vocabulary: int) -> range:
    config = _json(folder, "config.json").get("vocab_size")
    size = config if type(config) is int else vocabulary
    first = max(_added(_json(folder, "tokenizer_config.json")), default=size) + 1
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


def _json(folder: StrPath, name: str) -> Mapping[str, Any]:
    """Empty for a file that is missing, too large, or no JSON object."""
    try:
        with open(os.path.join(folder, name), "rb") as file:  # noqa: PTH118, PTH123
            data = file.read(MOST_BYTES + 1)
        value = json.loads(data) if len(data) <= MOST_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
