"""Token ids of texts and back, without running a model: with the tokenizer of its folder, where that can be killed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.catalogue.tokenizer import FILE, PACKAGE, Operation, perform
from exo_rkllm.errors import CardError, UsageError
from exo_rkllm.files.stamps import stamp_of
from exo_rkllm.helper.parent import Helper, HelperAnswerTooLong, HelperLost

# A large tokenizer takes seconds to read on a board.
SECONDS = 20.0
MEMORY = 1 << 30
# It takes some 100 MB: where nobody asks for so long, its process ends.
IDLE_SECONDS = 120.0


class ModelTokenizers:
    """The tokenizers of all models, which are strangers' files, in one helper process.

    The process starts with the first text, keeps the last tokenizer, and ends when nobody asked for a while. Each
    method gives None where the model has no tokenizer here, and raises CardError for one that takes too much time or
    memory, UsageError for a text of too many tokens. A plugin's tokenizer is code that the owner chose, and runs in a
    thread of ours.
    """

    def __init__(self) -> None:
        self.helper = Helper("exo_rkllm.catalogue.tokenizer:perform_job", (PACKAGE,), MEMORY, int(SECONDS))
        self._idle: asyncio.TimerHandle | None = None

    async def count(self, entry: Entry, texts: Sequence[str]) -> list[int] | None:
        counts: list[int] | None = await self._ask(entry, "count", texts)
        return counts

    async def encode(self, entry: Entry, texts: Sequence[str]) -> list[list[int]] | None:
        encoded: list[list[int]] | None = await self._ask(entry, "encode", texts)
        return encoded

    async def decode(self, entry: Entry, runs: Sequence[Sequence[int]]) -> list[str] | None:
        texts: list[str] | None = await self._ask(entry, "decode", runs)
        return texts

    def close(self) -> None:
        self._cancel()
        self.helper.close()

    async def _ask(self, entry: Entry, operation: Operation, values: Sequence[Any]) -> Any:
        if entry.has_plugin_tokenizer:
            return await asyncio.to_thread(lambda: perform(entry.tokenizer(), operation, values))
        path = entry.folder / FILE
        if find_spec(PACKAGE) is None or not path.is_file():
            return None
        self._cancel()
        try:
            job = (str(entry.folder), str(stamp_of(path)), operation, list(values))
            return json.loads(await self.helper.call(*job, seconds=SECONDS))
        except HelperAnswerTooLong:
            raise UsageError("The text has more tokens than one answer holds.", "Send it in parts.") from None
        except HelperLost as error:
            raise CardError(
                f"The tokenizer of {entry.id} was stopped: it {error}.",
                f"Look at {path}; usage in an answer has the count, too.",
            ) from None
        finally:
            self._cancel()
            self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.helper.close)

    def _cancel(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
