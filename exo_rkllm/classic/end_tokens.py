"""exo decodes the token that ends an answer into the answer: with its own tokenizer, which shows it as text."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exo_rkllm.catalogue.store import Entry

READS = "_resolve_tokenizer"
MARK = "_exo_rkllm_hides"


def hide(entries: Callable[[], tuple[Entry, ...]]) -> bool:
    """Wraps the host's reading of tokenizers once; those of other models' folders are left as they are."""
    module = sys.modules.get("exo.inference.tokenizers")
    reads = getattr(module, READS, None)
    if reads is None:
        return False
    if not hasattr(reads, MARK):

        @functools.wraps(reads)
        async def read(place: Any) -> Any:
            tokenizer = await reads(place)
            if Path(place) in {entry.folder.absolute() for entry in entries()}:
                tokenizer.decode = functools.partial(tokenizer.decode, skip_special_tokens=True)
            return tokenizer

        setattr(read, MARK, True)
        setattr(module, READS, read)
    return True
