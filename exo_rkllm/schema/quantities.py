"""Durations and sizes: numbers that may be written with units. One parser for configuration, APIs and command line."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from exo_rkllm.schema.specs import INT64, FieldError, List, Number, Schema, Switch, ValueSpec, Whole, in_range, wrong

# Go's units, as Ollama's clients send them, and days. Two signs look like the Greek letter of microseconds.
DURATIONS: Mapping[str, float] = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400,
}  # fmt: skip
SIZES: Mapping[str, float] = {
    "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}  # fmt: skip
TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
LONGEST = 64
_FIGURE = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_PART = re.compile(rf"({_FIGURE})\s*([a-zA-Zµμ]*)\s*")


def from_text(kind: ValueSpec, text: str) -> Any:
    """What the text of a variable, a flag or a Modelfile means as JSON; `kind.check` then judges it."""
    match kind:
        case Switch():
            return TRUTH.get(text.lower(), text)
        case List():
            return [part.strip() for part in text.split(",") if part.strip()]
        case Whole() | Number():
            with suppress(ValueError):
                return float(text) if isinstance(kind, Number) else int(text)
    return text


def amount(text: str, units: Mapping[str, float]) -> float:
    """The number that a text such as `90`, `1.5h`, `1h30m` or `-1` means; raises ValueError where it means none.

    A figure without a unit stands alone and counts ones.
    """
    sign, rest = re.fullmatch(r"\s*([+-]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]  # always matches
    parts = _PART.findall(rest)
    if len(text) > LONGEST or not parts or _PART.sub("", rest):
        raise ValueError(text[:LONGEST])
    if any(unit not in units for _, unit in parts) and (len(parts) > 1 or parts[0][1]):
        raise ValueError(text)
    total = sum((int(figure) if figure.isdigit() else float(figure)) * units.get(unit, 1) for figure, unit in parts)
    return -total if sign == "-" else total


def _with_unit(value: float, units: Mapping[str, float]) -> float | str:
    """In the largest unit that leaves a whole number."""
    for unit, size in sorted(units.items(), key=lambda pair: -pair[1]):
        if size > 1 and value >= size and value % size == 0:
            return f"{value / size:.0f}{unit}"
    return value


@dataclass(frozen=True, slots=True)
class Seconds:
    """A duration: a number of seconds or a text with units, read as seconds."""

    low: float = -math.inf
    high: float = math.inf

    what: ClassVar[str] = "seconds or a duration such as 90s, 1h30m or 1d"

    def check(self, value: Any, where: str) -> float:
        return in_range(float(_number(value, DURATIONS, self, where)), self.low, self.high, where)

    def written(self, value: float) -> float | str:
        return _with_unit(value, DURATIONS)

    def schema(self) -> Schema:
        return {"anyOf": [Number(self.low, self.high).schema(), {"type": "string", "maxLength": LONGEST}]}


@dataclass(frozen=True, slots=True)
class Bytes:
    """A size: a number of bytes or a text with units, read as bytes."""

    low: int = 0
    high: int = INT64

    what: ClassVar[str] = "bytes or a size such as 256MB or 1GiB"

    def check(self, value: Any, where: str) -> int:
        number = value if isinstance(value, int) and not isinstance(value, bool) else _number(value, SIZES, self, where)
        return in_range(int(number), self.low, self.high, where)

    def written(self, value: int) -> float | str:
        return _with_unit(value, SIZES)

    def schema(self) -> Schema:
        return {"anyOf": [Whole(self.low, self.high).schema(), {"type": "string", "maxLength": LONGEST}]}


def _number(value: Any, units: Mapping[str, float], kind: Seconds | Bytes, where: str) -> float:
    try:
        return amount(value, units) if isinstance(value, str) else Number().check(value, where)
    except (ValueError, FieldError):
        raise wrong(where, kind.what, value) from None


def written(kind: ValueSpec, value: Any) -> Any:
    """A checked value as a file has it."""
    return kind.written(value) if isinstance(kind, Seconds | Bytes) else value
