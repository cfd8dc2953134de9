"""Token ids outside the runtime, for hosts that work on ids: only where the optional `tokenizers` package is."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exo_rkllm.backends.base import Tokenizer

FILE = "tokenizer.json"


class Ids(Tokenizer):
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def encode(self, text: str) -> list[int]:
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._inner.decode(list(tokens), skip_special_tokens=False))


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """None without the package, without the file, or with a file that the package does not take."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        kind = importlib.import_module("tokenizers").Tokenizer
    except ImportError:
        return None
    try:
        return Ids(kind.from_file(str(path)))
    except Exception:  # noqa: BLE001 - the package raises bare Exception for every kind of bad file
        return None
