"""What an encoder is loaded with and what is known of it, as plain values: nothing here knows a layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class EncoderParams:
    """`core_mask` 0 leaves the choice of NPU cores to the library."""

    model_path: str
    core_mask: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> EncoderParams:
        return cls(**value)


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """One picture's way through an encoder: `height` x `width` RGB pixels in, `tokens` rows of floats out.

    A row holds one token's values of all `outputs`, one output after the other, of `output_width` floats each.
    """

    height: int
    width: int
    tokens: int
    output_width: int
    outputs: int

    @property
    def pixels(self) -> int:
        """Bytes of the picture."""
        return self.height * self.width * 3

    @property
    def row_width(self) -> int:
        return self.output_width * self.outputs

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> EncoderShape:
        return cls(**value)
