"""A tokenizer.json whose tokens are words with the blanks in front of them, for the real `tokenizers` package."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path


def write_tokenizer(folder: Path, *words: str) -> Path:
    """A word's place is its token id; words that are not among them are the token 0."""
    split = {"type": "Split", "pattern": {"Regex": r"\s*\S+"}, "behavior": "Isolated", "invert": False}
    model = {"type": "WordLevel", "vocab": _numbered(words), "unk_token": words[0] if words else "[UNK]"}
    path = folder / "tokenizer.json"
    file = {"version": "1.0", "added_tokens": [], "decoder": {"type": "Fuse"}, "pre_tokenizer": split, "model": model}
    path.write_text(json.dumps(file))
    return path


def count(text: str) -> int:
    return len(re.findall(r"\s*\S+|\s+$", text))


def _numbered(words: Sequence[str]) -> dict[str, int]:
    return {word: number for number, word in enumerate(words or ("[UNK]",))}
