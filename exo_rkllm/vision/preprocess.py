"""What an encoder is given: the decoded picture on a grey square, scaled without antialiasing (rknn-vision 1).

Mean, standard deviation and layout are inside the `.rknn` file, so that all families are given the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

GREY = 128
# Some rows of a picture, by their numbers: an array of rows, columns and RGB bytes.
TakeRows: TypeAlias = Callable[[Any], Any]


def pixels(rows: int, columns: int, take: TakeRows, height: int, width: int) -> Any:
    """`height` x `width` x 3 bytes of a picture of `rows` x `columns`: padded to a square around its middle, then
    scaled by linear interpolation between the centres of pixels.

    Only the rows that are looked at are taken: of a photograph, few are.
    """
    side = max(rows, columns)
    # As the vendor's demo pads: half of what is missing, rounded down, comes in front.
    top, left = (side - rows) // 2, (side - columns) // 2
    down, down_share = _positions(height, side)
    across, across_share = _positions(width, side)
    wanted = np.concatenate((down, np.minimum(down + 1, side - 1))) - top
    needed, places = np.unique(np.clip(wanted, 0, rows - 1), return_inverse=True)
    lines = _across(take(needed), across - left, np.minimum(across + 1, side - 1) - left, across_share)
    both = lines[places.reshape(-1)]
    both[(wanted < 0) | (wanted >= rows)] = GREY
    first, second = both[:height], both[height:]
    return np.rint(first + (second - first) * down_share[:, None, None]).astype(np.uint8)


def _positions(size: int, side: int) -> tuple[Any, Any]:
    """For each of `size` places, the pixel in front of it and how far it is on the way to the next."""
    places = (np.arange(size) + 0.5) * (side / size) - 0.5
    places = np.clip(places, 0, side - 1)
    front = np.floor(places).astype(np.intp)
    return front, (places - front).astype(np.float32)


def _across(lines: Any, first: Any, second: Any, share: Any) -> Any:
    """Each line between the columns `first` and `second`, as floats; columns outside are grey."""
    left, right = _columns(lines, first), _columns(lines, second)
    return left + (right - left) * share[None, :, None]


def _columns(lines: Any, numbers: Any) -> Any:
    found = lines[:, np.clip(numbers, 0, lines.shape[1] - 1)].astype(np.float32)
    found[:, (numbers < 0) | (numbers >= lines.shape[1])] = GREY
    return found
