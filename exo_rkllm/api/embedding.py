"""Embeddings: the last hidden layer, pooled as the model means it, with length one."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exo_rkllm.api.context import Call
from exo_rkllm.api.streaming import complete_answer
from exo_rkllm.backends.base import Array, GenerationRequest
from exo_rkllm.catalogue.card import telling_names
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.catalogue.retrieval import Pooling, embedding_of
from exo_rkllm.errors import NotSupported
from exo_rkllm.schema.specs import FieldError

if TYPE_CHECKING:  # loaded with the first embedding, not with the daemon
    import numpy
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Vectors:
    rows: list[NDArray[numpy.float32]]
    tokens: int
    load: float

    def lists(self) -> list[list[float]]:
        return [row.tolist() for row in self.rows]

    def base64(self) -> list[str]:
        """float32, little-endian, as OpenAI's clients read it."""
        return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in self.rows]


async def embed(
    call: Call,
    entry: Entry,
    texts: Sequence[str | tuple[int, ...]],
    dimensions: int | None = None,
    keep_alive: float | None = None,
    purpose: str = "",
) -> Vectors:
    """One run a text: a runtime takes one prompt at a time. `purpose` is query, document or empty for as it stands."""
    settings = embedding_of(entry.card.embedding, telling_names(entry.card))
    prefix = {"query": settings.query_prefix, "document": settings.document_prefix}.get(purpose, "")
    last_only = settings.pooling in ("", "last")
    rows: list[NDArray[numpy.float32]] = []
    tokens, load = 0, 0.0
    for text in texts:
        if not text:
            raise FieldError("input", "input holds an empty text, which has no vector.", "Leave it out.")
        request = GenerationRequest(
            model=entry.id,
            prompt=f"{prefix}{text}{settings.suffix}" if isinstance(text, str) else None,
            tokens=None if isinstance(text, str) else text,
            output="hidden",
            rows=1 if last_only else 0,
        )
        answer = await complete_answer(call, request, keep_alive)
        if not answer.arrays:
            raise NotSupported(f"{entry.id} gave no hidden states.", "Use another model for embeddings.")
        width = answer.arrays[0].width
        if dimensions is not None and dimensions > width:
            raise FieldError(
                "dimensions",
                f"dimensions is {dimensions}, and the vectors of {entry.id} have {width}.",
                f"Leave it out, or make it {width} or less.",
            )
        rows.append(await asyncio.to_thread(_vector, answer.arrays, settings.pooling, dimensions))
        usage = answer.finish.usage
        tokens += (0 if usage.guessed else usage.prompt) or sum(array.rows for array in answer.arrays)
        load += answer.finish.timings.load
    return Vectors(rows, tokens, load)


def _vector(arrays: Sequence[Array], pooling: Pooling, dimensions: int | None) -> NDArray[numpy.float32]:
    return unit_vector(pooled(arrays, pooling)[:dimensions])


def pooled(arrays: Sequence[Array], pooling: Pooling) -> NDArray[numpy.float64]:
    """One row of a text's: the last by default, since decoders have read the whole text at its last token only; the
    first (`cls`); or the mean of all."""
    import numpy as np

    if pooling == "mean":
        mean: NDArray[numpy.float64] = np.concatenate([_rows(array) for array in arrays]).mean(axis=0)
        return mean
    row: NDArray[numpy.float64] = _rows(arrays[0])[0] if pooling == "cls" else _rows(arrays[-1])[-1]
    return row


def _rows(array: Array) -> NDArray[numpy.float64]:
    import numpy as np

    values = np.frombuffer(array.data, "<f4").reshape(array.rows, array.width)
    return np.nan_to_num(values.astype(np.float64))


def unit_vector(vector: NDArray[numpy.float64]) -> NDArray[numpy.float32]:
    """Of length one, also where it was cut (Matryoshka)."""
    import numpy as np

    length = float(np.linalg.norm(vector))
    unit: NDArray[numpy.float32] = (vector / length if length else vector).astype(np.float32)
    return unit
