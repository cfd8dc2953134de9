"""Token ids outside the runtime, for hosts that work on ids: only where the optional `tokenizers` package is."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from exo_rkllm.backends.base import Tokenizer
from exo_rkllm.errors import PluginError

FILE = "tokenizer.json"


class LibraryTokenizer(Tokenizer):
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def encode(self, text: str) -> list[int]:
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._inner.decode(list(tokens), skip_special_tokens=False))


class PluginTokenizer(Tokenizer):
    """A plugin's own object, which need not be of our class."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def encode(self, text: str) -> list[int]:
        return [int(token) for token in self._inner.encode(text)]

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._inner.decode(list(tokens)))


def plugin_tokenizer(make: Callable[..., Any], folder: Path) -> Tokenizer:
    try:
        return PluginTokenizer(make(folder))
    except Exception as error:
        raise PluginError(
            f"The plugin's tokenizer for {folder.name} does not start: {type(error).__name__}: {error}.",
            "exo-rkllm plugins",
        ) from error


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
        return LibraryTokenizer(kind.from_file(str(path)))
    except Exception:  # noqa: BLE001 - the package raises bare Exception for every kind of bad file
        return None
