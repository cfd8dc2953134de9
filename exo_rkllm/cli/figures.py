"""Sizes and times as people write and read them."""

from __future__ import annotations

import argparse
import time

from exo_rkllm.schema.quantities import Seconds
from exo_rkllm.schema.specs import FieldError


def seconds_of(text: str) -> float:
    """For argparse: `90s`, `1h30m`, `1d`, or a number of seconds."""
    try:
        return Seconds().check(text, "the time")
    except FieldError as error:
        raise argparse.ArgumentTypeError(error.sentence) from None


def size(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.0f} MB"


def span(seconds: float) -> str:
    """The two units that matter: 45s, 12m 30s, 3h 20m, 2d 4h."""
    whole = max(0, round(seconds))
    for unit, below, names in ((86400, 3600, "dh"), (3600, 60, "hm"), (60, 1, "ms")):
        if whole >= unit:
            rest = whole % unit // below
            return f"{whole // unit}{names[0]}" + (f" {rest}{names[1]}" if rest else "")
    return f"{whole}s"


def ago(moment: float) -> str:
    return span(time.time() - moment)


def ahead(moment: float) -> str:
    return span(moment - time.time())
