"""The tokenizer as a classic host uses it: text to ids, ids to text, and the one id that ends an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from exo_rkllm.backends.base import Tokenizer
from exo_rkllm.catalogue.store import Entry
from exo_rkllm.errors import NotSupported
from exo_rkllm.runtime.ends import ids_beside

# No token of any vocabulary; only for models that come without tokenizer files.
NO_ID = -1


class TokenIds:
    """The runtime ends answers by itself, whichever of a model's several ids ends them: the host hears of one."""

    def __init__(self, model_id: str, inner: Tokenizer | None, ends: Sequence[int]) -> None:
        self._model_id = model_id
        self._inner = inner
        self.ends = frozenset(ends)
        self.eos_token_id = ends[0] if ends else NO_ID

    def encode(self, text: str, **_ignored: Any) -> list[int]:
        return self._tokenizer().encode(text)

    def decode(self, tokens: Any, **_ignored: Any) -> str:
        """Of a list, an array or one id; ids that stand for the end are no text."""
        ids = tokens.tolist() if hasattr(tokens, "tolist") else tokens
        flat = [ids] if isinstance(ids, int) else [int(one) for one in _flat(ids)]
        return self._tokenizer().decode([one for one in flat if one != NO_ID and one not in self.ends])

    def _tokenizer(self) -> Tokenizer:
        if self._inner is None:
            raise NotSupported(
                f"{self._model_id} has no tokenizer that can be read here.",
                "pip install tokenizers, and put tokenizer.json beside its model.toml: exo-rkllm show NAME",
            )
        return self._inner


def _flat(ids: Any) -> list[int]:
    return [one for row in ids for one in (row if isinstance(row, list | tuple) else [row])]


def token_ids_of(entry: Entry) -> TokenIds:
    return TokenIds(entry.id, entry.tokenizer(), ids_beside(entry.folder))
