"""The tokenizer as a classic host uses it: text to ids, ids to text, and the one id that ends an answer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from exo_rkllm.backends.base import Tokenizer
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.errors import ExoRkllmError, NotSupported
from exo_rkllm.runtime import modelfile
from exo_rkllm.runtime.ends import ids_beside, ids_of, tokenizer_end

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


def end_ids(entry: Entry) -> tuple[int, ...]:
    """Ids that end an answer, from wherever the folder has them; the tokenizer's own comes first, since that is the one
    by which a host knows the end. The template's last word and the model file's head are asked where nothing else is.
    """
    ids = ids_beside(entry.folder)
    own = tokenizer_end(entry.folder)
    if not ids:
        with suppress(ExoRkllmError):
            ids = tuple(ids_of(entry.chat_format().stop, entry.folder).values())
    if not ids and entry.path is not None and entry.path.suffix == ".rkllm":
        with suppress(ExoRkllmError):
            head = modelfile.inspect(entry.path).end_token
            ids = () if head is None else (head.value,)
    return tuple(dict.fromkeys((*(() if own is None else (own,)), *ids)))


def token_ids_of(entry: Entry) -> TokenIds:
    return TokenIds(entry.id, entry.tokenizer(), end_ids(entry))
