"""Token ids outside the runtime, for hosts that work on ids: only where the optional `tokenizers` package is."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from exo_rkllm.backends.base import Tokenizer
from exo_rkllm.errors import PluginError

Operation: TypeAlias = Literal["count", "encode", "decode"]

FILE = "tokenizer.json"
PACKAGE = "tokenizers"
# Of a tokenizer's file; Gemma's has 33 MB and takes seconds to read on a board.
LARGEST_FILE = 64 << 20


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


def perform(tokenizer: Tokenizer | None, operation: Operation, values: Sequence[Any]) -> list[Any] | None:
    """What the tokenizer makes of each value; None where there is no tokenizer."""
    if tokenizer is None:
        return None
    if operation == "decode":
        return [tokenizer.decode(value) for value in values]
    encoded = [tokenizer.encode(value) for value in values]
    return encoded if operation == "encode" else [len(tokens) for tokens in encoded]


def perform_job(folder: str, stamp: str, operation: Operation, values: Sequence[Any]) -> str:
    """What the helper process does: `perform` with the tokenizer of a folder, its result as JSON."""
    return json.dumps(perform(_kept(folder, stamp), operation, values), separators=(",", ":"))


@lru_cache(maxsize=1)
def _kept(folder: str, _stamp: str) -> Tokenizer | None:
    return read_tokenizer(Path(folder))


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """None without the package, without the file, or with one that is too large or that the package does not take."""
    path = folder / FILE
    if not path.is_file() or path.stat().st_size > LARGEST_FILE:
        return None
    try:
        kind = importlib.import_module(PACKAGE).Tokenizer
    except ImportError:
        return None
    try:
        return LibraryTokenizer(kind.from_file(str(path)))
    except Exception:  # noqa: BLE001 - the package raises bare Exception for every kind of bad file
        return None
