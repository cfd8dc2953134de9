"""Makes values fit for the wire: a lone surrogate or an infinite number ends every exo process."""

from __future__ import annotations

import math

# What every JSON parser holds exactly.
LARGEST = 2**53


def text(value: str) -> str:
    """Text that has a UTF-8 form."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def whole(value: int, low: int = 0) -> int:
    return max(low, min(LARGEST, value))


def number(value: float | None) -> float | None:
    """A finite number, or none where there is none."""
    return value if value is not None and math.isfinite(value) else None


def rate(amount: float, seconds: float) -> float:
    """Amount a second, zero if that is unknown or infinite."""
    return number(amount / seconds) or 0.0 if seconds > 0 else 0.0
