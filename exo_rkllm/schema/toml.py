"""TOML in and out: the standard parser, the line that a complaint is about, and a writer."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from exo_rkllm.errors import ExoRkllmError
from exo_rkllm.schema.specs import FieldError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the other branch is covered where the suite runs on 3.10
    import tomli as tomllib

SHORT = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_STRING = r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\''
# What a text is made of, as far as keys and their lines go.
_TOKEN = re.compile(rf"{_STRING}|#[^\n]*|[\[\]{{}}=,.\n]|[ \t\r]+|[^\s\[\]{{}}=,.#\"']+", re.DOTALL)


def parse(text: str, where: str, kind: type[ExoRkllmError], hint: str) -> dict[str, Any]:
    """Raises a `kind` that says where and why the text is no TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise kind(f"{where} is not TOML: {error}.", hint) from None
    except RecursionError:
        raise kind(f"{where} is nested too deeply.", hint) from None


def complaint(error: FieldError, text: str, where: str) -> str:
    """The sentence of an error about a value of `text`, which was read from `where`, with its line."""
    line = line_of(text, re.sub(r"\[\d+\]$", "", error.field))
    return f"{where}, line {line}: {error.clause}" if line else f"{where}: {error.clause}"


def line_of(text: str, path: str) -> int:
    """The line where a key or table stands (`a.b`), or that of the table around it; 0 where there is none."""
    lines: dict[str, int] = {}
    for name, line in _keys(text):
        lines.setdefault(name, line)
    while path not in lines and path:
        path = path.rpartition(".")[0]
    return lines.get(path, 0)


def _keys(text: str) -> Iterator[tuple[str, int]]:
    """Every key and table of a valid text with its line; keys of inline tables are not looked into."""
    table, words, line, depth, in_value = list[str](), list[str](), 1, 0, False
    for match in _TOKEN.finditer(text):
        part, first = match[0], line
        line += part.count("\n")
        if part == "\n" and not (depth and in_value):
            if words:  # the end of a header
                yield from _with_parents((), words, first)
                table = words
            words, depth, in_value = [], 0, False
        elif part in "[{":
            depth += 1
        elif part in "]}":
            depth -= 1
        elif in_value or part[0] in "# \t\r.,\n":
            continue
        elif part == "=":
            yield from _with_parents(table, words, first)
            words, in_value = [], True
        else:
            words.append(part.strip("\"'"))
    yield from _with_parents((), words, line)


def _with_parents(table: Sequence[str], words: Sequence[str], line: int) -> Iterator[tuple[str, int]]:
    """A dotted key or header names the tables around it, too."""
    for length in range(1, len(words) + 1):
        yield ".".join([*table, *words[:length]]), line


def _string(value: str) -> str:
    signs = (SHORT.get(sign) or (sign if sign.isprintable() else _escaped(ord(sign))) for sign in value)
    return '"' + "".join(signs) + '"'


def _escaped(code: int) -> str:
    return f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"


def _key(name: str) -> str:
    return name if BARE.fullmatch(name) else _string(name)


def value_of(value: Any) -> str:
    """One value, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(name)} = {value_of(one)}" for name, one in value.items() if one is not None)
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(value_of(one) for one in value if one is not None) + "]"
    raise TypeError("TOML has no null")


def dumps(values: Mapping[str, Any]) -> str:
    """Plain keys first, then one table for each mapping; nulls are left out, since TOML has none."""
    plain = [
        f"{_key(name)} = {value_of(one)}"
        for name, one in values.items()
        if one is not None and not isinstance(one, Mapping)
    ]
    tables = [
        "\n".join(
            [f"[{_key(name)}]", *(f"{_key(key)} = {value_of(one)}" for key, one in table.items() if one is not None)]
        )
        for name, table in values.items()
        if isinstance(table, Mapping)
    ]
    return "\n\n".join(["\n".join(plain), *tables] if plain else tables) + "\n"
