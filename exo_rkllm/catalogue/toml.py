"""TOML in and out: the standard parser with lines for our own complaints, and a writer for what cards hold."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from exo_rkllm.backends.base import JSON
from exo_rkllm.errors import CardError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the other branch is covered where the suite runs on 3.10
    import tomli as tomllib

SHORT = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def parse(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CardError(
            f"{where} is not TOML: {error}.", "Correct it, or remove the model and import it again."
        ) from None
    except RecursionError:
        raise CardError(
            f"{where} is nested too deeply.", "Correct it, or remove the model and import it again."
        ) from None


def line_of(text: str, table: str, key: str) -> int:
    """The line where a key (or, with an empty key, a table) stands; 0 when it is written in a way not looked for."""
    current = ""
    inside = ""  # the quotes of a multi-line string that the line begins in
    for number, line in enumerate(text.splitlines(), 1):
        if inside:
            inside = "" if inside in line else inside
            continue
        header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line)
        if header:
            current = header[1].replace('"', "").replace("'", "")
            if not key and current == table:
                return number
            continue
        pair = re.match(r"\s*(?:\"([^\"]*)\"|'([^']*)'|([\w.-]+))\s*(\.|=)", line)
        if pair:
            name = next(part for part in pair.groups()[:3] if part is not None)
            full = f"{current}.{name}" if current else name
            if full == (f"{table}.{key}" if table and key else table or key) or (
                not key and full.startswith(table + ".")
            ):
                return number
            for quotes in ('"""', "'''"):
                if line.count(quotes) == 1:
                    inside = quotes
    return 0


def at(where: str, line: int) -> str:
    return f"{where}, line {line}" if line else where


def _string(value: str) -> str:
    signs = (
        SHORT.get(sign) or (f"\\u{ord(sign):04X}" if ord(sign) < 32 or ord(sign) == 0x7F else sign) for sign in value
    )
    return '"' + "".join(signs) + '"'


def _key(name: str) -> str:
    return name if BARE.fullmatch(name) else _string(name)


def _value(value: JSON) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(name)} = {_value(one)}" for name, one in value.items() if one is not None)
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_value(one) for one in value if one is not None) + "]"
    raise TypeError("TOML has no null")


def dumps(values: Mapping[str, JSON]) -> str:
    """Plain keys first, then one table for each mapping; nulls are left out, since TOML has none."""
    plain = [
        f"{_key(name)} = {_value(one)}"
        for name, one in values.items()
        if one is not None and not isinstance(one, Mapping)
    ]
    tables = [
        "\n".join(
            [f"[{_key(name)}]", *(f"{_key(key)} = {_value(one)}" for key, one in table.items() if one is not None)]
        )
        for name, table in values.items()
        if isinstance(table, Mapping)
    ]
    return "\n\n".join(["\n".join(plain), *tables] if plain else tables) + "\n"
