"""Pictures as plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Encoding:
    """What a language model is shown instead of a picture: float32, `tokens` rows of `width`."""

    tokens: int
    width: int
    data: memoryview

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self.data.nbytes
