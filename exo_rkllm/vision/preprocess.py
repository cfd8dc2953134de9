"""What an encoder is given: the decoded picture on a grey square, scaled without antialiasing (rknn-vision 1).

Mean, standard deviation and layout are inside the `.rknn` file, so that all families are given the same.

Pillow picks the neighbours of each place out of the picture, so that no other pixel of a photograph is copied, and
numpy weighs them. JPEG's reduced decoding would halve the time, and is not the same: of a photograph a quarter of the
values differed by more than one grey level, by up to ten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

GREY = (128, 128, 128)
AFFINE, NEAREST = 0, 0  # Image.Transform and Image.Resampling
# Places lie on multiples of half a pixel of the encoder's: less than that is rounding.
EPSILON = 1e-6
# EXIF orientation: whether rows are columns, whether columns count from the right, whether rows from below.
TURNS = {
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


@dataclass(frozen=True, slots=True)
class Axis:
    """How `size` places lie along one of the stored picture's axes, of `length` pixels, which a square of `side` pads.

    `reverse` counts from the far end.
    """

    size: int
    length: int
    side: int
    reverse: bool

    @property
    def shares(self) -> Any:
        """How far each place is on the way from the pixel in front of it to the next one."""
        places = (np.arange(self.size) + 0.5) * (self.side / self.size) - 0.5
        front = np.floor(places + EPSILON)
        shares = np.maximum(places - front, 0.0)
        shares[front < 0] = 1.0  # nothing is outside the square
        shares[front >= self.side - 1] = 0.0
        return shares.astype(np.float32)

    def scale(self, step: int) -> tuple[float, float]:
        """Factor and offset that lead Pillow from a place to the pixel in front of it, or to the one behind that."""
        # As the vendor's demo pads: half of what is missing, rounded down, comes in front.
        shift = (self.side - self.length) // 2
        factor = self.side / self.size
        if self.reverse:
            return -factor, self.length + shift + 0.5 - EPSILON - step
        return factor, step - 0.5 + EPSILON - shift


def pixels(picture: Any, orientation: int, height: int, width: int) -> Any:
    """`height` x `width` x 3 bytes of an RGB picture of Pillow's, turned as its EXIF `orientation` says: padded to a
    square around its middle, then scaled by linear interpolation between the centres of pixels."""
    side = max(picture.size)
    swapped, from_right, from_below = TURNS.get(orientation, (False, False, False))
    columns, rows = (height, width) if swapped else (width, height)
    across = Axis(columns, picture.width, side, from_right)
    down = Axis(rows, picture.height, side, from_below)
    upper, lower = (_between(picture, across, down, step) for step in (0, 1))
    lower -= upper
    lower *= down.shares[:, None, None]
    lower += upper
    found = np.rint(lower, out=lower).astype(np.uint8)
    return np.ascontiguousarray(found.swapaxes(0, 1)) if swapped else found


def _between(picture: Any, across: Axis, down: Axis, step: int) -> Any:
    """The rows of one step, between their columns, as floats."""
    left, right = (
        _neighbours(picture, across.scale(column), down.scale(step), across.size, down.size) for column in (0, 1)
    )
    found: Any = right.astype(np.float32)
    found -= left
    found *= across.shares[None, :, None]
    found += left
    return found


def _neighbours(picture: Any, across: tuple[float, float], down: tuple[float, float], columns: int, rows: int) -> Any:
    """One pixel for each place; grey outside the picture."""
    matrix = (across[0], 0.0, across[1], 0.0, down[0], down[1])
    picked = picture.transform((columns, rows), AFFINE, matrix, NEAREST, fillcolor=GREY)
    return np.frombuffer(picked.tobytes(), np.uint8).reshape(rows, columns, 3)
