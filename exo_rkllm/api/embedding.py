"""Embeddings: the last hidden layer of a text's tokens, pooled as the model's card says, with length one."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from exo_rkllm.api.context import Call
from exo_rkllm.backends.base import Array, Finish, GenerationRequest
from exo_rkllm.catalogue.store import Entry
from exo_rkllm.errors import NotSupported
from exo_rkllm.schema.specs import FieldError

if TYPE_CHECKING:  # loaded with the first embedding, not with the daemon
    import numpy
    from numpy.typing import NDArray

Pooling = Literal["last", "mean"]


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
        arrays, finish = await _hidden(call, request, keep_alive)
        if not arrays:
            raise NotSupported(f"{entry.id} gave no hidden states.", "Use another model for embeddings.")
        width = arrays[0].width
        if dimensions not in (None, width):
            raise FieldError(
                "dimensions",
                f"dimensions is {dimensions}, and the vectors of {entry.id} have {width}; "
                "a shorter one would mean something else.",
                f"Leave it out, or make it {width}.",
            )
        rows.append(pooled(arrays, pooling_of(entry)))
        counted = 0 if finish.usage.guessed else finish.usage.prompt
        tokens += counted or sum(array.rows for array in arrays)
        load += finish.timings.load
    return Vectors(rows, tokens, load)


async def _hidden(call: Call, request: GenerationRequest, keep_alive: float | None) -> tuple[list[Array], Finish]:
    arrays: list[Array] = []
    finish = Finish("stop")
    events = call.context.dispatcher.generate(request, client=call.caller.client, keep_alive=keep_alive)
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Array) and event.rows and event.width:
                arrays.append(event)
            elif isinstance(event, Finish):
                finish = event
    return arrays, finish


def pooling_of(entry: Entry) -> Pooling:
    """Decoders have read the whole text at its last token only, so that is the rule; a card may say mean."""
    pooling: Any = getattr(entry.card, "pooling", "") or "last"
    return "mean" if pooling == "mean" else "last"


def pooled(arrays: Sequence[Array], pooling: Pooling) -> NDArray[numpy.float32]:
    import numpy as np

    matrix = np.concatenate([np.frombuffer(one.data, "<f4").reshape(one.rows, one.width) for one in arrays])
    vector = matrix[-1] if pooling == "last" else matrix.mean(axis=0)
    vector = np.nan_to_num(vector.astype(np.float64))
    length = float(np.linalg.norm(vector))
    unit: NDArray[numpy.float32] = (vector / length if length else vector).astype(np.float32)
    return unit
