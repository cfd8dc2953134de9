"""The types that a setting may have: how each is written in TOML, in a variable, and in the manual."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Seconds: TypeAlias = float
Bytes: TypeAlias = int

UNITS: Mapping[str, float] = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
SIZES: Mapping[str, int] = {
    "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
}  # fmt: skip
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True, slots=True)
class Kind:
    """`read` takes what TOML gave, `parse` a variable's text (or raise TypeError, ValueError), `write` makes TOML."""

    name: str
    read: Callable[[Any], Any]
    parse: Callable[[str], Any]
    write: Callable[[Any], str]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _truth_of(text: str) -> bool:
    if text.lower() not in TRUE + FALSE:
        raise ValueError
    return text.lower() in TRUE


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(map(_text, value))


def _texts_of(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _measured(value: str, units: Mapping[str, float]) -> float:
    match = re.fullmatch(r"\s*(-?[0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", value)
    if match is None or (match[2] and match[2] not in units):
        raise ValueError
    return float(match[1]) * units.get(match[2], 1)


def _seconds(value: Any) -> float:
    if isinstance(value, str):
        return _measured(value, UNITS)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def _bytes(value: Any) -> int:
    size = int(_measured(value, SIZES)) if isinstance(value, str) else _number(value)
    if size < 0:
        raise ValueError
    return size


def _with_unit(value: float, units: Mapping[str, float]) -> str:
    """In the largest unit that leaves a whole number."""
    for unit, size in sorted(units.items(), key=lambda pair: -pair[1]):
        if size >= 1 and value >= size and value % size == 0:
            return quoted(f"{value / size:.0f}{unit}")
    return repr(value)


def quoted(text: str) -> str:
    """A TOML basic string."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(sign if sign.isprintable() else f"\\U{ord(sign):08X}" for sign in plain) + '"'


# By the annotation in `table`.
KINDS: Mapping[str, Kind] = {
    "str": Kind("text", _text, str, quoted),
    "int": Kind("a whole number", _number, int, str),
    "bool": Kind("true or false", _truth, _truth_of, lambda value: str(value).lower()),
    "tuple[str, ...]": Kind(
        'a list of texts, like ["a", "b"]', _texts, _texts_of, lambda value: f"[{', '.join(map(quoted, value))}]"
    ),
    "Seconds": Kind(
        'seconds, or a text like "90s", "5m" or "1h"',
        _seconds,
        _seconds,
        lambda value: _with_unit(value, UNITS),
    ),
    "Bytes": Kind('bytes, or a text like "256MB" or "1GiB"', _bytes, _bytes, lambda value: _with_unit(value, SIZES)),
}
