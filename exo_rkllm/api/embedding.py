"""Embeddings: the last hidden layer at a text's last token, with length one."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exo_rkllm.api.context import Call
from exo_rkllm.api.streaming import complete_answer
from exo_rkllm.backends.base import Array, GenerationRequest
from exo_rkllm.catalogue.store import Entry
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
) -> Vectors:
    """One run a text: a runtime takes one prompt at a time."""
    rows: list[NDArray[numpy.float32]] = []
    tokens, load = 0, 0.0
    for text in texts:
        if not text:
            raise FieldError("input", "input holds an empty text, which has no vector.", "Leave it out.")
        request = GenerationRequest(
            model=entry.id,
            prompt=text if isinstance(text, str) else None,
            tokens=None if isinstance(text, str) else text,
            output="hidden",
        )
        answer = await complete_answer(call, request, keep_alive)
        if not answer.arrays:
            raise NotSupported(f"{entry.id} gave no hidden states.", "Use another model for embeddings.")
        width = answer.arrays[0].width
        if dimensions not in (None, width):
            raise FieldError(
                "dimensions",
                f"dimensions is {dimensions}, and the vectors of {entry.id} have {width}; "
                "a shorter one would mean something else.",
                f"Leave it out, or make it {width}.",
            )
        rows.append(unit_vector(answer.arrays[-1]))
        usage = answer.finish.usage
        tokens += (0 if usage.guessed else usage.prompt) or sum(array.rows for array in answer.arrays)
        load += answer.finish.timings.load
    return Vectors(rows, tokens, load)


def unit_vector(last: Array) -> NDArray[numpy.float32]:
    """Of the last token's row, since decoders have read the whole text at its last token only; of length one."""
    import numpy as np

    row = np.frombuffer(last.data, "<f4").reshape(last.rows, last.width)[-1]
    vector = np.nan_to_num(row.astype(np.float64))
    length = float(np.linalg.norm(vector))
    unit: NDArray[numpy.float32] = (vector / length if length else vector).astype(np.float32)
    return unit
